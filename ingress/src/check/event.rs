//! Reports an event, and the changes that a worker would make for it.

use serde::Serialize;
use shared::clock;
use shared::effects::{self, ColumnWarning, PlannedEvent};
use shared::event::{EventTime, Millis, NewEvent, StreamId};
use shared::json::{self, Document};
use shared::platform::{EffectSpec, Locator, Platform, Pointer};
use shared::queue::{StreamEntry, decode, encode};
use shared::signature::Verified;

use crate::effect_description::describe_effect;

/// Bound on a printed column value, in characters.
const MAX_SHOWN: usize = 120;

#[derive(Debug, Serialize)]
pub(super) struct EventReport {
    pub(super) event_id: String,
    /// `provider`, `content hash` or, in a batch, `message id and position`.
    pub(super) id_from: &'static str,
    pub(super) event_type: String,
    pub(super) occurred_at: Option<String>,
    /// True if the event has a time that cannot be read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) time_unreadable: bool,
    /// Time of arrival, if `occurred_at` is too far ahead of it and does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ordered_by: Option<String>,
    pub(super) session: Option<String>,
    pub(super) live_stream_id: Option<String>,
    pub(super) delivery_id: Option<String>,
    /// True if the definition subscribes to the type.
    pub(super) subscribed: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct EffectReport {
    pub(super) effect: &'static str,
    /// Reason for which ingress does not queue it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_queued: Option<&'static str>,
    /// Reason for which a worker would dead-letter it as `invalid_event`.
    pub(super) refusal: Option<String>,
    /// True if it waits for its session.
    pub(super) needs_session: bool,
    pub(super) columns: Vec<ColumnReport>,
    /// Columns that are not set as sent.
    pub(super) warnings: Vec<ColumnWarning>,
}

#[derive(Debug, Serialize)]
pub(super) struct ColumnReport {
    pub(super) column: String,
    /// Value as JSON; absent: the column is left alone.
    pub(super) value: Option<String>,
    /// Pointers of the column; absent if the definition has the value.
    pub(super) from: Option<String>,
}

/// Describes an event received at `at`, and its effect.
pub(super) fn describe_event(
    platform: &Platform,
    verified: &Verified<'_>,
    event: NewEvent,
    at: Millis,
) -> (EventReport, EffectReport) {
    let planned = plan(platform, &event, at);
    let mut effect = effect(platform, platform.effects.get(&event.event_type), planned.as_ref());
    let planned = planned.ok();
    let subscribed =
        platform.event_types.as_ref().is_none_or(|types| types.contains(&event.event_type));
    effect.not_queued = match (platform.enabled, subscribed) {
        (false, _) => Some("the platform is disabled (403)"),
        (true, false) => {
            Some("its type is not one of the platform's event_types (answered `ignored`)")
        }
        (true, true) => None,
    };
    let event = EventReport {
        id_from: id_from(platform, verified, &event),
        subscribed,
        occurred_at: event.occurred_at.known().map(clock::rfc3339),
        time_unreadable: event.occurred_at == EventTime::Unreadable,
        ordered_by: event
            .occurred_at
            .is_ahead(at)
            .then(|| clock::rfc3339(event.occurred_at.clamped(at))),
        session: planned.as_ref().and_then(|planned| planned.room.clone()),
        live_stream_id: planned.and_then(|planned| planned.live_stream_id),
        delivery_id: event.delivery_id,
        event_type: event.event_type,
        event_id: event.event_id,
    };
    (event, effect)
}

/// Plans `event` as a worker does, from the entry that the enqueue script would write at `at`.
fn plan(platform: &Platform, event: &NewEvent, at: Millis) -> Result<PlannedEvent, String> {
    let occurred_at = event.occurred_at.clamped(at);
    let fields = encode(event, occurred_at, at, StreamId::default());
    let entry = StreamEntry { id: StreamId::default(), fields: Some(fields.into()) };
    let envelope = decode(entry).map_err(|reason| reason.to_string())?;
    effects::plan(platform, &envelope).map_err(|invalid| invalid.to_string())
}

fn effect(
    platform: &Platform,
    spec: Option<&EffectSpec>,
    planned: Result<&PlannedEvent, &String>,
) -> EffectReport {
    let mut report = EffectReport {
        effect: "log",
        not_queued: None,
        refusal: planned.err().cloned(),
        needs_session: planned.is_ok_and(|planned| planned.needs_session(platform)),
        columns: Vec::new(),
        warnings: planned.map_or_else(|_| Vec::new(), |planned| planned.warnings.clone()),
    };
    let Some(spec) = spec else { return report };
    let set = planned.map_or_else(|_| Vec::new(), |planned| planned.change.columns());
    let parts = describe_effect(&spec.effect);
    let fixed = parts.fixed.into_iter().map(|(column, value)| ColumnReport {
        column: column.to_owned(),
        value: Some(value),
        from: None,
    });
    let read = parts.read.into_iter().map(|(column, at)| ColumnReport {
        value: set.iter().find(|(name, _)| *name == column).map(|(_, value)| shown(value)),
        column,
        from: Some(at.iter().map(Pointer::to_string).collect::<Vec<_>>().join(" or ")),
    });
    report.effect = parts.name;
    report.columns = fixed.chain(read).collect();
    report
}

fn id_from(platform: &Platform, verified: &Verified<'_>, event: &NewEvent) -> &'static str {
    // The body was parsed before, so this cannot fail.
    let body = json::text(&event.body);
    let document = Document::parse_text(&body).ok();
    let given = |id: &str| {
        platform.event.id.iter().any(|locator| match locator {
            Locator::Body(at) => {
                let node = document.as_ref().and_then(|document| document.find(at));
                node.and_then(|node| node.as_text()).as_deref() == Some(id)
            }
            Locator::Header(name) => verified.signed_header(name) == Some(id),
        })
    };
    match event.event_id.rsplit_once('#') {
        _ if given(&event.event_id) => "provider",
        Some((message, _)) if given(message) => "message id and position",
        _ => "content hash",
    }
}

/// Returns `raw`, shortened.
fn shown(raw: &str) -> String {
    match raw.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", raw.get(..at).unwrap_or_default()),
        None => raw.to_owned(),
    }
}
