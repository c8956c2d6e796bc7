//! The only place that acks: what was decided becomes one script call per kind of transition.
//!
//! Guarantee: an entry is let go of only after its script has answered. While Redis does not answer the same calls are
//! made again; each is conditional, so a repeated one changes nothing. What must be counted once per event is counted
//! only for entries that this very call removed. Whoever waits for an event is told by that very script: of what it did,
//! now or, if the ledger had it, then; or that it is a dead letter.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde_json::value::RawValue;
use shared::backoff::Backoff;
use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, Millis, StreamId};
use shared::metrics::{Action as Counted, EventOutcome};
use shared::queue::{
    AddressedReply, CallError, DeadLettered, EventReply, NewDeadLetter, OutboxEntry, ReplyOutcome,
    Retry, SettleOutcome, Settled,
};
use shared::trace::trace_id;

use super::ConsumerInterruptedError;
use super::execute::chain;
use super::outcome::{EntryTransition, ExecutionVerdict};
use super::spans::Spans;
use crate::context::{PlatformQueue, WorkerContext};
use crate::effects::{Applied, EventAction};

/// Pauses between two calls of a Redis that does not answer.
const REDIS_RETRY_MIN: Duration = Duration::from_millis(50);
const REDIS_RETRY_MAX: Duration = Duration::from_secs(1);

/// Entries that one call settles at most. All calls of a batch are on their way at once, so that they share Redis's sync.
const MAX_ENTRIES_PER_CALL: usize = 128;

/// What was decided for the entries of one batch.
pub(super) struct Settlement {
    finished: Vec<Settled>,
    received: Vec<Millis>,
    retries: Vec<Retry>,
    dead: Vec<NewDeadLetter>,
    deleted: Vec<StreamId>,
    taken: Instant,
    /// Those of `retries` and `dead`, for their log lines.
    named: HashMap<StreamId, LogIdentity>,
    spans: Spans,
}

/// What a log line calls an event.
struct LogIdentity {
    event_id: String,
    trace_id: Option<String>,
}

impl Settlement {
    /// For about `entries` entries that were taken at `taken`.
    pub(super) fn new(taken: Instant, entries: usize) -> Self {
        Self {
            finished: Vec::with_capacity(entries),
            received: Vec::with_capacity(entries),
            retries: Vec::new(),
            dead: Vec::new(),
            deleted: Vec::new(),
            taken,
            named: HashMap::new(),
            spans: Spans::default(),
        }
    }

    /// All entries of one event end as the first does; only one of them counts as it. `results` is what it did, for
    /// those who wait for it; `forward`, for destinations.
    pub(super) fn add<'e>(
        &mut self,
        platform_queue: &PlatformQueue,
        copies: impl IntoIterator<Item = &'e Envelope>,
        next: &EntryTransition,
        results: Option<&RawValue>,
        forward: Option<OutboxEntry>,
    ) {
        let mut forward = forward;
        for (position, copy) in copies.into_iter().enumerate() {
            let traceparent = self.spans.open(platform_queue.name(), copy, self.taken);
            match next {
                EntryTransition::Settle(outcome) => {
                    let outcome = if position == 0 { *outcome } else { SettleOutcome::Duplicate };
                    self.finished.push(Settled {
                        id: copy.id,
                        outcome,
                        forward: forward
                            .take_if(|_| outcome != SettleOutcome::Duplicate)
                            .map(|forward| OutboxEntry { traceparent, ..forward }),
                        moved: copy.was_requeued().then(|| copy.event_id.clone()),
                        reply: results.and_then(|results| {
                            reply_to_waiter(
                                platform_queue,
                                copy,
                                ReplyOutcome::Processed(results.to_owned()),
                            )
                        }),
                    });
                    self.received.push(copy.received_at);
                }
                other => {
                    let trace_id = trace_id(copy.traceparent.as_deref().or(traceparent.as_deref()))
                        .map(str::to_owned);
                    self.named
                        .insert(copy.id, LogIdentity { event_id: copy.event_id.clone(), trace_id });
                    self.add_raw(copy.id, copy.attempt, other);
                    if let (EntryTransition::DeadLetter { code, .. }, Some(letter)) =
                        (other, self.dead.last_mut())
                    {
                        letter.reply = reply_to_waiter(
                            platform_queue,
                            copy,
                            ReplyOutcome::Dead(code.as_str().to_owned()),
                        );
                    }
                }
            }
        }
    }

    /// An entry of which no more is known than its id and attempt.
    pub(super) fn add_raw(&mut self, id: StreamId, executions: u32, next: &EntryTransition) {
        match next.clone() {
            EntryTransition::Settle(outcome) => {
                self.finished.push(Settled::new(id, outcome));
                self.received.push(Millis::MAX);
            }
            EntryTransition::Retry { delay, attempt, first_failed_at, code, error } => {
                self.retries.push(Retry {
                    id,
                    delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                    attempt,
                    first_failed_at,
                    error_code: code,
                    error,
                })
            }
            EntryTransition::DeadLetter { code, error } => self.dead.push(NewDeadLetter {
                id,
                error_code: code,
                error,
                attempts: executions,
                first_failed_at: None,
                reply: None,
            }),
        }
    }

    /// An entry that was deleted while it was pending: nothing is left to do but to forget it.
    pub(super) fn deleted(&mut self, id: StreamId) {
        self.deleted.push(id);
        self.finished.push(Settled::new(id, SettleOutcome::Duplicate));
        self.received.push(Millis::MAX);
    }

    /// What log lines say of an entry: its event's id and its trace's, as far as they are known.
    fn names(&self, id: StreamId) -> (Option<&str>, Option<&str>) {
        let named = self.named.get(&id);
        (
            named.map(|named| named.event_id.as_str()),
            named.and_then(|named| named.trace_id.as_deref()),
        )
    }

    /// Counts what an applied event did.
    pub(super) fn count_result(&self, platform_queue: &PlatformQueue, verdict: &ExecutionVerdict) {
        if let ExecutionVerdict::Applied(Applied::Done(result)) = verdict {
            platform_queue.metrics.session_update(match result.action {
                EventAction::StatusUpdated => Counted::StatusUpdated,
                EventAction::StatusUnchanged => Counted::StatusUnchanged,
                EventAction::StaleIgnored => Counted::StaleIgnored,
                EventAction::Recorded => Counted::Recorded,
                EventAction::Logged => Counted::Logged,
            });
            for warning in &result.warnings {
                platform_queue.metrics.column_warning(warning);
            }
        }
    }
}

