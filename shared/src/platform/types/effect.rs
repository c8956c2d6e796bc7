//! Defines the effects of event types on the session database.

use super::column::{
    ChatColumn, ContentColumn, ContentState, JobColumn, RecordingColumn, RecordingState,
    SessionColumn, SessionStatus,
};
use super::locator::Pointer;

/// Member of a session's `data`, and the pointers to its value: a text, a number or a boolean.
pub type DataMember = (String, Vec<Pointer>);

/// Effect of an event type, with the settings of the definition. In every list of pointers the
/// first usable value counts. Without a usable value the column stays unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// `session.status`: a status and other columns.
    SessionStatus {
        /// New status.
        status: SessionStatus,
        /// Columns to set.
        set: Vec<(SessionColumn, Vec<Pointer>)>,
        /// Members of the column `data`, for values without their own column. Each has its own
        /// version guard.
        data: Vec<DataMember>,
    },
    /// `session.viewers`: the number of viewers. The status stays unchanged.
    SessionViewers {
        /// Columns to set: `viewer_count` and optionally `peak_viewers`.
        set: Vec<(SessionColumn, Vec<Pointer>)>,
        /// Members of the column `data`.
        data: Vec<DataMember>,
    },
    /// `recording`.
    Recording {
        /// New state.
        state: RecordingState,
        /// Id of the recording.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(RecordingColumn, Vec<Pointer>)>,
    },
    /// `content`.
    Content {
        /// New state.
        state: ContentState,
        /// Id of the content.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(ContentColumn, Vec<Pointer>)>,
    },
    /// `job`.
    Job {
        /// New status.
        status: String,
        /// Id of the job.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(JobColumn, Vec<Pointer>)>,
    },
    /// `chat`: a message. It needs no session and creates none.
    Chat {
        /// Id of the message.
        id: Vec<Pointer>,
        /// Columns to set.
        set: Vec<(ChatColumn, Vec<Pointer>)>,
    },
    /// `session.announce`: the body of `PUT /api/v1/sessions/{room_id}`. Only the reserved platform
    /// has it.
    SessionAnnounce,
    /// `log`: only a ledger row. It is the effect of types without an entry.
    Log,
}

/// An effect, and the location of its session if that differs from [`EventSpec`](super::EventSpec).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectSpec {
    /// The effect.
    pub effect: Effect,
    /// Replaces [`EventSpec::session`](super::EventSpec::session).
    pub session: Option<Vec<Pointer>>,
    /// Replaces [`EventSpec::live_stream_id`](super::EventSpec::live_stream_id).
    pub live_stream_id: Option<Vec<Pointer>>,
}
