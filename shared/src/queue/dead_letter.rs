//! Dead letters: their record, and what `dlq-tool` does with them.
//!
//! Guarantee: an entry is a record whatever its fields are, so that none is invisible, and nothing is lost between the
//! stream and the record: fields that this release does not know, or cannot read, are kept.

mod query;
pub mod record;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use redis::{Value, cmd};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::codec::{FieldView, entries, stream_id};
use super::consume::{MAX_IDS_PER_CALL, append_ids, per_id_numbers};
pub use query::{DeadLetterStats, ImportOutcome};

use super::{CallError, Fields, PlatformKeys, Queue, StreamEntry};
use crate::event::{Millis, StreamId};
use crate::platform::PlatformName;

/// An event's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterBody(pub Bytes);

impl DeadLetterBody {
    /// The body, if it is text.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// A dead letter. What is absent or illegible in the entry is `None` here and stands, as it is, in `extra`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DeadLetter {
    /// Its id in the dead-letter stream.
    pub id: StreamId,
    /// Whose it is.
    pub platform: PlatformName,
    pub v: Option<u32>,
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub occurred_at: Option<Millis>,
    pub received_at: Option<Millis>,
    pub attempt: Option<u32>,
    pub origin: Option<StreamId>,
    pub body: Option<DeadLetterBody>,
    pub delivery_id: Option<String>,
    pub traceparent: Option<String>,
    /// Why; codes of other releases are kept as they are.
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub attempts: Option<u32>,
    pub first_failed_at: Option<Millis>,
    pub failed_at: Option<Millis>,
    pub worker: Option<String>,
    /// The id its entry had in `incoming`.
    pub source_id: Option<StreamId>,
    pub replays: u32,
    /// Every other field pair, in order.
    pub extra: Fields,
}

impl DeadLetter {
    /// Reads an entry of the dead-letter stream.
    #[must_use]
    pub fn decode(platform: &PlatformName, entry: StreamEntry) -> Self {
        let fields = entry.fields.map(|fields| fields.to_fields()).unwrap_or_default();
        let view = FieldView(&fields);
        let mut known = FieldReader { view: &view, taken: Vec::with_capacity(fields.len()) };
        let mut letter = Self {
            id: entry.id,
            platform: platform.clone(),
            v: known.take("v"),
            event_id: known.take("event_id"),
            event_type: known.take("event_type"),
            occurred_at: known.take("occurred_at"),
            received_at: known.take("received_at"),
            attempt: known.take("attempt"),
            origin: known.take("origin"),
            body: known.body(),
            delivery_id: known.take("delivery_id"),
            traceparent: known.take("traceparent"),
            error_code: known.take("error_code"),
            error: known.take("error"),
            attempts: known.take("attempts"),
            first_failed_at: known.take("first_failed_at"),
            failed_at: known.take("failed_at"),
            worker: known.take("worker"),
            source_id: known.take("source_id"),
            replays: known.take("replays").unwrap_or(0),
            extra: Vec::new(),
        };
        let mut taken = known.taken;
        letter.extra = fields
            .into_iter()
            .filter(|(name, _)| {
                match taken.iter().position(|known| known.as_bytes() == name.as_slice()) {
                    // Only the first of a repeated field was taken.
                    Some(position) => {
                        taken.swap_remove(position);
                        false
                    }
                    None => true,
                }
            })
            .collect();
        letter
    }
}

struct FieldReader<'a, 'b> {
    view: &'b FieldView<'a>,
    taken: Vec<&'static str>,
}

impl FieldReader<'_, '_> {
    fn take<T: std::str::FromStr + ToString>(&mut self, name: &'static str) -> Option<T> {
        let value: T = self.view.optional(name).ok().flatten()?;
        // Only what reads back the same may leave `extra`: "007" stays there as it is.
        if self.view.raw(name) == Some(value.to_string().as_bytes()) {
            self.taken.push(name);
        }
        Some(value)
    }

    fn body(&mut self) -> Option<DeadLetterBody> {
        let raw = self.view.raw("body")?;
        self.taken.push("body");
        Some(DeadLetterBody(Bytes::copy_from_slice(raw)))
    }
}

