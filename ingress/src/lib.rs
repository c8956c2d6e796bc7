//! Receives webhooks, verifies them, and queues each event once in Redis.
//!
//! # Guarantees
//!
//! - Ingress answers 2xx only after Redis confirmed the write, now or for the first copy of the
//!   event. (`redis_killed_under_load_loses_no_accepted_event`)
//!
//! # Design
//!
//! Ingress keeps no state that a decision depends on. Redis decides about duplicates and limits, so
//! any number of replicas may run.

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
pub use error::codes::{ANSWER_CODES, AnswerCode};
pub use pipeline::identify::{Identified, IdentifyError, identify};
pub use pipeline::preferred_wait;
pub use redis_gate::RedisMismatchError;
