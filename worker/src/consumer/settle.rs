//! Acknowledges entries: makes one script call for each kind of transition. No other module
//! acknowledges.
//!
//! # Guarantees
//! - An entry is released only after its script has answered. Until then the call is retried. Each
//!   script is conditional, so a repeated call changes nothing (`settle_twice_counts_once`).
//! - Counters and results count an event once, for the entry that this very call removed
//!   (`settle_twice_counts_once`).
//! - The settling script also publishes the result to waiting requests: the new one, the one in the
//!   ledger, or the dead letter (`settled_event_is_published_once_to_its_waiter`,
//!   `dead_letter_is_published_and_drops_its_reply_channel`).

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
use super::execute::error_chain;
use super::outcome::{EntryTransition, ExecutionVerdict};
use super::spans::Spans;
use crate::context::{PlatformQueue, WorkerContext};
use crate::effects::{Applied, EventAction};

/// Bounds of the pause between two calls while Redis does not answer.
const REDIS_RETRY_MIN: Duration = Duration::from_millis(50);
const REDIS_RETRY_MAX: Duration = Duration::from_secs(1);

/// Most entries per call. All calls of a batch are sent at once, so that they share a sync of
/// Redis.
const MAX_ENTRIES_PER_CALL: usize = 128;

/// Transitions of the entries of one batch.
pub(super) struct Settlement {
    finished: Vec<Settled>,
    received: Vec<Millis>,
    retries: Vec<Retry>,
    dead: Vec<NewDeadLetter>,
    deleted: Vec<StreamId>,
    taken_at: Instant,
    /// Identity of the entries in `retries` and `dead`, for log lines.
    named: HashMap<StreamId, LogIdentity>,
    spans: Spans,
}

/// Ids that a log line names an event by.
struct LogIdentity {
    event_id: String,
    trace_id: Option<String>,
}

impl Settlement {
    /// Creates a settlement for about `entries` entries that were received at `taken_at`.
    pub(super) fn new(taken_at: Instant, entries: usize) -> Self {
        Self {
            finished: Vec::with_capacity(entries),
            received: Vec::with_capacity(entries),
            retries: Vec::new(),
            dead: Vec::new(),
            deleted: Vec::new(),
            taken_at,
            named: HashMap::new(),
            spans: Spans::default(),
        }
    }

    /// Adds the entries of one event. All get the same transition, and only the first one counts as
    /// the event. `results` is for waiting requests, `forward` for destinations.
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
            let traceparent = self.spans.open(platform_queue.name(), copy, self.taken_at);
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
                    if let (EntryTransition::DeadLetter { code, .. }, Some(dead_letter)) =
                        (other, self.dead.last_mut())
                    {
                        dead_letter.reply = reply_to_waiter(
                            platform_queue,
                            copy,
                            ReplyOutcome::Dead(code.as_str().to_owned()),
                        );
                    }
                }
            }
        }
    }

    /// Adds an entry of which only the id and the attempt are known.
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

    /// Adds an entry that was deleted while it was pending, so that it is released.
    pub(super) fn deleted(&mut self, id: StreamId) {
        self.deleted.push(id);
        self.finished.push(Settled::new(id, SettleOutcome::Duplicate));
        self.received.push(Millis::MAX);
    }

    /// Returns the event id and the trace id of an entry, as far as they are known.
    fn names(&self, id: StreamId) -> (Option<&str>, Option<&str>) {
        let named = self.named.get(&id);
        (
            named.map(|named| named.event_id.as_str()),
            named.and_then(|named| named.trace_id.as_deref()),
        )
    }

    /// Counts the result of an applied event.
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

/// Returns the message for the request that waits for `event`, if there is one.
fn reply_to_waiter(
    platform_queue: &PlatformQueue,
    event: &Envelope,
    outcome: ReplyOutcome,
) -> Option<AddressedReply> {
    let channel = event.reply_to.clone()?;
    let (platform, event_id) = (platform_queue.name().as_str().to_owned(), event.event_id.clone());
    Some(AddressedReply { channel, reply: EventReply { platform, event_id, outcome } })
}

