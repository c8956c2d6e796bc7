//! Schemas of event results, which a worker writes.

use serde_json::{Value, json};
use utoipa::ToSchema;

use super::sessions::SessionStatusDoc;

/// Result of an event. Members that do not apply are null.
#[allow(dead_code, reason = "documents JSON that a worker writes")]
#[derive(ToSchema)]
#[schema(as = Results)]
pub(crate) struct EventResultsDoc {
    /// Id of the event.
    event_id: String,
    /// Type of the event.
    event_type: String,
    /// True.
    processed: bool,
    /// Action of the event.
    action: ActionDoc,
    /// Room of the session.
    #[schema(required)]
    room_id: Option<String>,
    /// Status of the session before the event.
    #[schema(required)]
    old_status: Option<SessionStatusDoc>,
    /// Status of the session after the event.
    #[schema(required)]
    new_status: Option<SessionStatusDoc>,
    /// Live stream id.
    #[schema(required)]
    live_stream_id: Option<String>,
    /// Six of these members again, for compatibility.
    processing_result: ProcessingResultDoc,
    /// Columns that the event did not set as sent. Absent if there are none.
    #[schema(max_items = 32)]
    warnings: Option<Vec<ColumnWarningDoc>>,
}

/// Column that was left alone, or stored with U+FFFD in place of characters that databases refuse.
#[allow(dead_code, reason = "documents JSON that a worker writes")]
#[derive(ToSchema)]
#[schema(as = ColumnWarning)]
pub(super) struct ColumnWarningDoc {
    /// Name of the column. A member of a session's `data` is included: `data.change`.
    column: String,
    /// Reason of the warning.
    reason: ColumnWarningReasonDoc,
}

/// Reason for which a value is not stored as sent: another type; negative or too large; not a time;
/// an empty text for a number; an id that is too long, or has a NUL character or a U+FFFD; replaced
/// NUL characters. `other` is a reason of a later version.
#[allow(dead_code, reason = "documents a string")]
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

/// Result of an event.
#[allow(dead_code, reason = "documents JSON that a worker writes")]
#[derive(ToSchema)]
#[schema(as = ProcessingResult)]
pub(super) struct ProcessingResultDoc {
    /// True.
    processed: bool,
    /// Action of the event.
    action: ActionDoc,
    /// Room of the session.
    #[schema(required)]
    room_id: Option<String>,
    /// Status of the session before the event.
    #[schema(required)]
    old_status: Option<SessionStatusDoc>,
    /// Status of the session after the event.
    #[schema(required)]
    new_status: Option<SessionStatusDoc>,
    /// Live stream id.
    #[schema(required)]
    live_stream_id: Option<String>,
}

/// Action of an event: the status changed; the status was the same already; the event is older than
/// the stored state; another table or column group changed; only the ledger has it.
#[allow(dead_code, reason = "documents a string")]
#[derive(ToSchema)]
#[schema(as = Action, rename_all = "snake_case")]
pub(super) enum ActionDoc {
    StatusUpdated,
    StatusUnchanged,
    StaleIgnored,
    Recorded,
    Logged,
}

/// State of an event.
#[allow(dead_code, reason = "documents JSON that a worker writes")]
#[derive(ToSchema)]
#[schema(as = EventState)]
pub(super) struct EventStateDoc {
    /// State.
    state: StateDoc,
    /// Result, once the event is processed.
    results: Option<EventResultsDoc>,
    /// Id of the dead letter, if it is one.
    dead_letter_id: Option<String>,
}

/// State of an event.
#[allow(dead_code, reason = "documents a string")]
#[derive(ToSchema)]
#[schema(as = State, rename_all = "lowercase")]
pub(super) enum StateDoc {
    Processed,
    Pending,
    Retrying,
    Dead,
}

/// Result of an event that ended a session.
pub(super) fn example() -> Value {
    json!({"event_id": "evt-1", "event_type": "video.live_stream.idle", "processed": true,
        "action": "status_updated",
        "room_id": "room-1", "old_status": "live", "new_status": "idle", "live_stream_id": "ls-1",
        "processing_result": {"processed": true, "action": "status_updated", "room_id": "room-1",
            "old_status": "live", "new_status": "idle", "live_stream_id": "ls-1"}})
}
