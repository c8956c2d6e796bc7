//! What became of an event, as the ledger keeps it and as answers show it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use shared::effects::ColumnWarning;
use shared::platform::SessionStatus;

/// What an event did, as in the ledger's `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventAction {
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

impl EventAction {
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

impl fmt::Display for EventAction {
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
    pub action: EventAction,
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
    /// Which edit of its body this is the result of, if an operator has edited it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<String>,
    /// Columns that the event did not set as sent; absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<ColumnWarning>,
}

#[cfg(test)]
impl EventResult {
    /// Of an event that changed nothing.
    pub(crate) fn logged(event_id: &str) -> Self {
        Self {
            processed: true,
            action: EventAction::Logged,
            room_id: None,
            old_status: None,
            new_status: None,
            live_stream_id: None,
            event_id: event_id.to_owned(),
            event_type: "t".to_owned(),
            edited: None,
            warnings: Vec::new(),
        }
    }
}

impl EventResult {
    /// The column's text.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and a closed enum: there is nothing that cannot be written.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// What answers show as `results`. `None`: it cannot be written, which strings and a closed enum always can.
    #[must_use]
    pub fn to_results(&self) -> Option<Box<RawValue>> {
        let facts = ResultFields {
            processed: self.processed,
            action: self.action,
            room_id: self.room_id.as_deref(),
            old_status: self.old_status,
            new_status: self.new_status,
            live_stream_id: self.live_stream_id.as_deref(),
        };
        let results = ResultsBody {
            event_id: &self.event_id,
            event_type: &self.event_type,
            facts: &facts,
            processing_result: &facts,
            warnings: &self.warnings,
        };
        serde_json::value::to_raw_value(&results).ok()
    }
}

/// `results` of an answer: everything at its top, and once more below, for those who look there.
#[derive(Serialize)]
struct ResultsBody<'a> {
    event_id: &'a str,
    event_type: &'a str,
    #[serde(flatten)]
    facts: &'a ResultFields<'a>,
    processing_result: &'a ResultFields<'a>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    warnings: &'a [ColumnWarning],
}

#[derive(Serialize)]
struct ResultFields<'a> {
    processed: bool,
    action: EventAction,
    room_id: Option<&'a str>,
    old_status: Option<SessionStatus>,
    new_status: Option<SessionStatus>,
    live_stream_id: Option<&'a str>,
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
    AlreadyApplied {
        /// Whether it is the very event that was committed (killed before settling), not another copy.
        same_origin: bool,
        /// What it did then.
        result: EventResult,
    },
    /// Its session does not exist (yet). No ledger row, no effect.
    MissingSession,
    /// Its room belongs to another platform. No ledger row, no effect.
    Conflict,
    /// Somebody else keeps a row locked that it needs. No ledger row, no effect.
    RowLocked,
}

impl Applied {
    /// Whether it took effect in this very transaction.
    #[must_use]
    pub const fn took_effect(&self) -> bool {
        matches!(self, Self::Done(_))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use shared::effects::ColumnWarningReason;

    use super::*;

    #[test]
    fn results_repeat_their_fields_and_keep_nulls() {
        let mut result = EventResult {
            processed: true,
            action: EventAction::StatusUpdated,
            room_id: Some("room_123".into()),
            old_status: None,
            new_status: Some(SessionStatus::Live),
            live_stream_id: None,
            event_id: "e".into(),
            event_type: "t".into(),
            edited: None,
            warnings: Vec::new(),
        };
        let facts = r#""processed":true,"action":"status_updated","room_id":"room_123","old_status":null,"new_status":"live","live_stream_id":null"#;
        let expected = format!(
            r#"{{"event_id":"e","event_type":"t",{facts},"processing_result":{{{facts}}}}}"#
        );
        assert_eq!(result.to_results().unwrap().get(), expected);
        result.warnings =
            vec![ColumnWarning { column: "title".into(), reason: ColumnWarningReason::WrongType }];
        let expected = format!(
            "{},{}}}",
            expected.strip_suffix('}').unwrap(),
            r#""warnings":[{"column":"title","reason":"wrong_type"}]"#
        );
        assert_eq!(result.to_results().unwrap().get(), expected);
        assert_eq!(serde_json::from_str::<EventResult>(&result.to_json()).unwrap(), result);
    }
}
