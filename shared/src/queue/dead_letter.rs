//! Dead letters: their fields, and the operations of `dlq-tool` on them.
//!
//! # Guarantees
//!
//! - Every entry decodes as a [`DeadLetter`], with any fields
//!   (`empty_entry_decodes_as_a_dead_letter`).
//! - Fields that this release does not know or cannot read are kept in `extra`
//!   (`unreadable_fields_are_kept_in_extra`).
//! - A replay begins with attempt 1, keeps `origin` and increases `replays`
//!   (`replay_resets_attempts_and_keeps_the_origin`).
//! - A purge also removes the dedup marker, so that the provider's resend is accepted
//!   (`purge_lets_the_provider_send_the_event_again`).

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

/// Body of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterBody(pub Bytes);

impl DeadLetterBody {
    /// Body as text, if it is UTF-8.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Dead letter. A field that is absent or unreadable is `None` here; an unreadable one stays
/// unchanged in `extra`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct DeadLetter {
    /// Id in the dead-letter stream.
    pub id: StreamId,
    /// Platform of the event.
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
    /// Reason, as a code; codes of other releases are kept.
    pub error_code: Option<String>,
    pub error: Option<String>,
    pub attempts: Option<u32>,
    pub first_failed_at: Option<Millis>,
    pub failed_at: Option<Millis>,
    pub worker: Option<String>,
    /// Id of its entry in `incoming`.
    pub source_id: Option<StreamId>,
    pub replays: u32,
    /// All other field pairs, in order.
    pub extra: Fields,
}

impl DeadLetter {
    /// Decodes an entry of the dead-letter stream. Never fails.
    #[must_use]
    pub fn decode(platform: &PlatformName, entry: StreamEntry) -> Self {
        let fields = entry.fields.map(|fields| fields.to_fields()).unwrap_or_default();
        let view = FieldView(&fields);
        let mut known = FieldReader { view: &view, taken: Vec::with_capacity(fields.len()) };
        let mut dead_letter = Self {
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
        dead_letter.extra = fields
            .into_iter()
            .filter(|(name, _)| {
                match taken.iter().position(|known| known.as_bytes() == name.as_slice()) {
                    // Only the first value of a repeated field was taken.
                    Some(position) => {
                        taken.swap_remove(position);
                        false
                    }
                    None => true,
                }
            })
            .collect();
        dead_letter
    }
}

struct FieldReader<'a, 'b> {
    view: &'b FieldView<'a>,
    taken: Vec<&'static str>,
}

impl FieldReader<'_, '_> {
    fn take<T: std::str::FromStr + ToString>(&mut self, name: &'static str) -> Option<T> {
        let value: T = self.view.optional(name).ok().flatten()?;
        // A value that would be written differently, such as "007", stays in `extra`.
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

/// Writes one JSON object: `id`, `platform` and the fields under their names in Redis, numbers as
/// numbers. A body that is not UTF-8 becomes `body_base64`. `extra` holds the other pairs in
/// base64, if there are any.
impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("platform", &self.platform)?;
        macro_rules! fields {
            ($($name:ident),+ $(,)?) => {
                $(if let Some(value) = &self.$name {
                    map.serialize_entry(stringify!($name), value)?;
                })+
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

/// Outcome of replaying a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The event is in `incoming` again, under this id.
    Done(StreamId),
    /// There is no such dead letter.
    Gone,
    /// The stream is at the bound of a replay; retry later.
    Paused,
}

impl Queue {
    /// Reads a page of dead letters after `after`, oldest first, for [`DeadLetter::decode`].
    ///
    /// # Errors
    /// If Redis does not answer.
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

    /// Reads the dead letter `id`, if it exists.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn find_dead_letter(
        &self,
        keys: &PlatformKeys,
        id: StreamId,
    ) -> Result<Option<StreamEntry>, CallError> {
        let id = id.to_string();
        let reply = self.connection.run(cmd("XRANGE").arg(&keys.dlq).arg(&id).arg(&id)).await?;
        Ok(entries(reply)?.pop())
    }

    /// Replays dead letters: moves them to `incoming` with attempt 1, the same origin and one more
    /// replay. Dedup markers are ignored. Stops at `limit` entries in the stream (half of
    /// `MAX_BACKLOG`), so that a replay causes no refusals.
    ///
    /// `edit` replaces fields of every one of `ids`. A caller that edits a body also sets `edited`
    /// to `1`.
    ///
    /// # Errors
    /// If Redis does not answer. Each event is then in exactly one of the two streams.
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

    /// Removes dead letters and the dedup markers of those that existed, so that the provider may
    /// send them again. A marker is given by its digest, see [`crate::event::marker_digest`].
    /// Returns per id whether it existed.
    ///
    /// # Errors
    /// If Redis does not answer.
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
