//! Harness of the integration, end-to-end, load and failure tests: real servers, real binaries, an independent signer.
//!
//! Guarantee: whatever is started here is stopped again. Every process and folder belongs to a value that ends it when
//! dropped, and a guardian outside this process ends what is left when this process is killed. Ports are free ones on
//! the loopback interface; no server is touched that was not started here. Every wait has a deadline and says what it
//! saw last. Functions panic, with the server's log, where a test could not go on anyway.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

pub mod admin;
pub mod binaries;
pub mod cluster;
pub mod collector;
pub mod database;
pub mod downstream;
pub mod fixtures;
pub mod generator;
pub mod ledger;
pub mod model;
pub mod odd_values;
pub mod pending_entries;
pub mod poll;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod redis;
pub mod sender;
pub mod server_process;
pub mod sign;
pub mod stack;
pub mod tcp_proxy;
