//! Line format of a dead letter, used by exports, archives and imports.
//!
//! # Guarantees
//!
//! - [`read`] returns exactly the field pairs that [`write()`] was given, in order
//!   (`record_reads_back_as_written`).
//! - [`read`] refuses a line that it does not understand completely
//!   (`record_read_refuses_what_it_cannot_keep`).
//!
//! # Design
//!
//! The object of documented fields cannot represent a repeated, unreadable or misplaced field. Such
//! an entry also gets `raw`, all pairs in base64, and then only `raw` counts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::DeadLetter;
use crate::event::{Millis, StreamId};
use crate::platform::PlatformName;
use crate::queue::{FieldBuf, Fields, StreamEntry};

/// Maximum number of fields that a script can move. An entry with more could never be replayed.
const MAX_FIELDS: usize = 2000;

/// Dead letter as read from a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRecord {
    /// Platform of the event.
    pub platform: PlatformName,
    /// Id where it was exported.
    pub id: StreamId,
    /// Fields of the entry.
    pub fields: Fields,
}

/// Reason why a line is not a dead letter. Names fields, never values.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not an object of the fields that a dead letter has.
    #[error("not a dead letter as `export` writes it: {0}")]
    Shape(String),
    /// Invalid name of a platform.
    #[error("platform: not a platform's name")]
    Platform,
    /// Invalid base64 in this field.
    #[error("{0}: not base64")]
    Base64(&'static str),
    /// Both `body` and `body_base64`.
    #[error("both body and body_base64")]
    TwoBodies,
    /// No fields; Redis has no entries without fields.
    #[error("it has no fields")]
    Empty,
    /// More fields than a script can move.
    #[error("it has more than {MAX_FIELDS} fields")]
    TooMany,
}

#[derive(Serialize)]
struct ExportedLine<'a> {
    #[serde(flatten)]
    dead_letter: &'a DeadLetter,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<Vec<[String; 2]>>,
}

/// Appends the line of an entry of `platform` to `out`: one JSON object and a line break.
///
/// # Errors
/// None known: every value can be written as JSON.
pub fn write(
    platform: &PlatformName,
    entry: StreamEntry,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let fields = entry.fields.as_ref().map(FieldBuf::to_fields).unwrap_or_default();
    let dead_letter = DeadLetter::decode(platform, entry);
    let raw = (fields_of(&dead_letter) != fields).then(|| {
        fields.iter().map(|(name, value)| [BASE64.encode(name), BASE64.encode(value)]).collect()
    });
    serde_json::to_writer(&mut *out, &ExportedLine { dead_letter: &dead_letter, raw })?;
    out.push(b'\n');
    Ok(())
}

/// Fields in the order in which a worker writes them: those of the event, unknown ones, those of
/// the failure.
fn fields_of(dead_letter: &DeadLetter) -> Fields {
    let mut fields = Fields::new();
    let mut pair = |name: &str, value: Option<Vec<u8>>| {
        fields.extend(value.map(|value| (name.as_bytes().to_vec(), value)));
    };
    pair("v", text(dead_letter.v));
    pair("event_id", text(dead_letter.event_id.as_ref()));
    pair("event_type", text(dead_letter.event_type.as_ref()));
    pair("occurred_at", text(dead_letter.occurred_at));
    pair("received_at", text(dead_letter.received_at));
    pair("attempt", text(dead_letter.attempt));
    pair("origin", text(dead_letter.origin));
    pair("body", dead_letter.body.as_ref().map(|body| body.0.to_vec()));
    pair("delivery_id", text(dead_letter.delivery_id.as_ref()));
    pair("traceparent", text(dead_letter.traceparent.as_ref()));
    fields.extend(dead_letter.extra.iter().cloned());
    let mut pair = |name: &str, value: Option<Vec<u8>>| {
        fields.extend(value.map(|value| (name.as_bytes().to_vec(), value)));
    };
    pair("error_code", text(dead_letter.error_code.as_ref()));
    pair("error", text(dead_letter.error.as_ref()));
    pair("attempts", text(dead_letter.attempts));
    pair("first_failed_at", text(dead_letter.first_failed_at));
    pair("failed_at", text(dead_letter.failed_at));
    pair("worker", text(dead_letter.worker.as_ref()));
    pair("source_id", text(dead_letter.source_id));
    pair("replays", text(Some(dead_letter.replays)));
    fields
}

