//! Everything that two Tributary binaries must agree on.
//!
//! Ingress, worker and `dlq-tool` communicate through Redis only. This crate defines all data that
//! passes through it:
//!
//! - [`platform`]: definitions of the senders
//! - [`signature`]: verification of requests
//! - [`event`]: identity, type and time of an event
//! - [`queue`]: streams, retries, dead letters and the scripts that move entries
//!
//! The crate holds no SQL, and no HTTP routes except the operational ones in [`ops`].

pub mod backoff;
pub mod clock;
pub mod config;
pub mod effects;
pub mod error_code;
pub mod event;
pub mod health_check;
pub mod json;
pub mod metrics;
pub mod ops;
pub mod outbound;
pub mod platform;
pub mod queue;
pub mod registration;
pub mod shutdown;
pub mod signature;
pub mod telemetry;
pub mod trace;
pub mod visible;
