//! Plans what an event changes, as pure functions: envelope + definition → change.
//!
//! # Guarantees
//! - Nothing here does I/O or reads a clock.
//! - A [`Planned`] event holds only values that both databases store.

mod change;
mod plan;
mod value;

pub use change::{
    Announcement, Change, ChatField, Config, ContentField, InvalidEvent, JobField, MAX_KEY_BYTES, Planned,
    RecordingField, SessionField,
};
pub use plan::plan;
