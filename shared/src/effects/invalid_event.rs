//! Reasons for which an event becomes a dead letter `invalid_event`.

use std::fmt;

use super::warning::ColumnWarningReason;
use crate::json::JsonError;

/// Longest room, live stream, recording, content, job or message id, in bytes. All are index keys.
pub const MAX_KEY_BYTES: usize = 512;

/// Values without which an event cannot be applied. The list is closed.
///
/// Any other value that cannot be stored keeps its column unchanged, and the event takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequiredValue {
    /// The event's own id.
    EventId,
    /// The event's own type.
    EventType,
    /// The event's own time.
    OccurredAt,
    /// The time at which it was enqueued.
    ReceivedAt,
    /// The session of a status, a viewer count or an announcement.
    Session,
    /// The session's room id, if no live stream id identifies the session.
    RoomId,
    /// The session's live stream id, if no room id identifies the session.
    LiveStreamId,
    /// The id of a recording.
    RecordingId,
    /// The id of a content.
    ContentId,
    /// The id of a job.
    JobId,
    /// The id of a chat message.
    MessageId,
    /// The viewer count of `session.viewers`.
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

/// Reason for which an event can never be applied. Names the value, but does not show it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidEventError {
    /// The body is not the JSON that ingress accepts.
    #[error("the body is not JSON of the accepted form")]
    Body(#[source] JsonError),
    /// The value is missing in all places.
    #[error("{what} is missing")]
    Missing {
        /// The missing or unusable value.
        what: RequiredValue,
    },
    /// The value has another type.
    #[error("{what} is not {expected}")]
    WrongType {
        /// The missing or unusable value.
        what: RequiredValue,
        /// The expected type.
        expected: &'static str,
    },
    /// The id is longer than [`MAX_KEY_BYTES`].
    #[error("{what} is longer than {max} bytes")]
    TooLong {
        /// The missing or unusable value.
        what: RequiredValue,
        /// The longest accepted length.
        max: usize,
    },
    /// The value has a NUL character, which databases refuse.
    #[error("{what} contains a NUL character")]
    Nul {
        /// The missing or unusable value.
        what: RequiredValue,
    },
    /// The id has a U+FFFD, which may stand for several characters.
    #[error("{what} contains U+FFFD, which may stand for any character, so it identifies nothing")]
    ReplacementCharacter {
        /// The missing or unusable value.
        what: RequiredValue,
    },
}

impl InvalidEventError {
    /// Converts the `reason` for which an id is unusable.
    pub(super) fn key(what: RequiredValue, reason: ColumnWarningReason) -> Self {
        match reason {
            ColumnWarningReason::TooLong => Self::TooLong { what, max: MAX_KEY_BYTES },
            ColumnWarningReason::NulCharacter => Self::Nul { what },
            ColumnWarningReason::ReplacementCharacter => Self::ReplacementCharacter { what },
            _ => Self::WrongType { what, expected: "a text" },
        }
    }
}