fn text<T: ToString>(value: Option<T>) -> Option<Vec<u8>> {
    value.map(|value| value.to_string().into_bytes())
}

/// Fields that a line may have. An unknown one is refused, because it would be lost.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImportedLine {
    id: StreamId,
    platform: String,
    v: Option<u32>,
    event_id: Option<String>,
    event_type: Option<String>,
    occurred_at: Option<Millis>,
    received_at: Option<Millis>,
    attempt: Option<u32>,
    origin: Option<StreamId>,
    body: Option<String>,
    body_base64: Option<String>,
    delivery_id: Option<String>,
    traceparent: Option<String>,
    error_code: Option<String>,
    error: Option<String>,
    attempts: Option<u32>,
    first_failed_at: Option<Millis>,
    failed_at: Option<Millis>,
    worker: Option<String>,
    source_id: Option<StreamId>,
    replays: Option<u32>,
    extra: Option<Vec<[String; 2]>>,
    raw: Option<Vec<[String; 2]>>,
}

/// Reads one line, with or without its line break.
///
/// # Errors
/// If the line is not completely understood.
pub fn read(line: &[u8]) -> Result<DeadLetterRecord, RecordError> {
    let line: ImportedLine =
        serde_json::from_slice(line).map_err(|error| RecordError::Shape(shape(&error)))?;
    let platform = PlatformName::queue(&line.platform).map_err(|_| RecordError::Platform)?;
    let id = line.id;
    let fields = line.fields()?;
    match fields.len() {
        0 => Err(RecordError::Empty),
        1..=MAX_FIELDS => Ok(DeadLetterRecord { platform, id, fields }),
        _ => Err(RecordError::TooMany),
    }
}

/// Describes the error of serde_json without quoting the line.
fn shape(error: &serde_json::Error) -> String {
    let problem = match error.classify() {
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Eof => "it ends too early",
        _ => "a field is missing, unknown or of another kind",
    };
    format!("{problem} (column {})", error.column())
}

impl ImportedLine {
    fn fields(self) -> Result<Fields, RecordError> {
        if let Some(raw) = &self.raw {
            return pairs(raw, "raw");
        }
        let mut fields = Fields::new();
        let body = match (self.body, self.body_base64) {
            (Some(_), Some(_)) => return Err(RecordError::TwoBodies),
            (Some(body), None) => Some(body.into_bytes()),
            (None, Some(body)) => {
                Some(BASE64.decode(body).map_err(|_| RecordError::Base64("body_base64"))?)
            }
            (None, None) => None,
        };
        let mut pair = |name: &str, value: Option<Vec<u8>>| {
            fields.extend(value.map(|value| (name.as_bytes().to_vec(), value)));
        };
        pair("v", text(self.v));
        pair("event_id", text(self.event_id));
        pair("event_type", text(self.event_type));
        pair("occurred_at", text(self.occurred_at));
        pair("received_at", text(self.received_at));
        pair("attempt", text(self.attempt));
        pair("origin", text(self.origin));
        pair("body", body);
        pair("delivery_id", text(self.delivery_id));
        pair("traceparent", text(self.traceparent));
        if let Some(extra) = &self.extra {
            fields.extend(pairs(extra, "extra")?);
        }
        let mut pair = |name: &str, value: Option<Vec<u8>>| {
            fields.extend(value.map(|value| (name.as_bytes().to_vec(), value)));
        };
        pair("error_code", text(self.error_code));
        pair("error", text(self.error));
        pair("attempts", text(self.attempts));
        pair("first_failed_at", text(self.first_failed_at));
        pair("failed_at", text(self.failed_at));
        pair("worker", text(self.worker));
        pair("source_id", text(self.source_id));
        pair("replays", text(self.replays));
        Ok(fields)
    }
}

