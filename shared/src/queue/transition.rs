//! Moving entries from one state to the next; see the table in [`super`].
//!
//! Guarantee: every move is one script per chunk of ids and conditional per id, so that it may be repeated, raced and
//! lost without moving an event twice or leaving it nowhere. When a call fails, what it did may be found out by calling
//! again.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;

use super::codec::array;
use super::consume::{MAX_IDS_PER_CALL, per_id_numbers};
use super::keys::GROUP;
use super::script::optional;
use super::{AddressedReply, CallError, PlatformKeys, Queue};
use crate::error_code::DeadLetterCode;
use crate::event::{Millis, StreamId};

/// Longest text of a failure kept with an event, in characters.
const MAX_ERROR_CHARS: usize = 500;
/// Entries in one settle: all of a read, so that they share its cost and, where every write is synced, one sync. Each
/// costs Redis about two microseconds.
const MAX_SETTLED_PER_CALL: usize = 512;
/// Entries that one orphan sweep looks at.
const MAX_SWEPT_PER_CALL: usize = 64;
/// How old an entry must be to count as an orphan.
const ORPHAN_AGE_MS: u64 = 10 * 60 * 1000;

/// How an event was finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// Its effect is in the database, written by this or an earlier delivery of the same entry's event.
    Processed,
    /// As [`Self::Processed`], but something newer had come first.
    Stale,
    /// Another event with the same id has taken effect: settled silently, counted nowhere.
    Duplicate,
}

impl SettleOutcome {
    /// Its field in the counters; empty: none.
    const fn counter(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Stale => "stale",
            Self::Duplicate => "",
        }
    }
}

/// An entry that is finished.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The entry.
    pub id: StreamId,
    /// How it ended.
    pub outcome: SettleOutcome,
    /// The event's id, if it was put off or replayed before: it leaves the index of exceptions.
    pub moved: Option<String>,
    /// What is told to who waits for it.
    pub reply: Option<AddressedReply>,
    /// Which destinations get it.
    pub forward: Option<OutboxEntry>,
}

/// A processed event that destinations wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Names of their queues, separated by commas.
    pub destinations: Arc<str>,
    /// What the ledger says the event did, as JSON.
    pub result: String,
    /// W3C trace context that the deliveries follow from, where it is another than the entry's.
    pub traceparent: Option<String>,
}

impl Settled {
    /// An entry that was never moved, and that nobody waits for.
    #[must_use]
    pub const fn new(id: StreamId, outcome: SettleOutcome) -> Self {
        Self { id, outcome, moved: None, reply: None, forward: None }
    }
}

/// An entry to be executed again later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The entry.
    pub id: StreamId,
    /// How long from now, by Redis's clock.
    pub delay_ms: u64,
    /// The number of the execution that will be due then.
    pub attempt: u32,
    /// When an execution failed first; `None`: what the entry says of it stays, if it says anything.
    pub first_failed_at: Option<Millis>,
    /// What the event would become a dead letter with.
    pub error_code: DeadLetterCode,
    /// For people; cut to 500 characters. No secret, no body.
    pub error: String,
}

/// An entry to be moved to the dead letters.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// The entry.
    pub id: StreamId,
    /// Why.
    pub error_code: DeadLetterCode,
    /// For people; cut to 500 characters. No secret, no body.
    pub error: String,
    /// Executions in all.
    pub attempts: u32,
    /// When an execution failed first; `None`: what the entry says, else now.
    pub first_failed_at: Option<Millis>,
    /// What is told to who waits for it.
    pub reply: Option<AddressedReply>,
}

/// What became of an entry that was to become a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLettered {
    /// It is one.
    Done,
    /// The dead letters are at their bound; the entry is still pending for the caller, who schedules it again at the
    /// longest delay.
    Full,
    /// It is not pending for the caller any more; nothing was done.
    Gone,
}

/// What a round of promotion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Entries that can be read again.
    pub moved: u64,
    /// Members of the retry set whose entry had gone.
    pub vanished: u64,
    /// When the next one is due, zero if at once; `None`: the retry set is empty.
    pub next_due: Option<Duration>,
}

