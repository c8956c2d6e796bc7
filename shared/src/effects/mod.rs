//! Plans what an event changes, as pure functions: envelope + definition → change.
//!
//! # Guarantees
//! - An event is refused only for an [`RequiredValue`] value. Any other value that cannot be stored
//!   leaves its column alone, the event takes effect, and a [`ColumnWarning`] names the column
//!   (`odd_value_of_a_column_never_refuses_the_event`).
//! - Of several places, the first one whose value can be used counts
//!   (`unusable_first_place_leaves_the_next_one`).
//! - A [`PlannedEvent`] event holds only values that both databases store (`odd_values_are_stored`).
//! - Nothing here does I/O or reads a clock.

mod change;
mod column_reader;
mod columns;
mod invalid_event;
mod json_value;
mod plan;
mod value;
mod warning;

pub use change::{
    ChatField, ContentField, JobField, PlannedChange, PlannedEvent, RecordingField,
    SessionAnnouncement, SessionConfig, SessionField,
};
pub use columns::DisplayColumn;
pub use invalid_event::{InvalidEventError, MAX_KEY_BYTES, RequiredValue};
pub use plan::plan;
pub use warning::{ColumnWarning, ColumnWarningReason, MAX_WARNINGS};
