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
mod group;
mod observe;
mod out_of_memory;
mod outbound;
mod rate_limit;
mod registrations;
mod replies;
mod retry;
mod sections;
mod settle;
mod unusable;
