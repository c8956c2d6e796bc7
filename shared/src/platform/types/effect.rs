//! What an event type does to the session database.

use super::column::{
    ChatColumn, ContentColumn, ContentState, JobColumn, RecordingColumn, RecordingState,
    SessionColumn, SessionStatus,
};
use super::locator::Pointer;

/// A member of a session's `data` and where its value is found: a text, a number or a truth value.
pub type DataMember = (String, Vec<Pointer>);

/// Effect of an event type: a closed set, fed by the definition. In every list of pointers the
/// first usable value counts; without one the column is left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `session.status`: a status, and columns beside it.
    SessionStatus {
        /// The new status.
        status: SessionStatus,
        /// Columns to set.
        set: Vec<(SessionColumn, Vec<Pointer>)>,
        /// Members of the column `data`, for what has no column of its own; each is its own register, too.
        data: Vec<DataMember>,
    },
    /// `session.viewers`: how many watch. The status stays as it is.
    SessionViewers {
        /// Columns to set: `viewer_count`, always, and perhaps `peak_viewers`.
        set: Vec<(SessionColumn, Vec<Pointer>)>,
        /// As beside a status.
        data: Vec<DataMember>,
    },
    /// `recording`.
    Recording {
        /// The new state.
        state: RecordingState,
        /// The recording's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(RecordingColumn, Vec<Pointer>)>,
    },
    /// `content`.
    Content {
        /// The new state.
        state: ContentState,
        /// The content's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(ContentColumn, Vec<Pointer>)>,
    },
    /// `job`.
    Job {
        /// The new status.
        status: String,
        /// The job's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(JobColumn, Vec<Pointer>)>,
    },
    /// `chat`: a message. It needs no session, and makes none.
    Chat {
        /// The message's id.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(ChatColumn, Vec<Pointer>)>,
    },
    /// `session.announce`: the body of `PUT /api/v1/sessions/{room_id}`; only the reserved platform has it.
    SessionAnnounce,
    /// `log`: a ledger row and nothing else. Types without an entry do this.
    Log,
}

/// An effect and where its session is found, when that differs from [`EventSpec`](super::EventSpec).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectSpec {
    /// What it does.
    pub effect: Effect,
    /// Instead of [`EventSpec::session`](super::EventSpec::session).
    pub session: Option<Vec<Pointer>>,
    /// Instead of [`EventSpec::live_stream_id`](super::EventSpec::live_stream_id).
    pub live_stream_id: Option<Vec<Pointer>>,
}
