//! Plans what an event changes, as pure functions: envelope + definition → change.
//!
//! # Guarantees
//! - An event is refused only for an [`Essential`] value. Any other value that cannot be stored
//!   leaves its column alone, the event takes effect, and a [`Warning`] names the column
//!   (`odd_value_of_a_column_never_refuses_the_event`).
//! - Of several places, the first one whose value can be used counts
//!   (`unusable_first_place_leaves_the_next_one`).
//! - A [`Planned`] event holds only values that both databases store (`odd_values_are_stored`).
//! - Nothing here does I/O or reads a clock.

mod change;
mod columns;
mod json_value;
mod plan;
mod reading;
mod refusal;
mod value;
mod warning;

pub use change::{
    Announcement, Change, ChatField, Config, ContentField, JobField, Planned, RecordingField, SessionField,
};
pub use columns::ShownColumn;
pub use plan::plan;
pub use refusal::{Essential, InvalidEvent, MAX_KEY_BYTES};
pub use warning::{MAX_WARNINGS, Reason, Warning};
