//! Plans the changes of an event from its envelope and its platform's definition.
//!
//! # Guarantees
//!
//! - An event is refused only for a [`RequiredValue`]. Any other value that cannot be stored keeps
//!   its column unchanged. The event takes effect, and a [`ColumnWarning`] names the column
//!   (`odd_value_of_a_column_never_refuses_the_event`).
//! - If a definition names several places for a value, the first usable one counts
//!   (`unusable_first_place_leaves_the_next_one`).
//! - A [`PlannedEvent`] holds only values that both databases store (`odd_values_are_stored`).
//! - The functions are pure: they do no I/O and read no clock.

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
