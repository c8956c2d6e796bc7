//! The planned form of an event. Its values are typed, so applying it cannot fail on a value.

use super::warning::ColumnWarning;
use crate::event::{Millis, OrderKey};
use crate::platform::{
    ChatColumn, ContentState, JobColumn, RecordingState, SessionColumn, SessionStatus,
};

/// An event that is validated and ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedEvent {
    /// Id of the event within its platform.
    pub event_id: String,
    /// Event type, as the provider names it.
    pub event_type: String,
    /// The provider's time, clamped, or the time of arrival.
    pub occurred_at: Millis,
    /// Time at which ingress enqueued the event.
    pub received_at: Millis,
    /// Number of this execution, from 1.
    pub attempt: u32,
    /// True if an operator replayed it from the dead letters.
    pub replayed: bool,
    /// See [`crate::event::Envelope::edited`].
    pub edited: Option<String>,
    /// Position among all events of the session. Holds the origin.
    pub order: OrderKey,
    /// Room id in the body.
    pub room: Option<String>,
    /// Live stream id in the body. It identifies the session if no session has the room id and the
    /// platform does not create its sessions.
    pub live_stream_id: Option<String>,
    /// Change that the event makes.
    pub change: PlannedChange,
    /// Columns that are not stored as sent, at most [`MAX_WARNINGS`](super::MAX_WARNINGS).
    pub warnings: Vec<ColumnWarning>,
}

/// Change that an event makes.
#[derive(Clone, Debug, PartialEq)]
pub enum PlannedChange {
    /// Sets a session's status, and further columns.
    Status {
        /// The new status.
        status: SessionStatus,
        /// Columns to set. Others keep their values.
        set: Vec<SessionField>,
    },
    /// Sets a session's viewer count, and further columns.
    Viewers {
        /// Columns to set.
        set: Vec<SessionField>,
    },
    /// Applies an application's announcement of a session.
    Announce(SessionAnnouncement),
    /// Sets a recording's state.
    Recording {
        /// Id of the recording within the platform.
        id: String,
        /// The new state.
        state: RecordingState,
        /// Columns to set.
        set: Vec<RecordingField>,
    },
    /// Sets a content's state.
    Content {
        /// Id of the content within the platform.
        id: String,
        /// The new state.
        state: ContentState,
        /// Columns to set.
        set: Vec<ContentField>,
    },
    /// Sets a job's status.
    Job {
        /// Id of the job within the platform.
        id: String,
        /// The new status.
        status: String,
        /// Columns to set.
        set: Vec<JobField>,
    },
    /// Stores a chat message.
    Chat {
        /// Id of the message within the platform.
        id: String,
        /// Columns to set.
        set: Vec<ChatField>,
    },
    /// Adds a ledger row and nothing else.
    Log,
}

/// The body of `PUT /api/v1/sessions/{room_id}`. Absent fields keep their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionAnnouncement {
    /// The provider's id of the stream.
    pub live_stream_id: Option<String>,
    /// The status. `ready` applies to a new session only.
    pub status: Option<SessionStatus>,
    /// The configuration, which replaces the stored one.
    pub config: Option<SessionConfig>,
}

/// A session's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// The configuration as JSON, as given.
    pub json: String,
    /// Its `egress.live_stream_id`, by which events also find the session.
    pub live_stream_id: Option<String>,
}

/// A session column with its value. `None` is a number that is unknown to the sender.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum SessionField {
    Title(String),
    StreamerId(String),
    AppId(String),
    ViewerCount(Option<i64>),
    PeakViewers(Option<i64>),
    DurationSeconds(Option<f64>),
    ErrorCode(String),
    ErrorMessage(String),
    StartedAt(Millis),
    EndedAt(Millis),
    /// A member of `data`, with its value as JSON.
    Data {
        name: String,
        json: String,
    },
}

/// A recording column with its value. `None` is a number that is unknown to the sender.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum RecordingField {
    Url(String),
    DurationSeconds(Option<f64>),
    SizeBytes(Option<i64>),
}

/// A content column with its value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum ContentField {
    Title(String),
    ContentType(String),
    Data(String),
}

/// A job column with its value.
///
/// `None` empties the column. It stands for an explicit null, or for a number that is unknown to
/// the sender.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum JobField {
    Progress(Option<f64>),
    CurrentStep(Option<String>),
    VideoUrl(Option<String>),
    Error(Option<String>),
    RetryCount(Option<i64>),
    Data(String),
}

/// A chat message column with its value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum ChatField {
    UserId(String),
    UserName(String),
    Message(String),
    SentAt(Millis),
}

impl SessionField {
    /// Column of this value. `None` for a member of `data`.
    #[must_use]
    pub fn column(&self) -> Option<SessionColumn> {
        Some(match self {
            Self::Data { .. } => return None,
            Self::ViewerCount(_) => SessionColumn::ViewerCount,
            Self::Title(_) => SessionColumn::Title,
            Self::StreamerId(_) => SessionColumn::StreamerId,
            Self::AppId(_) => SessionColumn::AppId,
            Self::PeakViewers(_) => SessionColumn::PeakViewers,
            Self::DurationSeconds(_) => SessionColumn::DurationSeconds,
            Self::ErrorCode(_) => SessionColumn::ErrorCode,
            Self::ErrorMessage(_) => SessionColumn::ErrorMessage,
            Self::StartedAt(_) => SessionColumn::StartedAt,
            Self::EndedAt(_) => SessionColumn::EndedAt,
        })
    }
}

impl JobField {
    /// Column of this value.
    #[must_use]
    pub fn column(&self) -> JobColumn {
        match self {
            Self::Progress(_) => JobColumn::Progress,
            Self::CurrentStep(_) => JobColumn::CurrentStep,
            Self::VideoUrl(_) => JobColumn::VideoUrl,
            Self::Error(_) => JobColumn::Error,
            Self::RetryCount(_) => JobColumn::RetryCount,
            Self::Data(_) => JobColumn::Data,
        }
    }
}

impl ChatField {
    /// Column of this value.
    #[must_use]
    pub fn column(&self) -> ChatColumn {
        match self {
            Self::UserId(_) => ChatColumn::UserId,
            Self::UserName(_) => ChatColumn::UserName,
            Self::Message(_) => ChatColumn::Message,
            Self::SentAt(_) => ChatColumn::SentAt,
        }
    }
}
