//! Statistics, paging and import of dead letters.
//!
//! # Guarantees
//!
//! - Importing a dead letter twice adds it once (`purged_dead_letters_are_imported_once`).
//!
//! # Design
//!
//! The cost of a call depends on the entries that it examines, not on the number of dead letters.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Value, cmd};

use super::{DeadLetter, Queue};
use crate::event::{Millis, StreamId};
use crate::queue::codec::{array, bytes, entries, stream_id};
use crate::queue::{CallError, Fields, PlatformKeys, StreamEntry, StreamReader};

/// Time for which an import is remembered.
const IMPORTED_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Statistics of some of the dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterStats {
    /// Number of dead letters, counted or not.
    pub length: u64,
    /// Id of the last dead letter.
    pub last: Option<StreamId>,
    /// Id after which counting continues; `None`: the end was reached.
    pub next: Option<StreamId>,
    /// Number of dead letters that were counted.
    pub counted: u64,
    /// Bytes of their fields.
    pub bytes: u64,
    /// Time of the first of them.
    pub oldest: Option<Millis>,
    /// Time of the last of them.
    pub newest: Option<Millis>,
    /// Counts by error code; `""`: without one.
    pub by_error_code: BTreeMap<String, u64>,
    /// Counts by event type; `""`: without one.
    pub by_event_type: BTreeMap<String, u64>,
}

/// Outcome of importing a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// The dead letter was added under this id.
    Done(StreamId),
    /// The dead letter was present. Nothing was done.
    Present,
    /// The dead letters are at their bound. Nothing was done.
    Full,
}

impl Queue {
    /// Counts up to `most` dead letters after `after` and up to `last`. The count happens in Redis,
    /// so no body is sent.
    ///
    /// # Errors
    /// If Redis does not answer, or the key has another type.
    pub async fn dead_letter_stats(
        &self,
        keys: &PlatformKeys,
        after: Option<StreamId>,
        last: Option<StreamId>,
        most: usize,
    ) -> Result<DeadLetterStats, CallError> {
        let mut call = self.scripts.dead_letter_stats.call(&[&keys.dlq], 64);
        for bound in [after, last] {
            call.arg(bound.map_or_else(String::new, |id| id.to_string()));
        }
        call.arg(most.max(1));
        let reply = self.scripts.dead_letter_stats.run(&self.connection, &call).await?;
        let [length, last, next, counted, weight, oldest, newest, codes, types] = array(reply)?;
        Ok(DeadLetterStats {
            length: self.number(length)?,
            last: optional(last)?,
            next: optional(next)?,
            counted: self.number(counted)?,
            bytes: self.number(weight)?,
            oldest: time(oldest)?,
            newest: time(newest)?,
            by_error_code: counts(codes)?,
            by_event_type: counts(types)?,
        })
    }

    /// Reads a page of dead letters before `before`, newest first, for [`DeadLetter::decode`].
    ///
    /// # Errors
    /// As [`Self::dead_letter_stats`].
    pub async fn newest_dead_letters(
        &self,
        keys: &PlatformKeys,
        before: Option<StreamId>,
        count: usize,
    ) -> Result<Vec<StreamEntry>, CallError> {
        let from = before.map_or_else(|| "+".to_owned(), |id| format!("({id}"));
        let mut range = cmd("XREVRANGE");
        range.arg(&keys.dlq).arg(from).arg("-").arg("COUNT").arg(count.max(1));
        entries(self.connection.run(&range).await?)
    }

