//! Ingress: takes webhooks, checks that they are genuine, and queues each one once.
//!
//! Guarantee: a 2xx is a promise. It is sent only after Redis confirmed the write (or that it had confirmed it before),
//! and from then on the event cannot get lost. Ingress itself keeps no state: any number of replicas decide alike about
//! duplicates and limits, because Redis does.

mod app;
pub mod check;
pub mod cli;
mod config;
mod connection_close;
mod connections;
mod dispatch;
mod effect_description;
mod error;
mod handlers;
mod log_interval;
mod log_summary;
mod memory_backpressure;
mod openapi;
mod pipeline;
mod redis_gate;
mod routes;
pub mod send_test;
mod server;
mod targets;
#[cfg(test)]
mod testing;
mod tool_platform;
mod upgrade;

pub use app::{RunError, run};
pub use config::Config;
pub use pipeline::identify::{Identified, IdentifyError, identify};
pub use pipeline::preferred_wait;
pub use redis_gate::RedisMismatchError;
