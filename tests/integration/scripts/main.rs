//! Tests of every queue script against a real redis-server.
//!
//! `docs/reference/invariants.md` names the tests that hold each invariant.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]

mod batches;
mod claiming;
mod cluster;
mod connection;
mod dead_letters;
mod destinations;
mod durability;
mod enqueue;
mod fixture;
mod out_of_memory;
mod group;
mod rate_limit;
mod observe;
mod outbound;
mod registrations;
mod retry;
mod settle;
mod sections;
mod unusable;
mod replies;