    /// Reads the dead letters `ids` in one round trip; `None` for one that does not exist.
    ///
    /// # Errors
    /// As [`Self::dead_letter_stats`].
    pub async fn find_dead_letters(
        &self,
        keys: &PlatformKeys,
        ids: &[StreamId],
    ) -> Result<Vec<Option<StreamEntry>>, CallError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = redis::pipe();
        for id in ids {
            let id = id.to_string();
            commands.cmd("XRANGE").arg(&keys.dlq).arg(&id).arg(id);
        }
        let replies: Vec<Value> = self.connection.pipeline(&commands).await?;
        if replies.len() != ids.len() {
            return Err(CallError::unexpected_reply("one reply per id expected"));
        }
        replies.into_iter().map(|reply| Ok(entries(reply)?.pop())).collect()
    }

    /// Returns per event whether the index says that it is dead, waits for a retry or was replayed.
    ///
    /// # Errors
    /// As [`Self::dead_letter_stats`].
    pub async fn exceptions(
        &self,
        keys: &PlatformKeys,
        event_ids: &[String],
    ) -> Result<Vec<bool>, CallError> {
        if event_ids.is_empty() {
            return Ok(Vec::new());
        }
        let noted: Vec<Option<String>> =
            self.connection.query(cmd("HMGET").arg(&keys.exceptions).arg(event_ids)).await?;
        Ok(noted.iter().map(Option::is_some).collect())
    }

    /// Waits up to `block` for dead letters of `streams`, each after its id, at most `count` of
    /// each. Returns positions in `streams` with their entries.
    ///
    /// # Errors
    /// [`CallError::is_wrong_type`] if one of the keys is not a stream. Nothing was read then.
    pub async fn follow_dead_letters(
        &self,
        reader: &mut StreamReader,
        streams: &[(PlatformKeys, StreamId)],
        count: usize,
        block: Duration,
    ) -> Result<Vec<(usize, Vec<StreamEntry>)>, CallError> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(count.max(1));
        let streams: Vec<_> =
            streams.iter().map(|(keys, after)| (keys.dlq.as_str(), after.to_string())).collect();
        reader.read(&read, &streams, block).await
    }

    /// Imports a dead letter with exactly these fields, unless it is present or there are `max_len`
    /// already. The dead letter exported as `original` gets a new id. Adds the platform to the
    /// index.
    ///
    /// # Errors
    /// If Redis is full or does not answer, or `fields` is empty or too many. Repeating the import
    /// is safe.
    pub async fn import_dead_letter(
        &self,
        keys: &PlatformKeys,
        original: StreamId,
        fields: &Fields,
        max_len: u64,
    ) -> Result<ImportOutcome, CallError> {
        if let Some(name) = keys.platform.destination() {
            self.note_destination_queue(name).await?;
        }
        let names = [&keys.dlq, &keys.imported, &keys.exceptions];
        let weight: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 16).sum();
        let mut call = self.scripts.import.call(&names, weight + 64);
        call.arg(original.to_string()).arg(max_len).arg(IMPORTED_TTL.as_secs());
        for (name, value) in fields {
            call.arg(name).arg(value);
        }
        match self.scripts.import.run(&self.connection, &call).await? {
            Value::Int(0) => Ok(ImportOutcome::Present),
            Value::Int(1) => Ok(ImportOutcome::Full),
            id => Ok(ImportOutcome::Done(stream_id(&id)?)),
        }
    }
}

impl DeadLetter {
    /// Time at which it became a dead letter: the field if present, else the time of its id.
    #[must_use]
    pub fn dead_lettered_at(&self) -> Millis {
        self.failed_at.unwrap_or_else(|| Millis::try_from(self.id.ms).unwrap_or(Millis::MAX))
    }
}

fn optional(value: Value) -> Result<Option<StreamId>, CallError> {
    match &value {
        Value::BulkString(text) if text.is_empty() => Ok(None),
        id => stream_id(id).map(Some),
    }
}

/// Parses a time that may be absent; an unreadable one counts as absent.
fn time(value: Value) -> Result<Option<Millis>, CallError> {
    Ok(std::str::from_utf8(&bytes(value)?).ok().and_then(|text| text.parse().ok()))
}

fn counts(flat: Value) -> Result<BTreeMap<String, u64>, CallError> {
    let Value::Array(flat) = flat else {
        return Err(CallError::unexpected_reply("counts expected"));
    };
    let mut counts = BTreeMap::new();
    let mut flat = flat.into_iter();
    while let (Some(name), Some(count)) = (flat.next(), flat.next()) {
        let name = String::from_utf8_lossy(&bytes(name)?).into_owned();
        let count: u64 =
            redis::from_redis_value(count).map_err(|error| CallError::Unknown(error.into()))?;
        *counts.entry(name).or_default() += count;
    }
    Ok(counts)
}
