//! Running a batch against the database until it answers.
//!
//! Guarantee: every planned event gets a verdict of its own. Batches that share a transaction get theirs from it only if it
//! commits; whatever is wrong with it, each runs by itself then, and nothing was spent or decided before. What also fails
//! without the event is never its fault: a rejected batch is halved until single events remain, and a single one is blamed
//! only if a write of the store's own commits right then. One event that waits for a locked row holds up neither its batch
//! nor other platforms: it comes again later, at no cost. While the database is away the batch is held, renewed, and costs
//! nothing.

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

/// A failure sooner than this was not a wait for a lock.
const TRANSIENT_WITHIN: Duration = Duration::from_secs(1);
/// How often a batch is tried again at once after such a failure.
const MAX_TRANSIENT_RETRIES: u32 = 2;
/// Events of a batch that may each wait for a lock in a transaction of their own.
const MAX_BLOCKED: usize = 3;
/// Pauses between two looks at a database that is away.
const OUTAGE_PROBE_MIN: Duration = Duration::from_millis(100);
const OUTAGE_PROBE_MAX: Duration = Duration::from_secs(2);

/// Applies the batches of a turn in one transaction. `None`: nothing is known of any of them, and each is to run by itself.
pub(super) async fn apply_shared(
    worker: &WorkerContext,
    turn: &[PlannedBatch],
) -> Option<Vec<Vec<ExecutionVerdict>>> {
    if turn.len() < 2 {
        return None;
    }
    let mut parts = Vec::with_capacity(turn.len());
    for PlannedBatch { platform_queue, deduped, .. } in turn {
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
                platforms = turn.len(),
                error = chain(&error),
                "not in one transaction; each by itself"
            );
            None
        }
    }
}

/// Applies `plans` in their order; the answer has their length and order.
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
        // The database commits, only not this. A connection that broke is worth another try at once; what took long
        // waited for something that one of these events needs, such as a row that somebody keeps locked.
        let may_be_transient = matches!(error, StoreError::Outage(_)) && !error.is_lock_timeout();
        if may_be_transient
            && begun.elapsed() < TRANSIENT_WITHIN
            && transient_retries < MAX_TRANSIENT_RETRIES
        {
            transient_retries += 1;
            continue;
        }
        if let [event] = plans {
            tracing::warn!(platform = %platform_queue.name(), event_id = %event.event_id, error = chain(&error),
                "the database does not take an event, but takes others");
            return Ok(vec![match error {
                StoreError::Rejected(_) => ExecutionVerdict::Rejected(chain(&error)),
                StoreError::Outage(_) => ExecutionVerdict::Blocked(chain(&error)),
            }]);
        }
        // Halves find a refused event in few transactions; one that is waited for would be waited for in each of them.
        let part =
            if matches!(error, StoreError::Rejected(_)) { plans.len().div_ceil(2) } else { 1 };
        let mut verdicts: Vec<ExecutionVerdict> = Vec::with_capacity(plans.len());
        for part in plans.chunks(part) {
            // A whole table is locked: the rest is retried later without a try now.
            let blocked = verdicts
                .iter()
                .filter(|verdict| matches!(verdict, ExecutionVerdict::Blocked(_)))
                .count();
            if blocked >= MAX_BLOCKED {
                verdicts.extend(part.iter().map(|_| ExecutionVerdict::Blocked(chain(&error))));
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
        // A worker that is stopped while it waits here has not crashed over an event.
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

/// The moment in which sessions were found missing. When Redis does not say whether an announcement is unfinished, one
/// may be on its way: that costs an event nothing but time.
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

/// Applies those events once more whose session was missing.
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

/// The log lines that operators look for.
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
            tracing::info!(platform = %platform_queue.name(), event_id = %event.event_id, trace_id, "Updated session {} status: {} -> {}",
                escape_control_chars(result.room_id.as_deref()), shown(result.old_status), shown(result.new_status));
        }
        ExecutionVerdict::Applied(Applied::MissingSession) => {
            tracing::warn!(platform = %platform_queue.name(), event_id = %event.event_id, trace_id,
                "No session found for live_stream_id={}, passthrough={}",
                escape_control_chars(event.live_stream_id.as_deref()), escape_control_chars(event.room.as_deref()));
        }
        _ => {}
    }
}

/// What a provider sent, so that it cannot look like a log line of ours.
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

/// An error with what lies beneath it.
pub fn chain(error: &dyn std::error::Error) -> String {
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
