//! Applies queued webhooks to the session database.
//!
//! Guarantee: an event takes effect exactly once, an older one never overwrites a newer one, and what was read is acked
//! only after it is committed, scheduled again or a dead letter. See [`consumer`] for the loop and [`store`] for the
//! transaction.

pub mod app;
pub mod config;
pub mod consumer;
pub mod context;
pub mod effects;
pub mod forward;
pub mod identity;
pub mod platforms;
pub mod registrations;
pub mod retention;
pub mod retry;
pub mod routes;
mod startup_status;
pub mod store;
pub mod upkeep;
