//! What became of an event, as the ledger keeps it and as answers show it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use shared::platform::SessionStatus;

/// What an event did, as in the ledger's `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The session's status changed.
    StatusUpdated,
    /// It already had that status.
    StatusUnchanged,
    /// A newer event has decided already.
    StaleIgnored,
    /// Another table or column group changed.
    Recorded,
    /// Ledger only.
    Logged,
}

impl Action {
    /// Its name in the ledger, in answers and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::StatusUpdated => "status_updated",
            Self::StatusUnchanged => "status_unchanged",
            Self::StaleIgnored => "stale_ignored",
            Self::Recorded => "recorded",
            Self::Logged => "logged",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The ledger row's `result`. Absent values are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventResult {
    /// Always true: a result exists only for a processed event.
    pub processed: bool,
    /// What it did.
    pub action: Action,
    /// The session's room, or the room that the event names.
    pub room_id: Option<String>,
    /// The session's status before; null where the event created the session or touched none.
    #[serde(deserialize_with = "status")]
    pub old_status: Option<SessionStatus>,
    /// The session's status after.
    #[serde(deserialize_with = "status")]
    pub new_status: Option<SessionStatus>,
    /// The session's live stream id, or the one that the event names.
    pub live_stream_id: Option<String>,
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub event_type: String,
}

impl EventResult {
    /// The column's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and a closed enum: there is nothing that cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SessionStatus>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

/// What became of one event of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It took effect in this transaction.
    Done(EventResult),
    /// The ledger had it already; it changed nothing now.
    Known {
        /// Whether it is the very event that was committed (killed before settling), not another copy.
        same_origin: bool,
        /// What it did then.
        result: EventResult,
    },
    /// Its session does not exist (yet). No ledger row, no effect.
    MissingSession,
    /// Its room belongs to another platform. No ledger row, no effect.
    Conflict,
}