/// What a sweep for orphans did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanSweep {
    /// Where to go on; `None`: the end was reached.
    pub cursor: Option<StreamId>,
    /// Orphans put into the retry set, due at once. More than none is worth an alert.
    pub rescheduled: u64,
}

impl Queue {
    /// Finishes events whose effect is in the database. Returns, per id, whether this very call removed the entry: what
    /// must happen once per event (counting, outbound, telling who waits) happens then.
    ///
    /// Of entries for which no more happens than counting, and of which somebody deleted some by hand while they were
    /// pending, it returns how many this call removed, and not which.
    ///
    /// # Errors
    /// When Redis did not answer. Settle all of them again: the ledger makes that harmless.
    pub async fn settle(
        &self,
        keys: &PlatformKeys,
        entries: &[Settled],
    ) -> Result<Vec<bool>, CallError> {
        let mut removed = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(MAX_SETTLED_PER_CALL) {
            let (awaited, results) =
                awaited_replies(keys, chunk.iter().map(|entry| entry.reply.as_ref()));
            let mut names: Vec<&str> = vec![
                &keys.incoming,
                &keys.retry,
                &keys.failures,
                &keys.suspects,
                &keys.counters,
                &keys.exceptions,
            ];
            names.push(&keys.outbox);
            names.extend(results.iter().map(String::as_str));
            let mut call =
                self.scripts.settle.call(&names, chunk.len() * 32 + awaited.len() * 1024);
            call.arg(GROUP).arg(chunk.len());
            for entry in chunk {
                call.arg(entry.id.text().as_str());
            }
            let runs = runs(chunk);
            call.arg(runs.len());
            for (counter, length) in runs {
                call.arg(counter).arg(length);
            }
            let moved = || {
                (1_usize..).zip(chunk).filter_map(|(at, entry)| Some((at, entry.moved.as_deref()?)))
            };
            call.arg(moved().count());
            for (at, event_id) in moved() {
                call.arg(at).arg(event_id);
            }
            let forwarded = || {
                (1_usize..).zip(chunk).filter_map(|(at, entry)| Some((at, entry.forward.as_ref()?)))
            };
            call.arg(forwarded().count());
            for (at, forward) in forwarded() {
                call.arg(at).arg(&*forward.destinations).arg(&forward.result);
                optional(&mut call, forward.traceparent.as_deref());
            }
            for (at, addressed) in awaited {
                call.arg(at + 1).arg(&addressed.channel).arg(addressed.reply.encode());
            }
            let reply = self.scripts.settle.run(&self.connection, &call).await?;
            removed.extend(per_id_numbers(reply, chunk.len())?.into_iter().map(|one| one == 1));
        }
        Ok(removed)
    }

    /// Puts entries pending for `consumer` into the retry set. Returns, per entry, whether it was done; `false`: it is
    /// not the consumer's any more.
    ///
    /// # Errors
    /// When Redis did not answer. What was not done is still pending and will be claimed.
    pub async fn schedule_retry(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        entries: &[Retry],
    ) -> Result<Vec<bool>, CallError> {
        self.schedule(keys, consumer, entries, 0, false).await
    }

    /// As [`Self::schedule_retry`], for a delivery of which `excused` executions spent no attempt.
    ///
    /// # Errors
    /// As [`Self::schedule_retry`].
    pub async fn schedule_excused(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        entry: &Retry,
        excused: u32,
    ) -> Result<bool, CallError> {
        let done =
            self.schedule(keys, consumer, std::slice::from_ref(entry), excused, false).await?;
        Ok(done.first() == Some(&true))
    }

    /// As [`Self::schedule_excused`], for a delivery that waits for its busy destination:
    /// [`Self::release_held`] ends that.
    ///
    /// # Errors
    /// As [`Self::schedule_retry`].
    pub async fn schedule_held(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        entry: &Retry,
        excused: u32,
    ) -> Result<bool, CallError> {
        let done =
            self.schedule(keys, consumer, std::slice::from_ref(entry), excused, true).await?;
        Ok(done.first() == Some(&true))
    }

