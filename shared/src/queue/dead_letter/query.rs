//! Looking at many dead letters, following new ones, and adding those that were exported elsewhere.
//!
//! Guarantee: no call costs more than the entries that it is told to look at, however many there are.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Value, cmd};

use super::{DeadLetter, Queue};
use crate::event::{Millis, StreamId};
use crate::queue::codec::{array, bytes, entries, stream_id};
use crate::queue::{CallError, Fields, PlatformKeys, StreamEntry, StreamReader};

/// How long it is remembered what became of an imported dead letter.
const IMPORTED_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What a look at some of the dead letters found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterStats {
    /// How many there are at the moment of this look, counted or not.
    pub length: u64,
    /// The last of them at that moment.
    pub last: Option<StreamId>,
    /// Where to go on; `None`: the end was reached.
    pub next: Option<StreamId>,
    /// How many were looked at.
    pub counted: u64,
    /// What their fields weigh.
    pub bytes: u64,
    /// When the first of those looked at died.
    pub oldest: Option<Millis>,
    /// When the last of those looked at died.
    pub newest: Option<Millis>,
    /// How many died of what; `""`: of nothing that is said.
    pub by_error_code: BTreeMap<String, u64>,
    /// How many are of which type; `""`: of none.
    pub by_event_type: BTreeMap<String, u64>,
}

/// What became of a dead letter that was to be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It is here now, under this id.
    Done(StreamId),
    /// It was here already; nothing was done.
    Present,
    /// The dead letters are at their bound; nothing was done.
    Full,
}

impl Queue {
    /// Counts up to `most` dead letters after `after` and not beyond `last`, where they lie: no body is sent.
    ///
    /// # Errors
    /// When Redis did not answer, or the key holds something else.
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

    /// One page of a platform's dead letters before `before`, newest first, as raw entries for [`DeadLetter::decode`].
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

    /// The dead letters `ids`, in one round trip; `None` for one that is not there.
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
        let mut all = redis::pipe();
        for id in ids {
            let id = id.to_string();
            all.cmd("XRANGE").arg(&keys.dlq).arg(&id).arg(id);
        }
        let replies: Vec<Value> = self.connection.pipeline(&all).await?;
        if replies.len() != ids.len() {
            return Err(CallError::unexpected_reply("one answer per id expected"));
        }
        replies.into_iter().map(|reply| Ok(entries(reply)?.pop())).collect()
    }

    /// Whether each of these events is dead, waiting for a retry or on its way once more, as far as is noted.
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

    /// Waits up to `block` for dead letters of any of `streams` after the id beside it, at most `count` of each; returns
    /// the position in `streams` with what came.
    ///
    /// # Errors
    /// [`CallError::is_wrong_type`] when one of the keys is no stream: none was read then.
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

    /// Adds a dead letter with these very fields, unless it is here already or `max_len` are: what was exported under
    /// `original` gets a new id. Marks its platform as one that has keys.
    ///
    /// # Errors
    /// When Redis did not answer (it may be added: do it again), is full, or `fields` is empty or too many.
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
    /// When it became a dead letter: what it says, else the time of its id.
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

/// A time that may be absent; one that no clock shows is as good as absent.
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
