//! Applies planned events to rows of the session database, as pure functions.
//!
//! # Guarantees
//! - Applying is commutative. Any order and any batches of events with distinct order keys end in
//!   the same rows (`five_events_end_in_the_same_row_in_every_order`,
//!   `events_in_any_order_end_in_the_same_rows_on_sqlite`).
//!
//! # Design
//! Each group of columns has a version guard: the [`OrderKey`] of its last writer. Nothing here
//! does I/O or reads a clock.
//!
//! [`plan()`], of the crate `shared`, turns an envelope into a [`PlannedEvent`].
//! [`TransactionRows`] holds the rows of one transaction and applies planned events to them.
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
