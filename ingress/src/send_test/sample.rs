//! Builds a body that a platform's definition identifies as an event.

use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value};
use shared::clock;
use shared::event::Millis;
use shared::platform::{Effect, EffectSpec, Locator, PayloadError, Platform, Pointer};

use crate::effect_description;

/// Value of a session and of every id but the event's.
const SAMPLE_NAME: &str = "tributary-test";

/// Sample event to build.
pub(super) struct SampleEvent<'p> {
    pub(super) platform: &'p Platform,
    /// Id of the event.
    pub(super) id: &'p str,
    /// Time of the event.
    pub(super) now: Millis,
}

/// The definition requires more than can be guessed.
#[derive(Debug)]
pub(super) struct SampleError(PayloadError);

impl fmt::Display for SampleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot build a body that meets the schema ({}); pass one with --body", self.0)
    }
}

impl SampleEvent<'_> {
    /// Returns type and body. Sets the values of the type itself first. If the schema requires
    /// more, sets the values of all types.
    pub(super) fn make(&self, kind: Option<String>) -> Result<(String, Bytes), SampleError> {
        let kind = kind.unwrap_or_else(|| self.logged_type());
        let own = self.platform.effects.get(&kind);
        let mut others: Vec<(&String, &EffectSpec)> = self.platform.effects.iter().collect();
        others.sort_unstable_by_key(|(kind, _)| *kind);

        let mut body = self.plain(&kind);
        own.into_iter().for_each(|spec| self.fill(&mut body, spec));
        let checked = self.checked(&kind, &body);
        if checked.is_err() {
            others.into_iter().for_each(|(_, spec)| self.fill(&mut body, spec));
        }
        let text = checked.or_else(|_| self.checked(&kind, &body))?;
        Ok((kind, text))
    }

    fn checked(&self, kind: &str, body: &Value) -> Result<Bytes, SampleError> {
        let text = body.to_string();
        self.platform.schemas.check(kind, &text).map_err(SampleError)?;
        Ok(Bytes::from(text))
    }

    /// Returns a type that is only logged, if there is one.
    fn logged_type(&self) -> String {
        let logs = |kind: &str| {
            self.platform.effects.get(kind).is_none_or(|spec| spec.effect == Effect::Log)
        };
        let mut types: Vec<&String> = self.platform.event_types.iter().flatten().collect();
        types.sort_unstable();
        let harmless = types.iter().find(|kind| logs(kind)).or(types.first());
        harmless.map_or_else(|| "tributary.test".to_owned(), |kind| (*kind).clone())
    }

    /// Sets id, type, time and session at their first pointers.
    fn plain(&self, kind: &str) -> Value {
        let spec = &self.platform.event;
        let mut body = Value::Object(Map::new());
        let time = clock::rfc3339(self.now);
        for (locators, value) in [(&spec.kind, kind), (&spec.id, self.id), (&spec.time, &time)] {
            if let Some(Locator::Body(pointer)) = locators.first() {
                put(&mut body, pointer, value.into());
            }
        }
        for pointer in [spec.session.first(), spec.live_stream_id.first()].into_iter().flatten() {
            put(&mut body, pointer, SAMPLE_NAME.into());
        }
        body
    }

    fn fill(&self, body: &mut Value, spec: &EffectSpec) {
        for pointers in [&spec.session, &spec.live_stream_id].into_iter().flatten() {
            pointers.first().into_iter().for_each(|pointer| put(body, pointer, SAMPLE_NAME.into()));
        }
        for (column, pointers) in effect_description::describe_effect(&spec.effect).read {
            let Some(pointer) = pointers.first() else { continue };
            put(body, pointer, self.value(&column));
        }
    }

    /// Returns a value that fits `column`.
    fn value(&self, column: &str) -> Value {
        match column {
            "viewer_count" | "peak_viewers" | "duration_seconds" | "size_bytes" | "progress"
            | "retry_count" => 1.into(),
            "data" => Value::Object(Map::new()),
            "url" | "video_url" => "https://example.com/tributary-test".into(),
            column if column.ends_with("_at") => clock::rfc3339(self.now).into(),
            _ => SAMPLE_NAME.into(),
        }
    }
}

/// Sets `value` at `pointer` and creates missing members. An index creates a list of one. Existing
/// values stay.
fn put(body: &mut Value, pointer: &Pointer, value: Value) {
    let mut place = body;
    for token in &pointer.segments {
        if place.is_null() {
            *place = if token == "0" {
                Value::Array(vec![Value::Null])
            } else {
                Value::Object(Map::new())
            };
        }
        place = match place {
            Value::Object(members) => members.entry(token.as_str()).or_insert(Value::Null),
            Value::Array(items) => {
                match token.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                    Some(item) => item,
                    None => return,
                }
            }
            _ => return,
        };
    }
    if place.is_null() {
        *place = value;
    }
}
