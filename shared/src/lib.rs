//! What two Tributary binaries must agree on.
//!
//! Ingress, worker and dlq-tool meet in Redis only, so everything that crosses it is defined here, once: what a
//! platform is ([`platform`]), what makes a request genuine ([`signature`]), what an event is ([`event`]) and how it
//! is queued ([`queue`]). There is no SQL here and no HTTP route but the operational ones ([`ops`]).

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
