//! Applies planned events to rows of the session database, as pure functions.
//!
//! Guarantee: applying is commutative. Every column is a last-writer register keyed by the event's [`OrderKey`], so
//! any order of delivery, and any split into batches, of events with distinct keys ends in the same rows. Nothing here
//! does I/O or reads a clock.
//!
//! [`plan()`], of the crate `shared`, turns an envelope into a [`PlannedEvent`] event. [`TransactionRows`] holds the
//! rows of one transaction and applies planned events to them, one after the other.
//!
//! [`OrderKey`]: shared::event::OrderKey

mod chat;
mod content;
mod guards;
mod job;
mod recording;
mod result;
mod rows;
mod session;

pub use chat::ChatRow;
pub use content::ContentRow;
pub use guards::VersionGuards;
pub use job::JobRow;
pub use recording::RecordingRow;
pub use result::{Applied, EventAction, EventResult};
pub use rows::{RowKeys, TrackedRow, TransactionRows};
pub use session::{Reach, SessionRow, WrittenColumns, bit};
pub use shared::effects::{
    ChatField, ColumnWarning, ColumnWarningReason, ContentField, InvalidEventError, JobField,
    MAX_KEY_BYTES, PlannedChange, PlannedEvent, RecordingField, RequiredValue, SessionAnnouncement,
    SessionConfig, SessionField, plan,
};

#[cfg(test)]
mod tests;
