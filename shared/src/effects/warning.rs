//! Warnings about columns that are not stored as sent.
//!
//! # Guarantees
//!
//! - A warning holds names, but no value of the body.
//! - [`ColumnWarning::label`] and [`ColumnWarningReason`] come from closed sets, so both can be
//!   labels of a metric (`warning_label_is_a_column_that_definitions_know`).

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::platform::{ChatColumn, ContentColumn, JobColumn, RecordingColumn, SessionColumn};

/// Most warnings that are kept for one event.
pub const MAX_WARNINGS: usize = 32;

/// Column for a session's room id.
pub(super) const ROOM_ID: &str = "room_id";
/// Column for a live stream id.
pub(super) const LIVE_STREAM_ID: &str = "live_stream_id";
/// Column for members without their own column.
const DATA: &str = "data";

/// Reason for which a value is not stored as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnWarningReason {
    /// The value has another type than the column, and cannot be converted.
    WrongType,
    /// The number is negative, or larger than the column holds.
    OutOfRange,
    /// The text or number is not a time.
    UnreadableTime,
    /// The text is empty where a number is expected.
    Empty,
    /// The id is longer than [`MAX_KEY_BYTES`](super::MAX_KEY_BYTES).
    TooLong,
    /// The id has a NUL character.
    NulCharacter,
    /// The id has a U+FFFD, which may stand for several characters.
    ReplacementCharacter,
    /// The text had NUL characters. It is stored with U+FFFD in their place.
    ReplacedCharacters,
    /// A reason of a later release, read from the ledger.
    #[serde(other)]
    Other,
}

impl ColumnWarningReason {
    /// Name of the reason in results, log lines and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WrongType => "wrong_type",
            Self::OutOfRange => "out_of_range",
            Self::UnreadableTime => "unreadable_time",
            Self::Empty => "empty",
            Self::TooLong => "too_long",
            Self::NulCharacter => "nul_character",
            Self::ReplacementCharacter => "replacement_character",
            Self::ReplacedCharacters => "replaced_characters",
            Self::Other => "other",
        }
    }

    /// All reasons of this release, in order.
    pub const ALL: &'static [Self] = &[
        Self::WrongType,
        Self::OutOfRange,
        Self::UnreadableTime,
        Self::Empty,
        Self::TooLong,
        Self::NulCharacter,
        Self::ReplacementCharacter,
        Self::ReplacedCharacters,
    ];

    /// Description of the value that the reason is about: it continues "The value is".
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::WrongType => "of another type, or not readable as a number",
            Self::OutOfRange => "negative, or larger than the column holds",
            Self::UnreadableTime => "not a time",
            Self::Empty => "an empty text where a number is expected",
            Self::TooLong => "an id of more than 512 bytes",
            Self::NulCharacter => "an id with a NUL character",
            Self::ReplacementCharacter => "an id with a U+FFFD, which may stand for several ids",
            Self::ReplacedCharacters => "stored, with U+FFFD for its NUL characters",
            Self::Other => "described by a later release",
        }
    }
}

impl fmt::Display for ColumnWarningReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A column that kept its value, or is stored with replaced characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnWarning {
    /// Name of the column in definitions. For a member of a session's `data`: `data.change`.
    pub column: Cow<'static, str>,
    /// The reason.
    pub reason: ColumnWarningReason,
}

impl ColumnWarning {
    /// Name of the column without the member.
    #[must_use]
    pub fn label(&self) -> &'static str {
        columns().find(|column| *column == self.column).unwrap_or(DATA)
    }
}

impl fmt::Display for ColumnWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.column, self.reason)
    }
}

/// All columns that a warning can name.
fn columns() -> impl Iterator<Item = &'static str> {
    let sessions = SessionColumn::ALL.iter().map(|column| column.as_str());
    let recordings = RecordingColumn::ALL.iter().map(|column| column.as_str());
    let contents = ContentColumn::ALL.iter().map(|column| column.as_str());
    let jobs = JobColumn::ALL.iter().map(|column| column.as_str());
    let chats = ChatColumn::ALL.iter().map(|column| column.as_str());
    let ids = [ROOM_ID, LIVE_STREAM_ID].into_iter();
    sessions.chain(recordings).chain(contents).chain(jobs).chain(chats).chain(ids)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn warning_label_is_a_column_that_definitions_know() {
        let label = |column: &str| {
            let column = Cow::Owned(column.to_owned());
            ColumnWarning { column, reason: ColumnWarningReason::WrongType }.label()
        };
        assert_eq!(label("peak_viewers"), "peak_viewers");
        assert_eq!(label("room_id"), "room_id");
        assert_eq!(label("data.change"), "data");
        assert_eq!(label("from a later version"), "data");
    }

    #[test]
    fn warning_of_a_later_version_can_be_read_back() {
        let warning: ColumnWarning =
            serde_json::from_str(r#"{"column": "x", "reason": "unheard_of", "more": 1}"#).unwrap();
        assert_eq!(warning.reason, ColumnWarningReason::Other);
        let text = serde_json::to_string(&ColumnWarning {
            column: "title".into(),
            reason: ColumnWarningReason::TooLong,
        });
        assert_eq!(text.unwrap(), r#"{"column":"title","reason":"too_long"}"#);
    }
}
