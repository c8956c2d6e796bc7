//! Wire format of a queued event: the fields of a stream entry.
//!
//! # Guarantees
//!
//! - [`decode`] never panics on any fields (`decode_of_arbitrary_fields_never_panics`).
//! - [`decode`] returns what [`encode`] was given (`encoded_event_decodes_to_itself`).
//! - An entry of a later wire version is distinguished from garbage
//!   (`later_version_is_distinguished_from_garbage`).
//!
//! # Design
//!
//! A refused entry stays in the stream. The scripts that move entries copy all fields verbatim, so
//! unknown fields, which [`decode`] ignores, survive a move.

mod field_buf;

use std::str::FromStr;

use bytes::Bytes;
use redis::Value;

use super::{CallError, keys};
use crate::event::{
    Envelope, EventTime, MAX_EVENT_ID_BYTES, MAX_EVENT_TYPE_BYTES, Millis, NewEvent, StreamId,
    WIRE_VERSION, edit_digest,
};

pub(super) use field_buf::ByteSpan;
pub use field_buf::FieldBuf;

/// Field pairs in order. Names may repeat and need not be UTF-8.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Entry as read from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEntry {
    /// Id of the entry.
    pub id: StreamId,
    /// Fields of the entry. `None`: the entry is pending but was deleted, and can only be settled.
    pub fields: Option<FieldBuf>,
}

impl StreamEntry {
    /// Size of the fields in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.fields.as_ref().map_or(0, FieldBuf::weight)
    }
}

/// Reason why an entry is not a readable event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A required field is absent.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field has an invalid value.
    #[error("field {0} is invalid")]
    Invalid(&'static str),
    /// A later release wrote the entry.
    #[error("wire version {version} is not known to this release")]
    UnsupportedVersion {
        /// Version in the entry.
        version: u32,
        /// Arrival at ingress, if readable.
        received_at: Option<Millis>,
        /// Number of the next attempt if readable, else 1.
        attempt: u32,
        /// Time of the first failure, if readable.
        first_failed_at: Option<Millis>,
    },
    /// The entry was deleted.
    #[error("the entry was deleted")]
    Gone,
}

/// Decodes an entry without copying its body. The first value of a repeated field counts.
///
/// # Errors
/// If the entry is not an event of [`WIRE_VERSION`].
pub fn decode(entry: StreamEntry) -> Result<Envelope, DecodeError> {
    let fields = entry.fields.ok_or(DecodeError::Gone)?;
    let found = EventFields::among(&fields);
    let version: u32 = required("v", found.v)?;
    if version != WIRE_VERSION {
        return Err(DecodeError::UnsupportedVersion {
            version,
            received_at: optional("received_at", found.received_at).ok().flatten(),
            attempt: optional("attempt", found.attempt).ok().flatten().unwrap_or(1),
            first_failed_at: optional("first_failed_at", found.first_failed_at).ok().flatten(),
        });
    }
    let attempt: u32 = required("attempt", found.attempt)?;
    if attempt == 0 {
        return Err(DecodeError::Invalid("attempt"));
    }
    let received_at = required("received_at", found.received_at)?;
    let occurred_at: Millis = required("occurred_at", found.occurred_at)?;
    let time_unreadable = EventTime::is_unreadable(occurred_at);
    let mut envelope = Envelope {
        id: entry.id,
        event_id: bounded("event_id", found.event_id, MAX_EVENT_ID_BYTES)?,
        event_type: bounded("event_type", found.event_type, MAX_EVENT_TYPE_BYTES)?,
        occurred_at: if time_unreadable { received_at } else { occurred_at },
        time_unreadable,
        received_at,
        attempt,
        origin: required("origin", found.origin)?,
        body: Bytes::new(),
        delivery_id: optional("delivery_id", found.delivery_id)?,
        traceparent: optional("traceparent", found.traceparent)?,
        // An imported entry may hold any text here; results are published only to a replica's
        // channel.
        reply_to: optional("reply_to", found.reply_to)
            .ok()
            .flatten()
            .filter(|channel: &String| keys::is_reply_channel(channel)),
        hops: optional("hops", found.hops).ok().flatten().unwrap_or(0),
        first_failed_at: optional("first_failed_at", found.first_failed_at)?,
        replays: optional("replays", found.replays)?.unwrap_or(0),
        edited: None,
    };
    envelope.body = fields.slice(found.body.ok_or(DecodeError::Missing("body"))?);
    envelope.edited = found.edited.map(|_| edit_digest(&envelope.body));
    Ok(envelope)
}

macro_rules! found {
    ($($name:ident),+ $(,)?) => {
        /// First value of each field of an event.
        #[derive(Default)]
        struct EventFields<'a> { $($name: Option<&'a [u8]>),+ }

        impl<'a> EventFields<'a> {
            fn among(fields: &'a FieldBuf) -> Self {
                let mut found = Self::default();
                for (name, value) in fields.iter() {
                    $(if name == stringify!($name).as_bytes() {
                        found.$name.get_or_insert(value);
                        continue;
                    })+
                }
                found
            }
        }
    };
}

