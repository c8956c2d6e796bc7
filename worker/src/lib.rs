//! Applies queued webhooks to the session database.
//!
//! # Guarantees
//! - An event takes effect exactly once (`worker_killed_in_mid_batch_loses_nothing`).
//! - An older event never overwrites a newer one (`shuffled_burst_ends_in_the_newest_state`).
//! - An entry is acknowledged only after its event is committed, scheduled for a retry, or a dead
//!   letter (`redis_killed_under_load_loses_no_accepted_event`).
//!
//! See [`consumer`] for the loop and [`store`] for the transaction.

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