/// What is told to who waits for `event`; `None`: nobody does.
fn reply_to_waiter(
    platform_queue: &PlatformQueue,
    event: &Envelope,
    outcome: ReplyOutcome,
) -> Option<AddressedReply> {
    let channel = event.reply_to.clone()?;
    let (platform, event_id) = (platform_queue.name().as_str().to_owned(), event.event_id.clone());
    Some(AddressedReply { channel, reply: EventReply { platform, event_id, outcome } })
}

/// Carries out what was decided, and lets go of the entries.
pub(super) async fn run(
    worker: &WorkerContext,
    platform_queue: &Arc<PlatformQueue>,
    mut settlement: Settlement,
) -> Result<(), ConsumerInterruptedError> {
    for id in &settlement.deleted {
        tracing::error!(platform = %platform_queue.name(), %id, "a pending entry was deleted by somebody else");
    }
    // What is not reached says of itself that it was not finished here.
    let mut spans = std::mem::take(&mut settlement.spans);
    finish(worker, platform_queue, &settlement, &mut spans).await?;
    reschedule(worker, platform_queue, &settlement, &settlement.retries, &mut spans).await?;
    dead_letter(worker, platform_queue, &settlement, &mut spans).await
}

async fn finish(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    settlement: &Settlement,
    spans: &mut Spans,
) -> Result<(), ConsumerInterruptedError> {
    let entries = &settlement.finished;
    if entries.is_empty() {
        return Ok(());
    }
    // As alike as they can be: a call costs something beside its entries.
    let alike = entries.len().div_ceil(entries.len().div_ceil(MAX_ENTRIES_PER_CALL));
    let parts = entries.chunks(alike).map(|part| async move {
        let settle = || worker.queue.settle(&platform_queue.keys, part);
        // Unanswered, none of them is known to have been removed here.
        let removed = retry_until_answered(worker, platform_queue, settle).await?;
        Ok(removed.unwrap_or_else(|| vec![false; part.len()]))
    });
    let removed = try_join_all(parts).await?.into_iter().flatten();
    let now = worker.now();
    let took = settlement.taken.elapsed();
    for ((entry, removed), received_at) in entries.iter().zip(removed).zip(&settlement.received) {
        if !removed {
            continue;
        }
        let (outcome, shown) = match entry.outcome {
            SettleOutcome::Processed => (EventOutcome::Processed, "processed"),
            SettleOutcome::Stale => (EventOutcome::Stale, "stale"),
            SettleOutcome::Duplicate => (EventOutcome::Duplicate, "duplicate"),
        };
        platform_queue.metrics.event(outcome);
        spans.close(entry.id, shown, None);
        platform_queue.metrics.processing_duration(took);
        if let Ok(age) = u64::try_from(now - received_at) {
            platform_queue.metrics.end_to_end_duration(Duration::from_millis(age));
        }
    }
    worker.inflight.release(platform_queue.name(), entries.iter().map(|entry| entry.id));
    Ok(())
}