found! {
    v, event_id, event_type, occurred_at, received_at, attempt, origin, body, delivery_id,
    traceparent, reply_to, hops, first_failed_at, replays, edited,
}

/// Returns the fields that the enqueue script writes for `event`, in its order.
///
/// The script itself chooses `received_at` and `origin`; tests and tools pass them here.
#[must_use]
pub fn encode(
    event: &NewEvent,
    occurred_at: Millis,
    received_at: Millis,
    origin: StreamId,
) -> Fields {
    let pair = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
    let mut fields = vec![
        pair("v", WIRE_VERSION.to_string().as_bytes()),
        pair("event_id", event.event_id.as_bytes()),
        pair("event_type", event.event_type.as_bytes()),
        pair("occurred_at", occurred_at.to_string().as_bytes()),
        pair("received_at", received_at.to_string().as_bytes()),
        pair("attempt", b"1"),
        pair("origin", origin.to_string().as_bytes()),
        pair("body", &event.body),
    ];
    fields.extend(event.reply_to.as_deref().map(|value| pair("reply_to", value.as_bytes())));
    fields.extend((event.hops > 0).then(|| pair("hops", event.hops.to_string().as_bytes())));
    fields.extend(event.delivery_id.as_deref().map(|value| pair("delivery_id", value.as_bytes())));
    fields.extend(event.traceparent.as_deref().map(|value| pair("traceparent", value.as_bytes())));
    fields
}

fn optional<T: FromStr>(
    name: &'static str,
    value: Option<&[u8]>,
) -> Result<Option<T>, DecodeError> {
    let Some(raw) = value else { return Ok(None) };
    let text = std::str::from_utf8(raw).map_err(|_| DecodeError::Invalid(name))?;
    text.parse().map(Some).map_err(|_| DecodeError::Invalid(name))
}

fn required<T: FromStr>(name: &'static str, value: Option<&[u8]>) -> Result<T, DecodeError> {
    optional(name, value)?.ok_or(DecodeError::Missing(name))
}

fn bounded(name: &'static str, value: Option<&[u8]>, most: usize) -> Result<String, DecodeError> {
    let text: String = required(name, value)?;
    if text.is_empty() || text.len() > most { Err(DecodeError::Invalid(name)) } else { Ok(text) }
}

/// Access to fields by name.
pub(crate) struct FieldView<'a>(pub(crate) &'a Fields);

impl<'a> FieldView<'a> {
    pub(crate) fn raw(&self, name: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(field, _)| field == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn optional<T: FromStr>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, DecodeError> {
        optional(name, self.raw(name))
    }
}

/// Parses `[[id, [field, value, …] | nil], …]`, the reply of XRANGE, XREADGROUP and XCLAIM. A nil
/// in place of an entry is left out: XCLAIM of Redis 6 lists deleted entries so.
pub(crate) fn entries(value: Value) -> Result<Vec<StreamEntry>, CallError> {
    match value {
        Value::Nil => Ok(Vec::new()),
        Value::Array(items) => {
            items.into_iter().filter(|item| *item != Value::Nil).map(entry).collect()
        }
        _ => Err(CallError::unexpected_reply("entries expected")),
    }
}

fn entry(value: Value) -> Result<StreamEntry, CallError> {
    let [id, fields] = array(value)?;
    let fields = match fields {
        Value::Nil => None,
        Value::Array(flat) if flat.is_empty() => None,
        Value::Array(flat) => Some(packed(flat)?),
        _ => return Err(CallError::unexpected_reply("fields expected")),
    };
    Ok(StreamEntry { id: stream_id(&id)?, fields })
}

fn packed(flat: Vec<Value>) -> Result<FieldBuf, CallError> {
    if !flat.len().is_multiple_of(2) {
        return Err(CallError::unexpected_reply("a value for each field expected"));
    }
    let strings: Vec<Vec<u8>> = flat.into_iter().map(bytes).collect::<Result<_, _>>()?;
    Ok(strings.chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect())
}

pub(crate) fn array<const N: usize>(value: Value) -> Result<[Value; N], CallError> {
    match value {
        Value::Array(items) => items
            .try_into()
            .map_err(|_| CallError::unexpected_reply("an array of a fixed length expected")),
        _ => Err(CallError::unexpected_reply("an array expected")),
    }
}

pub(crate) fn bytes(value: Value) -> Result<Vec<u8>, CallError> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        Value::Int(number) => Ok(number.to_string().into_bytes()),
        _ => Err(CallError::unexpected_reply("a string expected")),
    }
}

pub(crate) fn stream_id(value: &Value) -> Result<StreamId, CallError> {
    let raw = match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text.as_str()),
        _ => None,
    };
    raw.and_then(|text| text.parse().ok())
        .ok_or(CallError::unexpected_reply("a stream id expected"))
}

#[cfg(test)]
mod tests;
