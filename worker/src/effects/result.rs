//! Defines the result of an event, as the ledger stores it and responses show it.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use shared::effects::ColumnWarning;
use shared::platform::SessionStatus;

/// Effect of an event, as in the ledger's `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventAction {
    /// The session's status changed.
    StatusUpdated,
    /// The session had that status already.
    StatusUnchanged,
    /// A newer event had decided already.
    StaleIgnored,
    /// Another table or column group changed.
    Recorded,
    /// The event is in the ledger only.
    Logged,
}

impl EventAction {
    /// Returns its name in the ledger, in responses and in metrics.
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

/// The ledger's column `result`. Absent values are null.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventResult {
    /// Always true: a result exists only for a processed event.
    pub processed: bool,
    /// Effect of the event.
    pub action: EventAction,
    /// Room of the session, or the room that the event names.
    pub room_id: Option<String>,
    /// Status of the session before. Null if the event created the session or touched none.
    #[serde(deserialize_with = "status")]
    pub old_status: Option<SessionStatus>,
    /// Status of the session after.
    #[serde(deserialize_with = "status")]
    pub new_status: Option<SessionStatus>,
    /// Live stream id of the session, or the one that the event names.
    pub live_stream_id: Option<String>,
    /// Id of the event.
    pub event_id: String,
    /// Type of the event.
    pub event_type: String,
    /// Id of the edit that this result belongs to, if an operator has edited the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<String>,
    /// Columns that the event did not set as sent. Absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<ColumnWarning>,
}

#[cfg(test)]
impl EventResult {
    /// Result of an event that changed nothing.
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
    /// Returns the text of the column.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings and a closed enum can always be serialized.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Returns the `results` of a response. `None` cannot happen, since strings and a closed enum
    /// can always be serialized.
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

/// `results` of a response. The fields are repeated in `processing_result`, which existing clients
/// read.
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

/// Outcome of applying one event of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The event took effect in this transaction.
    Done(EventResult),
    /// The ledger had the event already, so nothing changed.
    AlreadyApplied {
        /// True if the ledger row has the same origin: a worker was killed before it settled. False
        /// if another copy took effect.
        same_origin: bool,
        /// Stored result.
        result: EventResult,
    },
    /// The session does not exist yet. The event has no ledger row and no effect.
    MissingSession,
    /// The room belongs to another platform. The event has no ledger row and no effect.
    Conflict,
    /// Another transaction keeps a row locked that the event needs. The event has no ledger row and
    /// no effect.
    RowLocked,
}

impl Applied {
    /// Returns true if the event took effect in this transaction.
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
        let facts = concat!(
            r#""processed":true,"action":"status_updated","room_id":"room_123","#,
            r#""old_status":null,"new_status":"live","live_stream_id":null"#
        );
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