async fn reschedule(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    settlement: &Settlement,
    retries: &[Retry],
    spans: &mut Spans,
) -> Result<(), ConsumerInterruptedError> {
    if retries.is_empty() {
        return Ok(());
    }
    let schedule = || worker.queue.schedule_retry(&platform_queue.keys, &worker.consumer, retries);
    let done = retry_until_answered(worker, platform_queue, schedule).await?.unwrap_or_default();
    for (retry, done) in retries.iter().zip(done) {
        if done {
            platform_queue.metrics.event(EventOutcome::Retried);
            spans.close(retry.id, "retried", Some(retry.error_code));
            let (event_id, trace_id) = settlement.names(retry.id);
            tracing::debug!(platform = %platform_queue.name(), event_id, trace_id, id = %retry.id, delay_ms = retry.delay_ms, attempt = retry.attempt,
                code = %retry.error_code, "will be executed again");
        }
    }
    worker.inflight.release(platform_queue.name(), retries.iter().map(|retry| retry.id));
    platform_queue.rescheduled.store(true, Ordering::Relaxed);
    worker.rescheduled.notify_one();
    Ok(())
}

/// Moves events to the dead letters; where those are full, an event keeps trying at the longest delay instead.
async fn dead_letter(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    settlement: &Settlement,
    spans: &mut Spans,
) -> Result<(), ConsumerInterruptedError> {
    let dead: &[NewDeadLetter] = &settlement.dead;
    if dead.is_empty() {
        return Ok(());
    }
    let move_them = || {
        worker.queue.dead_letter(
            &platform_queue.keys,
            &worker.consumer,
            &worker.consumer,
            dead,
            worker.dlq_max_len,
        )
    };
    let done = retry_until_answered(worker, platform_queue, move_them).await?.unwrap_or_default();
    let (mut held_back, mut full, mut moved) = (Vec::new(), false, false);
    for (letter, done) in dead.iter().zip(done) {
        match done {
            DeadLettered::Done => {
                platform_queue.metrics.event(EventOutcome::DeadLettered);
                moved = true;
                spans.close(letter.id, "dead_lettered", Some(letter.error_code));
                let (event_id, trace_id) = settlement.names(letter.id);
                tracing::warn!(platform = %platform_queue.name(), event_id, trace_id, id = %letter.id, code = %letter.error_code,
                    attempts = letter.attempts, reason = letter.error, "dead letter");
            }
            // Scheduled again it would be executed again, and would end another worker. It stays pending, and is
            // claimed and brought here again later.
            DeadLettered::Full if letter.error_code == DeadLetterCode::CrashLoop => full = true,
            DeadLettered::Full => held_back.push(Retry {
                id: letter.id,
                delay_ms: u64::try_from(worker.policy.backoff.max().as_millis())
                    .unwrap_or(u64::MAX),
                attempt: letter.attempts.max(1),
                first_failed_at: letter.first_failed_at,
                error_code: letter.error_code,
                error: letter.error.clone(),
            }),
            DeadLettered::Gone => {}
        }
    }
    if full || !held_back.is_empty() {
        platform_queue.note_dead_letters_full(true);
    } else if moved {
        platform_queue.note_dead_letters_full(false);
    }
    let kept: HashSet<StreamId> = held_back.iter().map(|retry| retry.id).collect();
    let gone = dead.iter().map(|letter| letter.id).filter(|id| !kept.contains(id));
    worker.inflight.release(platform_queue.name(), gone);
    reschedule(worker, platform_queue, settlement, &held_back, spans).await
}

/// Makes a call until Redis answers it, or the worker is to stop. `None`: the platform's keys are not as they should be;
/// what was to be moved stays where it is and comes back by a claim, or as new once the reader has repaired the group.
pub(super) async fn retry_until_answered<T, F>(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    mut call: impl FnMut() -> F,
) -> Result<Option<T>, ConsumerInterruptedError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let backoff = Backoff::new(REDIS_RETRY_MIN, REDIS_RETRY_MAX);
    for attempt in 1.. {
        match call().await {
            Ok(answer) => return Ok(Some(answer)),
            Err(fault) if fault.is_no_group() || fault.is_wrong_type() => {
                tracing::error!(platform = %platform_queue.name(), error = chain(&fault), "the platform's keys are damaged");
                return Ok(None);
            }
            Err(fault) => worker.queue.outage_log().failed("settle events", &fault),
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        if worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Err(ConsumerInterruptedError)
}
