//! The session database, on SQLite and on a real PostgreSQL: one suite, both must pass it.
//!
//! Proves: an event takes effect exactly once; old never beats new, in any order and any split into batches; what cannot
//! be applied leaves nothing, in whichever company; an outage is told apart from a fault of the event.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod fixture;

mod announce;
mod assume_new;
mod catalogue;
mod chat;
mod locked_rows;
mod jobs;
mod ledger;
mod live_stream_ids;
mod odd_values;
mod open;
mod ordering;
mod outage;
mod planning;
mod property;
mod scope;
mod suppressed;
mod shared_transactions;
mod viewers;
