//! Harness of the integration, end-to-end, load and failure tests: real servers, real binaries, and
//! an independent signer.
//!
//! # Guarantees
//!
//! - Every process and folder belongs to a value that ends or removes it on drop. If this process
//!   is killed, a guardian process does so.
//! - Servers use free loopback ports. No server is touched that the harness did not start.
//! - Every wait has a deadline, and its failure shows the last state seen.
//! - Functions panic, with the server's log, if a test cannot continue.

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
pub mod reference;
pub mod sender;
pub mod server_process;
pub mod sign;
pub mod stack;
pub mod tcp_proxy;
