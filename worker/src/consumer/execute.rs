//! Applies a batch to the database, and finds the events that the database rejects.
//!
//! # Guarantees
//! - Each planned event gets a verdict of its own. If a shared transaction fails, each of its
//!   batches is applied separately (`shared_transaction_isolates_a_refused_platform`).
//! - An event is blamed only if it fails alone while a probe write succeeds. A rejected batch is
//!   halved until single events remain (`refusal_of_every_row_is_blamed_on_no_event`).
//! - An event that waits for a locked row is retried later without spending an attempt. It delays
//!   neither its batch nor other platforms (`locked_row_delays_only_its_own_event`).
//! - While the database is unavailable, the batch stays held and spends no attempt
//!   (`postgres_outage_of_half_a_minute_spends_no_attempt`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::event::Millis;

use super::outcome::{DecisionContext, ExecutionVerdict};
use super::{ConsumerInterruptedError, PlannedBatch};
use crate::context::{PlatformQueue, WorkerContext};
use crate::effects::{Applied, EventAction, PlannedEvent};
use crate::store::{PlatformEvents, StoreError};

/// A failure within this time was no wait for a lock.
const TRANSIENT_WITHIN: Duration = Duration::from_secs(1);
/// Immediate retries of a batch after such a failure.
const MAX_TRANSIENT_RETRIES: u32 = 2;
/// Events of a batch that may each wait for a lock in a transaction of their own.
const MAX_BLOCKED: usize = 3;
/// Bounds of the pause between two probes of an unavailable database.
const OUTAGE_PROBE_MIN: Duration = Duration::from_millis(100);
const OUTAGE_PROBE_MAX: Duration = Duration::from_secs(2);

/// Applies several batches in one transaction. Returns `None` if it failed. Nothing is decided
/// then, and each batch is to be applied separately.
pub(super) async fn apply_shared(
    worker: &WorkerContext,
    batches: &[PlannedBatch],
) -> Option<Vec<Vec<ExecutionVerdict>>> {
    if batches.len() < 2 {
        return None;
    }
    let mut parts = Vec::with_capacity(batches.len());
    for PlannedBatch { platform_queue, deduped, .. } in batches {
        parts.push(PlatformEvents { platform: &platform_queue.platform, events: &deduped.plans });
    }
    match worker.store.apply_together(&parts).await {
        Ok(applied) => {
            worker.note_commit();
            let verdicts =
                |applied: Vec<_>| applied.into_iter().map(ExecutionVerdict::Applied).collect();
            Some(applied.into_iter().map(verdicts).collect())
        }
        Err(error) => {
            tracing::debug!(
                platforms = batches.len(),
                error = error_chain(&error),
                "shared transaction failed; applying each batch separately"
            );
            None
        }
    }
}

/// Applies `plans` in their order. The result has their length and order.
pub(super) async fn apply_events(
    worker: &WorkerContext,
    platform_queue: &Arc<PlatformQueue>,
    plans: &[PlannedEvent],
) -> Result<Vec<ExecutionVerdict>, ConsumerInterruptedError> {
    if plans.is_empty() {
        return Ok(Vec::new());
    }
    let mut transient_retries = 0;
    loop {
        let begun = Instant::now();
        let error = match worker.store.apply(&platform_queue.platform, plans).await {
            Ok(applied) => {
                worker.note_commit();
                return Ok(applied.into_iter().map(ExecutionVerdict::Applied).collect());
            }
            Err(error) => error,
        };
        if let Err(trouble) = worker.store.probe().await {
            wait_for_database(worker, platform_queue, &trouble).await?;
            continue;
        }
        // The database commits other writes. A broken connection is worth an immediate retry. A
        // slow failure waited for a resource of one of these events, such as a locked row.
        let may_be_transient = matches!(error, StoreError::Outage(_)) && !error.is_lock_timeout();
        if may_be_transient
            && begun.elapsed() < TRANSIENT_WITHIN
            && transient_retries < MAX_TRANSIENT_RETRIES
        {
            transient_retries += 1;
            continue;
        }
        if let [event] = plans {
            tracing::warn!(platform = %platform_queue.name(), event_id = %event.event_id,
                error = error_chain(&error),
                "the database rejects or blocks one event but accepts others");
            return Ok(vec![match error {
                StoreError::Rejected(_) => ExecutionVerdict::Rejected(error_chain(&error)),
                StoreError::Outage(_) => ExecutionVerdict::Blocked(error_chain(&error)),
            }]);
        }
        // Halving finds a rejected event in few transactions. A locked row would block each of
        // them, so events run one by one.
        let part =
            if matches!(error, StoreError::Rejected(_)) { plans.len().div_ceil(2) } else { 1 };
        let mut verdicts: Vec<ExecutionVerdict> = Vec::with_capacity(plans.len());
        for part in plans.chunks(part) {
            // A whole table is locked. The rest is retried later without an attempt now.
            let blocked = verdicts
                .iter()
                .filter(|verdict| matches!(verdict, ExecutionVerdict::Blocked(_)))
                .count();
            if blocked >= MAX_BLOCKED {
                verdicts
                    .extend(part.iter().map(|_| ExecutionVerdict::Blocked(error_chain(&error))));
            } else {
                verdicts.extend(Box::pin(apply_events(worker, platform_queue, part)).await?);
            }
        }
        return Ok(verdicts);
    }
}