/// Executes all transitions and releases the entries.
pub(super) async fn run(
    worker: &WorkerContext,
    platform_queue: &Arc<PlatformQueue>,
    mut settlement: Settlement,
) -> Result<(), ConsumerInterruptedError> {
    for id in &settlement.deleted {
        tracing::error!(platform = %platform_queue.name(), %id,
            "a pending entry was deleted by another client; releasing it");
    }
    // A span that is not reached here ends as unfinished.
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
    // Calls of equal size, because each call has a fixed cost.
    let entries_per_call = entries.len().div_ceil(entries.len().div_ceil(MAX_ENTRIES_PER_CALL));
    let parts = entries.chunks(entries_per_call).map(|part| async move {
        let settle = || worker.queue.settle(&platform_queue.keys, part);
        // Without an answer, no entry is known to have been removed by this call.
        let removed = retry_until_answered(worker, platform_queue, settle).await?;
        Ok(removed.unwrap_or_else(|| vec![false; part.len()]))
    });
    let removed = try_join_all(parts).await?.into_iter().flatten();
    let now = worker.now();
    let elapsed = settlement.taken_at.elapsed();
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
        platform_queue.metrics.processing_duration(elapsed);
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
            tracing::debug!(platform = %platform_queue.name(), event_id, trace_id, id = %retry.id,
                delay_ms = retry.delay_ms, attempt = retry.attempt,
                code = %retry.error_code, "retry scheduled");
        }
    }
    worker.inflight.release(platform_queue.name(), retries.iter().map(|retry| retry.id));
    platform_queue.rescheduled.store(true, Ordering::Relaxed);
    worker.rescheduled.notify_one();
    Ok(())
}

/// Moves events to the dead letters. If these are full, an event is retried at the longest delay
/// instead.
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
    let move_entries = || {
        worker.queue.dead_letter(
            &platform_queue.keys,
            &worker.consumer,
            &worker.consumer,
            dead,
            worker.dlq_max_len,
        )
    };
    let done =
        retry_until_answered(worker, platform_queue, move_entries).await?.unwrap_or_default();
    let (mut held_back, mut full, mut moved) = (Vec::new(), false, false);
    for (dead_letter, done) in dead.iter().zip(done) {
        match done {
            DeadLettered::Done => {
                platform_queue.metrics.event(EventOutcome::DeadLettered);
                moved = true;
                spans.close(dead_letter.id, "dead_lettered", Some(dead_letter.error_code));
                let (event_id, trace_id) = settlement.names(dead_letter.id);
                tracing::warn!(platform = %platform_queue.name(), event_id, trace_id,
                    id = %dead_letter.id, code = %dead_letter.error_code,
                    attempts = dead_letter.attempts, reason = dead_letter.error, "dead letter");
            }
            // A retry would end another worker. The entry stays pending, and is claimed and moved
            // later.
            DeadLettered::Full if dead_letter.error_code == DeadLetterCode::CrashLoop => {
                full = true
            }
            DeadLettered::Full => held_back.push(Retry {
                id: dead_letter.id,
                delay_ms: u64::try_from(worker.policy.backoff.max().as_millis())
                    .unwrap_or(u64::MAX),
                attempt: dead_letter.attempts.max(1),
                first_failed_at: dead_letter.first_failed_at,
                error_code: dead_letter.error_code,
                error: dead_letter.error.clone(),
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
    let released = dead.iter().map(|dead_letter| dead_letter.id).filter(|id| !kept.contains(id));
    worker.inflight.release(platform_queue.name(), released);
    reschedule(worker, platform_queue, settlement, &held_back, spans).await
}

/// Retries a call until Redis answers or the worker is stopped. Returns `None` if the platform's
/// keys are damaged. The entries then stay in place until they are claimed, or are delivered again
/// once the reader has repaired the group.
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
                tracing::error!(platform = %platform_queue.name(), error = error_chain(&fault),
                    "the platform's keys are damaged; leaving its entries in place");
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