    /// Makes all deliveries due that wait for a busy destination. Returns their number.
    ///
    /// # Errors
    /// If Redis did not answer. Calling again is safe.
    pub async fn release_held(&self, keys: &PlatformKeys) -> Result<u64, CallError> {
        let script = &self.scripts.release_held;
        let (mut after, mut released) = (String::new(), 0);
        loop {
            let mut call = script.call(&[&keys.retry, &keys.failures], 32);
            call.arg(&after).arg(MAX_IDS_PER_CALL);
            let [next, some] = array(script.run(&self.connection, &call).await?)?;
            released += self.number(some)?;
            after =
                redis::from_redis_value(next).map_err(|error| CallError::Unknown(error.into()))?;
            if after.is_empty() {
                return Ok(released);
            }
        }
    }

    async fn schedule(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        entries: &[Retry],
        excused: u32,
        held: bool,
    ) -> Result<Vec<bool>, CallError> {
        let names = [
            &keys.incoming,
            &keys.retry,
            &keys.failures,
            &keys.suspects,
            &keys.counters,
            &keys.exceptions,
        ];
        let mut done = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(MAX_IDS_PER_CALL) {
            let mut call = self.scripts.schedule_retry.call(&names, chunk.len() * 256);
            call.arg(GROUP).arg(consumer).arg(excused).arg(i32::from(held));
            for entry in chunk {
                call.arg(entry.id.to_string()).arg(entry.delay_ms).arg(entry.attempt);
                optional(&mut call, entry.first_failed_at);
                call.arg(entry.error_code.as_str()).arg(truncate_error(&entry.error));
            }
            let reply = self.scripts.schedule_retry.run(&self.connection, &call).await?;
            done.extend(per_id_numbers(reply, chunk.len())?.into_iter().map(|one| one == 1));
        }
        Ok(done)
    }