fn pairs(encoded: &[[String; 2]], what: &'static str) -> Result<Fields, RecordError> {
    let bytes = |text: &str| BASE64.decode(text).map_err(|_| RecordError::Base64(what));
    encoded.iter().map(|[name, value]| Ok((bytes(name)?, bytes(value)?))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn mux() -> PlatformName {
        PlatformName::new("mux").unwrap()
    }

    fn line(fields: &Fields) -> String {
        let mut out = Vec::new();
        let entry =
            StreamEntry { id: StreamId { ms: 5, seq: 6 }, fields: Some(fields.clone().into()) };
        write(&mux(), entry, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn fields(pairs: &[(&str, &[u8])]) -> Fields {
        pairs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()
    }

    /// Fields as the dead-letter script writes them.
    fn worker_fields() -> Fields {
        fields(&[
            ("v", b"1"),
            ("event_id", b"evt-1"),
            ("event_type", b"stream.up"),
            ("occurred_at", b"1000"),
            ("received_at", b"2000"),
            ("attempt", b"5"),
            ("origin", b"1-2"),
            ("body", b"{\"a\":\"\xc3\xbc\"}"),
            ("edited", b"1"),
            ("error_code", b"invalid_event"),
            ("error", b"no"),
            ("attempts", b"5"),
            ("first_failed_at", b"3000"),
            ("failed_at", b"4000"),
            ("worker", b"host-1"),
            ("source_id", b"3-4"),
            ("replays", b"0"),
        ])
    }

    fn names() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => prop::sample::select(vec![
                "v", "event_id", "body", "attempts", "origin", "replays", "later",
            ]).prop_map(|name| name.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..8),
        ]
    }

    fn values() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            vec(any::<u8>(), 0..12),
            any::<u32>().prop_map(|number| number.to_string().into_bytes()),
            any::<u8>().prop_map(|number| format!("{number:04}").into_bytes()),
        ]
    }

    proptest! {
        #[test]
        fn record_reads_back_as_written(fields in vec((names(), values()), 1..14)) {
            let line = line(&fields);
            let id = StreamId { ms: 5, seq: 6 };
            let expected = DeadLetterRecord { platform: mux(), id, fields };
            prop_assert_eq!(read(line.as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn record_of_a_worker_needs_no_raw_fields() {
        let line = line(&worker_fields());
        assert!(!line.contains("\"raw\""), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(read(line.as_bytes()).unwrap().fields, worker_fields());
    }

    #[test]
    fn record_keeps_fields_with_unusual_spelling() {
        for odd in [
            fields(&[("v", b"01")]),
            fields(&[("v", b"1"), ("v", b"01")]),
            fields(&[("body", b"\xff"), ("body", b"x"), ("replays", b"1")]),
            fields(&[("body", b"x")]),
            fields(&[("replays", b"0"), ("v", b"1")]),
            fields(&[("", b"")]),
        ] {
            assert_eq!(read(line(&odd).as_bytes()).unwrap().fields, odd);
        }
    }

    #[test]
    fn record_read_refuses_what_it_cannot_keep() {
        let refused = |line: &str| read(line.as_bytes()).unwrap_err().to_string();
        let shape = "not a dead letter as `export` writes it: ";
        assert_eq!(refused("{"), format!("{shape}it ends too early (column 1)"));
        for line in [
            "[]",
            r#"{"id":"1-1","platform":"mux","body":"x","unheard_of":1}"#,
            r#"{"id":"1-1","body":"x"}"#,
            r#"{"platform":"mux","body":"x"}"#,
            r#"{"id":"1-1","platform":"mux","v":"1"}"#,
            r#"{"id":"1-1","platform":"mux","v":-1}"#,
        ] {
            assert!(refused(line).starts_with(shape), "{line}");
        }
        assert_eq!(
            refused(r#"{"id":"1-1","platform":"No!","v":1}"#),
            "platform: not a platform's name"
        );
        assert_eq!(
            refused(r#"{"id":"1-1","platform":"mux","body":"","body_base64":""}"#),
            "both body and body_base64"
        );
        assert_eq!(
            refused(r#"{"id":"1-1","platform":"mux","body_base64":"?"}"#),
            "body_base64: not base64"
        );
        assert_eq!(refused(r#"{"id":"1-1","platform":"mux","raw":[["?",""]]}"#), "raw: not base64");
        assert_eq!(refused(r#"{"id":"1-1","platform":"mux"}"#), "it has no fields");
    }
}
