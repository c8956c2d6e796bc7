//! Every script of the queue, on a real redis-server: what each promises, and the rule that a careless change would break.

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
mod full;
mod group;
mod limit;
mod observe;
mod outbound;
mod registrations;
mod retry;
mod settle;
mod shares;
mod unusable;
mod waiting;