    /// Makes up to `limit` due entries readable again. One that is due later than `max_delay_ms` from now is due now:
    /// the clock was set back since.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn promote_due(
        &self,
        keys: &PlatformKeys,
        max_delay_ms: u64,
        limit: usize,
    ) -> Result<Promoted, CallError> {
        let names = [&keys.incoming, &keys.retry, &keys.failures, &keys.suspects, &keys.exceptions];
        let mut call = self.scripts.promote.call(&names, 64);
        call.arg(GROUP).arg(max_delay_ms).arg(limit.clamp(1, MAX_IDS_PER_CALL));
        let reply = self.scripts.promote.run(&self.connection, &call).await?;
        let [moved, vanished, next] = array(reply)?;
        Ok(Promoted {
            moved: self.number(moved)?,
            vanished: self.number(vanished)?,
            next_due: match next {
                Value::Int(ms) if ms < 0 => None,
                Value::Int(ms) => Some(Duration::from_millis(ms.unsigned_abs())),
                _ => return Err(CallError::unexpected_reply("a number expected")),
            },
        })
    }

    /// Moves entries pending for `consumer` to the dead letters, unless those hold `max_len` already.
    ///
    /// # Errors
    /// When Redis did not answer. What was not done is still pending and will be claimed.
    pub async fn dead_letter(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        worker: &str,
        entries: &[NewDeadLetter],
        max_len: u64,
    ) -> Result<Vec<DeadLettered>, CallError> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for chunk in entries.chunks(MAX_IDS_PER_CALL) {
            let (_, results) =
                awaited_replies(keys, chunk.iter().map(|entry| entry.reply.as_ref()));
            let mut names: Vec<&str> = vec![
                &keys.incoming,
                &keys.dlq,
                &keys.retry,
                &keys.failures,
                &keys.suspects,
                &keys.counters,
            ];
            names.push(&keys.exceptions);
            names.extend(results.iter().map(String::as_str));
            let mut call = self.scripts.dead_letter.call(&names, chunk.len() * 256);
            call.arg(GROUP).arg(consumer).arg(max_len).arg(worker);
            for entry in chunk {
                call.arg(entry.id.to_string())
                    .arg(entry.error_code.as_str())
                    .arg(truncate_error(&entry.error));
                call.arg(entry.attempts);
                optional(&mut call, entry.first_failed_at);
                optional(&mut call, entry.reply.as_ref().map(|addressed| &addressed.channel));
                optional(&mut call, entry.reply.as_ref().map(|addressed| addressed.reply.encode()));
            }
            let reply = self.scripts.dead_letter.run(&self.connection, &call).await?;
            for code in per_id_numbers(reply, chunk.len())? {
                outcomes.push(match code {
                    0 => DeadLettered::Done,
                    1 => DeadLettered::Full,
                    2 => DeadLettered::Gone,
                    _ => return Err(CallError::unexpected_reply("an outcome expected")),
                });
            }
        }
        Ok(outcomes)
    }

    /// Looks at a few entries after `cursor` (`None`: from the beginning) and puts those into the retry set that are in
    /// no list although they were delivered at least ten minutes ago.
    ///
    /// # Errors
    /// When Redis did not answer, or there is no group.
    pub async fn sweep_orphans(
        &self,
        keys: &PlatformKeys,
        cursor: Option<StreamId>,
    ) -> Result<OrphanSweep, CallError> {
        self.sweep_orphans_older_than(keys, cursor, ORPHAN_AGE_MS).await
    }

    /// [`Self::sweep_orphans`] with an age of one's own, in milliseconds.
    ///
    /// # Errors
    /// As [`Self::sweep_orphans`].
    pub async fn sweep_orphans_older_than(
        &self,
        keys: &PlatformKeys,
        cursor: Option<StreamId>,
        age_ms: u64,
    ) -> Result<OrphanSweep, CallError> {
        let names = [&keys.incoming, &keys.retry, &keys.counters];
        let mut call = self.scripts.sweep_orphans.call(&names, 96);
        call.arg(GROUP);
        optional(&mut call, cursor.map(|id| id.to_string()));
        call.arg(MAX_SWEPT_PER_CALL).arg(age_ms);
        let reply = self.scripts.sweep_orphans.run(&self.connection, &call).await?;
        let [next, rescheduled] = array(reply)?;
        let cursor = match &next {
            Value::BulkString(text) if text.is_empty() => None,
            id => Some(super::codec::stream_id(id)?),
        };
        Ok(OrphanSweep { cursor, rescheduled: self.number(rescheduled)? })
    }
}

/// How the entries of a settle follow each other: counter's field, and how many in a row count there and ask for no more.
/// What is also told, forwarded or no exception any more stands alone, so that what becomes of it is known exactly.
fn runs(entries: &[Settled]) -> Vec<(&'static str, usize)> {
    let alone =
        |entry: &Settled| entry.moved.is_some() || entry.reply.is_some() || entry.forward.is_some();
    let alike = |a: &Settled, b: &Settled| {
        a.outcome.counter() == b.outcome.counter() && !alone(a) && !alone(b)
    };
    entries.chunk_by(alike).map(|run| (run[0].outcome.counter(), run.len())).collect()
}

/// What is told of some of `entries`, with their positions, and the keys under which it is kept.
fn awaited_replies<'e>(
    keys: &PlatformKeys,
    entries: impl Iterator<Item = Option<&'e AddressedReply>>,
) -> (Vec<(usize, &'e AddressedReply)>, Vec<String>) {
    let awaited = entries.enumerate().filter_map(|(at, reply)| Some((at, reply?)));
    awaited.map(|(at, addressed)| ((at, addressed), keys.result(&addressed.reply.event_id))).unzip()
}

fn truncate_error(text: &str) -> &str {
    text.char_indices().nth(MAX_ERROR_CHARS).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_is_cut_between_characters() {
        let long = "ü".repeat(MAX_ERROR_CHARS + 1);
        assert_eq!(truncate_error(&long).chars().count(), MAX_ERROR_CHARS);
        assert_eq!(truncate_error("short"), "short");
    }
}
