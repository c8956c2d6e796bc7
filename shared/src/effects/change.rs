//! The planned form of an event: typed values only, so that applying it cannot fail.

use super::warning::ColumnWarning;
use crate::event::{Millis, OrderKey};
use crate::platform::{
    ChatColumn, ContentState, JobColumn, RecordingState, SessionColumn, SessionStatus,
};

/// An event, checked and ready to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedEvent {
    /// Identity within the platform.
    pub event_id: String,
    /// As the provider names it.
    pub event_type: String,
    /// The provider's time, clamped, or the time of arrival.
    pub occurred_at: Millis,
    /// When ingress queued it.
    pub received_at: Millis,
    /// The execution that this is, from 1.
    pub attempt: u32,
    /// An operator has replayed it from the dead letters.
    pub replayed: bool,
    /// See [`crate::event::Envelope::edited`].
    pub edited: Option<String>,
    /// Orders it among all events of its session; holds the origin.
    pub order: OrderKey,
    /// The room id that the body names.
    pub room: Option<String>,
    /// The live stream id that the body names; tried when no session has the room id and the platform does not create
    /// its sessions.
    pub live_stream_id: Option<String>,
    /// What it does.
    pub change: PlannedChange,
    /// Columns that it does not set as sent; at most [`MAX_WARNINGS`](super::MAX_WARNINGS).
    pub warnings: Vec<ColumnWarning>,
}

/// What an event does.
#[derive(Clone, Debug, PartialEq)]
pub enum PlannedChange {
    /// A session's status, and columns beside it.
    Status {
        /// The new status.
        status: SessionStatus,
        /// Columns to set; absent ones are left alone.
        set: Vec<SessionField>,
    },
    /// How many watch a session, and columns beside it.
    Viewers {
        /// Columns to set.
        set: Vec<SessionField>,
    },
    /// An application's announcement of a session.
    Announce(SessionAnnouncement),
    /// A recording.
    Recording {
        /// Its id within the platform.
        id: String,
        /// Its new state.
        state: RecordingState,
        /// Columns to set.
        set: Vec<RecordingField>,
    },
    /// A content.
    Content {
        /// Its id within the platform.
        id: String,
        /// Its new state.
        state: ContentState,
        /// Columns to set.
        set: Vec<ContentField>,
    },
    /// A job.
    Job {
        /// Its id within the platform.
        id: String,
        /// Its new status.
        status: String,
        /// Columns to set.
        set: Vec<JobField>,
    },
    /// A chat message.
    Chat {
        /// Its id within the platform.
        id: String,
        /// Columns to set.
        set: Vec<ChatField>,
    },
    /// A ledger row and nothing else.
    Log,
}

/// The body of `PUT /api/v1/sessions/{room_id}`; absent fields are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionAnnouncement {
    /// The provider's id of the stream.
    pub live_stream_id: Option<String>,
    /// A status; `ready` only initialises.
    pub status: Option<SessionStatus>,
    /// Replaces the configuration whole.
    pub config: Option<SessionConfig>,
}

/// A session's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionConfig {
    /// JSON, as given.
    pub json: String,
    /// Its `egress.live_stream_id`, by which events find the session too.
    pub live_stream_id: Option<String>,
}

/// A session column with its value; `None` is a number that the sender does not know.
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

/// A recording column with its value; `None` is a number that the sender does not know.
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

/// A job column with its value; `None` empties it. An explicit null does, and a number that the
/// sender does not know.
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

/// A chat message's column with its value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum ChatField {
    UserId(String),
    UserName(String),
    Message(String),
    SentAt(Millis),
}

impl SessionField {
    /// The column that it is a value of, all of it.
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
    /// The column that it is a value of.
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
    /// The column that it is a value of.
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
