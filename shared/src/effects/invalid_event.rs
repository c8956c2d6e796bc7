//! Reasons to refuse an event: dead letter `invalid_event`.

use std::fmt;

use super::warning::ColumnWarningReason;
use crate::json::JsonError;

/// Longest room, live stream, recording, content, job or message id, in bytes: all are index keys.
pub const MAX_KEY_BYTES: usize = 512;

/// Values without which an event means nothing: the closed list of what it is refused for.
/// Any other value that cannot be stored leaves its column alone, and the event takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequiredValue {
    /// The event's own id.
    EventId,
    /// The event's own type.
    EventType,
    /// The event's own time.
    OccurredAt,
    /// The time at which it was queued.
    ReceivedAt,
    /// The session of a status, a number of viewers or an announcement.
    Session,
    /// The session's room id, where nothing else names the session.
    RoomId,
    /// The session's live stream id, where nothing else names the session.
    LiveStreamId,
    /// The id of a recording.
    RecordingId,
    /// The id of a content.
    ContentId,
    /// The id of a job.
    JobId,
    /// The id of a chat message.
    MessageId,
    /// The number of `session.viewers`.
    ViewerCount,
    /// An announcement's `status`.
    AnnouncedStatus,
    /// An announcement's `live_stream_id`.
    AnnouncedStream,
    /// An announcement's `config`.
    AnnouncedConfig,
    /// An announcement's `config.egress.live_stream_id`, which is an index key.
    AnnouncedEgress,
}

impl fmt::Display for RequiredValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EventId => "the event id",
            Self::EventType => "the event type",
            Self::OccurredAt => "the event's time",
            Self::ReceivedAt => "the time of arrival",
            Self::Session => "the session",
            Self::RoomId => "the room id",
            Self::LiveStreamId => "the live stream id",
            Self::RecordingId => "the recording id",
            Self::ContentId => "the content id",
            Self::JobId => "the job id",
            Self::MessageId => "the message id",
            Self::ViewerCount => "the number of viewers",
            Self::AnnouncedStatus => "status",
            Self::AnnouncedStream => "live_stream_id",
            Self::AnnouncedConfig => "config",
            Self::AnnouncedEgress => "config.egress.live_stream_id",
        })
    }
}

/// Reason for which an event can never be applied: dead letter `invalid_event`. Names the value,
/// never what it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEventError {
    /// The body is not the JSON that ingress accepts.
    #[error("the body is not JSON of the accepted form")]
    Body(#[source] JsonError),
    /// No place has the value.
    #[error("{what} is missing")]
    Missing {
        /// The missing or unusable value.
        what: RequiredValue,
    },
    /// A value of another type.
    #[error("{what} is not {expected}")]
    WrongType {
        /// The missing or unusable value.
        what: RequiredValue,
        /// The expected type.
        expected: &'static str,
    },
    /// A key longer than [`MAX_KEY_BYTES`].
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// The missing or unusable value.
        what: RequiredValue,
        /// The bound.
        max: usize,
    },
    /// Databases refuse NUL characters.
    #[error("{what} contains a NUL character")]
    Nul {
        /// The missing or unusable value.
        what: RequiredValue,
    },
    /// A key with a U+FFFD, which may stand for several keys.
    #[error(
        "{what} contains U+FFFD, which may stand for any character: it does not tell two ids apart"
    )]
    ReplacementCharacter {
        /// The missing or unusable value.
        what: RequiredValue,
    },
}

impl InvalidEventError {
    /// The refusal of an id that cannot be used for `reason`.
    pub(super) fn key(what: RequiredValue, reason: ColumnWarningReason) -> Self {
        match reason {
            ColumnWarningReason::TooLong => Self::TooLong { what, max: MAX_KEY_BYTES },
            ColumnWarningReason::NulCharacter => Self::Nul { what },
            ColumnWarningReason::ReplacementCharacter => Self::ReplacementCharacter { what },
            _ => Self::WrongType { what, expected: "a text" },
        }
    }
}