/// Waits until the database commits again.
async fn wait_for_database(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    error: &StoreError,
) -> Result<(), ConsumerInterruptedError> {
    worker.note_probe(Err(error));
    let backoff = Backoff::new(OUTAGE_PROBE_MIN, OUTAGE_PROBE_MAX);
    let mut cleared = false;
    for attempt in 1.. {
        // A worker that is stopped here has not crashed over an event.
        if !cleared {
            cleared = worker
                .queue
                .clear_suspects(&platform_queue.keys, &worker.inflight.of(platform_queue.name()))
                .await
                .is_ok();
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        if worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(ConsumerInterruptedError);
        }
        if worker.store.probe().await.is_ok() {
            worker.note_probe(Ok(()));
            return Ok(());
        }
    }
    Ok(())
}

/// Returns the context in which sessions were found missing. If Redis does not answer, an
/// announcement may be unfinished, so the events only wait longer.
pub(super) async fn missing_session_context(worker: &WorkerContext) -> DecisionContext {
    let oldest_announcement = match worker.announcements() {
        Some(platform_queue) => match worker.queue.depth(&platform_queue.keys).await {
            Ok(depth) => depth.head_received_at,
            Err(_) => Some(Millis::MIN),
        },
        None => None,
    };
    DecisionContext { oldest_announcement, ..DecisionContext::at(worker) }
}

/// Applies the events whose session was missing once more.
pub(super) async fn retry_missing_sessions(
    worker: &WorkerContext,
    platform_queue: &Arc<PlatformQueue>,
    plans: &[PlannedEvent],
    verdicts: &mut [ExecutionVerdict],
) -> Result<(), ConsumerInterruptedError> {
    let missing: Vec<usize> =
        (0..verdicts.len()).filter(|at| verdicts[*at].is_missing_session()).collect();
    let again: Vec<PlannedEvent> = missing.iter().map(|at| plans[*at].clone()).collect();
    for (at, verdict) in
        missing.into_iter().zip(apply_events(worker, platform_queue, &again).await?)
    {
        verdicts[at] = verdict;
    }
    Ok(())
}

/// Writes the log lines that operators search for.
pub(super) fn log(
    platform_queue: &PlatformQueue,
    event: &PlannedEvent,
    trace_id: Option<&str>,
    verdict: &ExecutionVerdict,
) {
    tracing::info!(platform = %platform_queue.name(), event_id = %event.event_id, trace_id,
        "Processing {} webhook event: {}", platform_queue.label(), event.event_type);
    match verdict {
        ExecutionVerdict::Applied(Applied::Done(result))
            if result.action == EventAction::StatusUpdated =>
        {
            let shown = |status: Option<shared::platform::SessionStatus>| {
                status.map_or("none", |status| status.as_str())
            };
            tracing::info!(platform = %platform_queue.name(), event_id = %event.event_id,
                trace_id, "Updated session {} status: {} -> {}",
                escape_control_chars(result.room_id.as_deref()), shown(result.old_status),
                shown(result.new_status));
        }
        ExecutionVerdict::Applied(Applied::MissingSession) => {
            tracing::warn!(platform = %platform_queue.name(), event_id = %event.event_id, trace_id,
                "No session found for live_stream_id={}, passthrough={}",
                escape_control_chars(event.live_stream_id.as_deref()),
                escape_control_chars(event.room.as_deref()));
        }
        _ => {}
    }
}

/// Escapes control characters, so that a provider's text cannot forge a log line.
fn escape_control_chars(text: Option<&str>) -> Cow<'_, str> {
    match text {
        None => Cow::Borrowed("none"),
        Some(text) if text.contains(char::is_control) => Cow::Owned(
            text.chars()
                .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
                .collect(),
        ),
        Some(text) => Cow::Borrowed(text),
    }
}

/// Formats an error with all its sources.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    escape_control_chars(Some(&text)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_log_values_are_escaped() {
        let forged = "a\n2026-01-01 INFO Updated session victim status: live -> ended\u{1b}[0m";
        let shown = escape_control_chars(Some(forged));
        assert!(!shown.contains(char::is_control), "{shown}");
        assert!(shown.starts_with("a\\n2026"), "{shown}");
        assert_eq!(escape_control_chars(Some("room_123 ü")), "room_123 ü");
        assert_eq!(escape_control_chars(None), "none");
    }
}