/// One JSON object: `id`, `platform`, the fields as they are named in Redis (numbers as numbers), `body` or, where it is
/// not UTF-8, `body_base64`; and `extra`, if there is any, as pairs of base64.
impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("platform", &self.platform)?;
        macro_rules! fields {
            ($($name:ident),+ $(,)?) => {
                $(if let Some(value) = &self.$name { map.serialize_entry(stringify!($name), value)?; })+
            };
        }
        fields!(
            v,
            event_id,
            event_type,
            occurred_at,
            received_at,
            attempt,
            attempts,
            origin,
            delivery_id
        );
        fields!(traceparent, error_code, error, first_failed_at, failed_at, worker, source_id);
        map.serialize_entry("replays", &self.replays)?;
        if let Some(body) = &self.body {
            match body.as_text() {
                Some(text) => map.serialize_entry("body", text)?,
                None => map.serialize_entry("body_base64", &BASE64.encode(&body.0))?,
            }
        }
        if !self.extra.is_empty() {
            let pairs: Vec<_> = self
                .extra
                .iter()
                .map(|(name, value)| [BASE64.encode(name), BASE64.encode(value)])
                .collect();
            map.serialize_entry("extra", &pairs)?;
        }
        map.end()
    }
}

/// What became of a dead letter that was to be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It is back in `incoming`, under this id.
    Done(StreamId),
    /// There is no such dead letter.
    Gone,
    /// The stream holds as many entries as a replay may fill it to; try again later.
    Paused,
}

impl Queue {
    /// One page of a platform's dead letters after `after`, oldest first, as raw entries for [`DeadLetter::decode`].
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn dead_letters(
        &self,
        keys: &PlatformKeys,
        after: Option<StreamId>,
        count: usize,
    ) -> Result<Vec<StreamEntry>, CallError> {
        let from = after.map_or_else(|| "-".to_owned(), |id| format!("({id}"));
        let mut range = cmd("XRANGE");
        range.arg(&keys.dlq).arg(from).arg("+").arg("COUNT").arg(count.max(1));
        entries(self.connection.run(&range).await?)
    }

    /// The dead letter `id`, if there is one.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn find_dead_letter(
        &self,
        keys: &PlatformKeys,
        id: StreamId,
    ) -> Result<Option<StreamEntry>, CallError> {
        let id = id.to_string();
        let reply = self.connection.run(cmd("XRANGE").arg(&keys.dlq).arg(&id).arg(&id)).await?;
        Ok(entries(reply)?.pop())
    }

    /// Moves dead letters back to `incoming`: first execution again, origin kept, `replays` one more, past the duplicate
    /// marker. Stops at `limit` entries in the stream (half of `MAX_BACKLOG`), so that a replay never causes refusals.
    ///
    /// `edit` replaces fields (of every one of `ids`) on the way; whoever edits a body adds `edited` = `1`.
    ///
    /// # Errors
    /// When Redis did not answer: each of them is in exactly one of both streams then.
    pub async fn replay(
        &self,
        keys: &PlatformKeys,
        ids: &[StreamId],
        limit: u64,
        edit: &BTreeMap<String, Vec<u8>>,
    ) -> Result<Vec<Replayed>, CallError> {
        let names = [&keys.dlq, &keys.incoming, &keys.counters, &keys.exceptions];
        let mut outcomes = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS_PER_CALL) {
            let bytes: usize = edit.values().map(Vec::len).sum();
            let mut call = self.scripts.replay.call(&names, bytes + ids.len() * 24);
            call.arg(limit).arg(edit.len());
            for (name, value) in edit {
                call.arg(name).arg(value);
            }
            append_ids(&mut call, ids);
            let Value::Array(replies) = self.scripts.replay.run(&self.connection, &call).await?
            else {
                return Err(CallError::unexpected_reply("an array expected"));
            };
            if replies.len() != ids.len() {
                return Err(CallError::unexpected_reply("one outcome per id expected"));
            }
            for reply in &replies {
                outcomes.push(match reply {
                    Value::Int(0) => Replayed::Gone,
                    Value::Int(1) => Replayed::Paused,
                    id => Replayed::Done(stream_id(id)?),
                });
            }
        }
        Ok(outcomes)
    }

    /// Removes dead letters, and the markers (digests, see [`crate::event::marker_digest`]) of those that were there, so that a
    /// provider may send the event again. Returns, per id, whether it was there.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn purge(
        &self,
        keys: &PlatformKeys,
        letters: &[(StreamId, Option<String>)],
    ) -> Result<Vec<bool>, CallError> {
        let mut removed = Vec::with_capacity(letters.len());
        for chunk in letters.chunks(MAX_IDS_PER_CALL) {
            let mut names = vec![keys.dlq.clone(), keys.exceptions.clone()];
            names.extend(
                chunk
                    .iter()
                    .filter_map(|(_, digest)| digest.as_deref())
                    .map(|digest| keys.marker(digest)),
            );
            let mut call = self.scripts.purge.call(&names, chunk.len() * 32);
            for (id, digest) in chunk {
                call.arg(id.to_string()).arg(i32::from(digest.is_some()));
            }
            let reply = self.scripts.purge.run(&self.connection, &call).await?;
            removed.extend(per_id_numbers(reply, chunk.len())?.into_iter().map(|one| one == 1));
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests;
