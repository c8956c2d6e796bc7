//! What became of an event, as a worker says it.

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::sessions::SessionStatusDoc;

/// What an event did. What does not apply is null.
#[allow(dead_code, reason = "describes what a worker writes")]
#[derive(ToSchema)]
#[schema(as = Results)]
pub(crate) struct EventResultsDoc {
    /// The event's id.
    event_id: String,
    /// Its type.
    event_type: String,
    /// True.
    processed: bool,
    /// What it came to.
    action: ActionDoc,
    /// The session's room.
    #[schema(required)]
    room_id: Option<String>,
    /// What the session was before.
    #[schema(required)]
    old_status: Option<SessionStatusDoc>,
    /// What it is now.
    #[schema(required)]
    new_status: Option<SessionStatusDoc>,
    /// The live stream's id.
    #[schema(required)]
    live_stream_id: Option<String>,
    /// Six of these once more, for those who look here.
    processing_result: ProcessingResultDoc,
    /// Columns that the event did not set as sent. Left out when there are none.
    #[schema(max_items = 32)]
    warnings: Option<Vec<ColumnWarningDoc>>,
}

/// A column that was left alone, or stored with U+FFFD in place of what databases refuse.
#[allow(dead_code, reason = "describes what a worker writes")]
#[derive(ToSchema)]
#[schema(as = ColumnWarning)]
pub(super) struct ColumnWarningDoc {
    /// The column; of a session's `data`, with the member: `data.change`.
    column: String,
    /// The reason.
    reason: ColumnWarningReasonDoc,
}

/// Reason for which a value is not stored as sent: another type; negative or too large; not a time;
/// an empty text for a number; an id that is too long, or has a NUL character or a U+FFFD; NUL
/// characters that were replaced. `other` is a reason of a later version.
#[allow(dead_code, reason = "describes text")]
#[derive(ToSchema)]
#[schema(as = ColumnWarningReason, rename_all = "snake_case")]
pub(super) enum ColumnWarningReasonDoc {
    WrongType,
    OutOfRange,
    UnreadableTime,
    Empty,
    TooLong,
    NulCharacter,
    ReplacementCharacter,
    ReplacedCharacters,
    Other,
}

/// What an event did.
#[allow(dead_code, reason = "describes what a worker writes")]
#[derive(ToSchema)]
#[schema(as = ProcessingResult)]
pub(super) struct ProcessingResultDoc {
    /// True.
    processed: bool,
    /// What it came to.
    action: ActionDoc,
    /// The session's room.
    #[schema(required)]
    room_id: Option<String>,
    /// What the session was before.
    #[schema(required)]
    old_status: Option<SessionStatusDoc>,
    /// What it is now.
    #[schema(required)]
    new_status: Option<SessionStatusDoc>,
    /// The live stream's id.
    #[schema(required)]
    live_stream_id: Option<String>,
}

/// What an event came to: the session's status changed, or was so already; the event is older than what is stored; another
/// table or column group changed; it was written into the ledger only.
#[allow(dead_code, reason = "describes text")]
#[derive(ToSchema)]
#[schema(as = Action, rename_all = "snake_case")]
pub(super) enum ActionDoc {
    StatusUpdated,
    StatusUnchanged,
    StaleIgnored,
    Recorded,
    Logged,
}

/// What became of an event.
#[allow(dead_code, reason = "describes what a worker writes")]
#[derive(ToSchema)]
#[schema(as = EventState)]
pub(super) struct EventStateDoc {
    /// Where it is.
    state: StateDoc,
    /// What it did, once it is processed.
    results: Option<EventResultsDoc>,
    /// Its id among the dead letters, where it is one.
    dead_letter_id: Option<String>,
}

/// Where an event is.
#[allow(dead_code, reason = "describes text")]
#[derive(ToSchema)]
#[schema(as = State, rename_all = "lowercase")]
pub(super) enum StateDoc {
    Processed,
    Pending,
    Retrying,
    Dead,
}

/// An event that ended a session.
pub(super) fn example() -> Value {
    json!({"event_id": "evt-1", "event_type": "video.live_stream.idle", "processed": true, "action": "status_updated",
        "room_id": "room-1", "old_status": "live", "new_status": "idle", "live_stream_id": "ls-1",
        "processing_result": {"processed": true, "action": "status_updated", "room_id": "room-1",
            "old_status": "live", "new_status": "idle", "live_stream_id": "ls-1"}})
}
