//! Tests of the session database, on SQLite and on a real PostgreSQL.
//!
//! # Guarantees
//!
//! - An event takes effect exactly once (`second_delivery_is_known_and_changes_nothing`).
//! - A newer value is never overwritten by an older one, in any order and any split into batches
//!   (`events_in_any_order_end_in_the_same_rows_on_postgres`).
//! - A rejected event leaves no row (`rejected_event_rolls_back_its_batch`).
//! - An outage is not blamed on an event (`missing_table_is_an_outage`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod fixture;

mod announce;
mod assume_new;
mod catalogue;
mod chat;
mod jobs;
mod ledger;
mod live_stream_ids;
mod locked_rows;
mod odd_values;
mod open;
mod ordering;
mod outage;
mod planning;
mod property;
mod scope;
mod shared_transactions;
mod suppressed;
mod viewers;
