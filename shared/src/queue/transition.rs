//! Transitions of entries between the states that [`super`] lists.
//!
//! # Guarantees
//!
//! - Repeating a settle after a lost reply counts and forwards nothing twice
//!   (`settle_twice_counts_once`).
//! - Scheduling an entry twice leaves one retry (`retry_scheduled_twice_waits_once`).
//! - An entry that cannot be moved stays where it is
//!   (`forbidden_retry_or_promotion_moves_nothing`).
//! - Another consumer's entries are left alone (`entry_of_another_consumer_is_left_alone`).
//!
//! # Design
//!
//! A transition is one script per chunk of ids and conditional per id. After an error, calling
//! again is safe and completes what was not done.

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

/// Maximum length of a failure's text, in characters.
const MAX_ERROR_CHARS: usize = 500;
/// Maximum number of entries in a settle: all of a read, so that they share one call and, where
/// every write is synced, one sync. Each entry costs Redis about two microseconds.
const MAX_SETTLED_PER_CALL: usize = 512;
/// Entries that one orphan sweep examines.
const MAX_SWEPT_PER_CALL: usize = 64;
/// Minimum age of an orphan.
const ORPHAN_AGE_MS: u64 = 10 * 60 * 1000;

/// Outcome of a finished event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettleOutcome {
    /// The effect is in the database, written by this or an earlier delivery of the same entry.
    Processed,
    /// Like [`Self::Processed`], but a newer event had been applied before.
    Stale,
    /// Another entry with the same event id has taken effect. Settled and not counted.
    Duplicate,
}

impl SettleOutcome {
    /// Counter to increase; empty: none.
    const fn counter(self) -> &'static str {
        match self {
            Self::Processed => "processed",
            Self::Stale => "stale",
            Self::Duplicate => "",
        }
    }
}

/// Entry to settle.
#[derive(Clone, Debug)]
pub struct Settled {
    /// Id of the entry.
    pub id: StreamId,
    /// Outcome of its event.
    pub outcome: SettleOutcome,
    /// Event id, if the event was rescheduled or replayed before and so is in the index of
    /// exceptions.
    pub moved: Option<String>,
    /// Result to send to the replica that waits for the event.
    pub reply: Option<AddressedReply>,
    /// Outbox entry, if a destination subscribed to the event.
    pub forward: Option<OutboxEntry>,
}

/// Processed event for the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Names of the destinations' queues, separated by commas.
    pub destinations: Arc<str>,
    /// Result in the ledger, as JSON.
    pub result: String,
    /// W3C trace context of the deliveries, if it differs from the entry's.
    pub traceparent: Option<String>,
}

impl Settled {
    /// Returns an entry that was never rescheduled and that no replica or destination waits for.
    #[must_use]
    pub const fn new(id: StreamId, outcome: SettleOutcome) -> Self {
        Self { id, outcome, moved: None, reply: None, forward: None }
    }
}

/// Entry to retry later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Id of the entry.
    pub id: StreamId,
    /// Delay from now, by Redis's clock.
    pub delay_ms: u64,
    /// Number of the next attempt.
    pub attempt: u32,
    /// Time of the first failure; `None`: the value in the entry stays, if there is one.
    pub first_failed_at: Option<Millis>,
    /// Error code if the event becomes a dead letter.
    pub error_code: DeadLetterCode,
    /// Description for people, cut to 500 characters. Must hold no secret and no body.
    pub error: String,
}

/// Entry to dead-letter.
#[derive(Clone, Debug)]
pub struct NewDeadLetter {
    /// Id of the entry.
    pub id: StreamId,
    /// Reason, as a code.
    pub error_code: DeadLetterCode,
    /// Description for people, cut to 500 characters. Must hold no secret and no body.
    pub error: String,
    /// Number of attempts made.
    pub attempts: u32,
    /// Time of the first failure; `None`: the value in the entry, else now.
    pub first_failed_at: Option<Millis>,
    /// Result to send to the replica that waits for the event.
    pub reply: Option<AddressedReply>,
}

/// Outcome of dead-lettering an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLettered {
    /// The entry is a dead letter.
    Done,
    /// The dead letters are at their bound. The entry is still pending for the caller, which
    /// reschedules it with the longest delay.
    Full,
    /// The entry is not pending for the caller any more. Nothing was done.
    Gone,
}

/// Result of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// Entries that can be read again.
    pub moved: u64,
    /// Members of the retry set that were removed because their entry no longer existed.
    pub vanished: u64,
    /// Time until the next entry is due, zero if it is due now; `None`: the retry set is empty.
    pub next_due: Option<Duration>,
}

/// Result of an orphan sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrphanSweep {
    /// Cursor of the next sweep; `None`: the end of the stream was reached.
    pub cursor: Option<StreamId>,
    /// Orphans put into the retry set, due at once. Any is worth an alert.
    pub rescheduled: u64,
}

impl Queue {
    /// Settles events whose effect is in the database. Returns per id whether this call removed the
    /// entry. Only then the script counts and forwards the event and publishes its result.
    ///
    /// If entries were deleted by hand while pending, the number of true values is exact for
    /// entries that are only counted, but their positions are not.
    ///
    /// # Errors
    /// If Redis does not answer. Settle all of them again: the ledger makes that harmless.
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

    /// Puts entries pending for `consumer` into the retry set. Returns per entry whether this was
    /// done; false: the consumer no longer holds it.
    ///
    /// # Errors
    /// If Redis does not answer. Entries not scheduled are still pending and will be claimed.
    pub async fn schedule_retry(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        entries: &[Retry],
    ) -> Result<Vec<bool>, CallError> {
        self.schedule(keys, consumer, entries, 0, false).await
    }

    /// Like [`Self::schedule_retry`], for a delivery of which `excused` executions spent no
    /// attempt.
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

    /// Like [`Self::schedule_excused`], for a delivery to a busy destination.
    /// [`Self::release_held`] ends the wait early.
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
    /// If Redis does not answer. Calling again is safe.
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

    /// Promotes up to `limit` due entries. An entry due later than `max_delay_ms` from now is due
    /// now, because the clock was set back since.
    ///
    /// # Errors
    /// If Redis does not answer.
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

    /// Dead-letters entries pending for `consumer`, unless the dead letters already number
    /// `max_len`.
    ///
    /// # Errors
    /// If Redis does not answer. Entries not moved are still pending and will be claimed.
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

    /// Examines a few entries after `cursor` (`None`: from the beginning). Schedules those that
    /// were delivered at least ten minutes ago and are neither pending nor in the retry set.
    ///
    /// # Errors
    /// If Redis does not answer, or there is no group.
    pub async fn sweep_orphans(
        &self,
        keys: &PlatformKeys,
        cursor: Option<StreamId>,
    ) -> Result<OrphanSweep, CallError> {
        self.sweep_orphans_older_than(keys, cursor, ORPHAN_AGE_MS).await
    }

    /// Like [`Self::sweep_orphans`], with a minimum age in milliseconds.
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

/// Groups consecutive entries that are only counted, as pairs of counter and length. Any other
/// entry forms a run of its own, so that its own removal is known exactly.
fn runs(entries: &[Settled]) -> Vec<(&'static str, usize)> {
    let alone =
        |entry: &Settled| entry.moved.is_some() || entry.reply.is_some() || entry.forward.is_some();
    let alike = |a: &Settled, b: &Settled| {
        a.outcome.counter() == b.outcome.counter() && !alone(a) && !alone(b)
    };
    entries.chunk_by(alike).map(|run| (run[0].outcome.counter(), run.len())).collect()
}

/// Replies of `entries` with their positions, and the keys under which they are stored.
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
