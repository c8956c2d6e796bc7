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

use super::outcome::{Moment, Verdict};
use super::{Interrupted, Ready};
use crate::effects::{Action, Applied, Planned};
use crate::store::{Part, StoreError};
use crate::worker::{Lane, Worker};

/// A failure sooner than this was not a wait for a lock.
const BLIP: Duration = Duration::from_secs(1);
/// How often a batch is tried again at once after such a failure.
const MAX_BLIPS: u32 = 2;
/// Events of a batch that may each wait for a lock in a transaction of their own.
const MAX_BLOCKED: usize = 3;
/// Pauses between two looks at a database that is away.
const OUTAGE_MIN: Duration = Duration::from_millis(100);
const OUTAGE_MAX: Duration = Duration::from_secs(2);

/// Applies the batches of a turn in one transaction. `None`: nothing is known of any of them, and each is to run by itself.
pub(super) async fn together(worker: &Worker, turn: &[Ready]) -> Option<Vec<Vec<Verdict>>> {
    if turn.len() < 2 {
        return None;
    }
    let mut parts = Vec::with_capacity(turn.len());
    for Ready { lane, folded, .. } in turn {
        parts.push(Part { platform: &lane.platform, events: &folded.plans });
    }
    match worker.store.apply_together(&parts).await {
        Ok(applied) => {
            worker.note_commit();
            let verdicts = |applied: Vec<_>| applied.into_iter().map(Verdict::Applied).collect();
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
pub(super) async fn run(worker: &Worker, lane: &Arc<Lane>, plans: &[Planned]) -> Result<Vec<Verdict>, Interrupted> {
    if plans.is_empty() {
        return Ok(Vec::new());
    }
    let mut blips = 0;
    loop {
        let begun = Instant::now();
        let error = match worker.store.apply(&lane.platform, plans).await {
            Ok(applied) => {
                worker.note_commit();
                return Ok(applied.into_iter().map(Verdict::Applied).collect());
            }
            Err(error) => error,
        };
        if let Err(trouble) = worker.store.probe().await {
            outage(worker, lane, &trouble).await?;
            continue;
        }
        // The database commits, only not this. A connection that broke is worth another try at once; what took long
        // waited for something that one of these events needs, such as a row that somebody keeps locked.
        let may_be_a_blip = matches!(error, StoreError::Outage(_)) && !error.is_lock_timeout();
        if may_be_a_blip && begun.elapsed() < BLIP && blips < MAX_BLIPS {
            blips += 1;
            continue;
        }
        if let [event] = plans {
            tracing::warn!(platform = %lane.name(), event_id = %event.event_id, error = chain(&error),
                "the database does not take an event, but takes others");
            return Ok(vec![match error {
                StoreError::Rejected(_) => Verdict::Rejected(chain(&error)),
                StoreError::Outage(_) => Verdict::Blocked(chain(&error)),
            }]);
        }
        // Halves find a refused event in few transactions; one that is waited for would be waited for in each of them.
        let part = if matches!(error, StoreError::Rejected(_)) { plans.len().div_ceil(2) } else { 1 };
        let mut verdicts: Vec<Verdict> = Vec::with_capacity(plans.len());
        for part in plans.chunks(part) {
            // A whole table is locked: the rest is retried later without a try now.
            let blocked = verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Blocked(_))).count();
            if blocked >= MAX_BLOCKED {
                verdicts.extend(part.iter().map(|_| Verdict::Blocked(chain(&error))));
            } else {
                verdicts.extend(Box::pin(run(worker, lane, part)).await?);
            }
        }
        return Ok(verdicts);
    }
}

/// Waits until the database commits again.
async fn outage(worker: &Worker, lane: &Lane, error: &StoreError) -> Result<(), Interrupted> {
    worker.note_probe(Err(error));
    let backoff = Backoff::new(OUTAGE_MIN, OUTAGE_MAX);
    let mut cleared = false;
    for attempt in 1.. {
        // A worker that is stopped while it waits here has not crashed over an event.
        if !cleared {
            cleared = worker.queue.clear_suspects(&lane.keys, &worker.inflight.of(lane.name())).await.is_ok();
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        if worker.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Err(Interrupted);
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
pub(super) async fn moment_of_missing(worker: &Worker) -> Moment {
    let oldest_announcement = match worker.announcements() {
        Some(lane) => match worker.queue.depth(&lane.keys).await {
            Ok(depth) => depth.head_received_at,
            Err(_) => Some(Millis::MIN),
        },
        None => None,
    };
    Moment { oldest_announcement, ..Moment::at(worker) }
}

/// Applies those events once more whose session was missing.
pub(super) async fn look_again(
    worker: &Worker,
    lane: &Arc<Lane>,
    plans: &[Planned],
    verdicts: &mut [Verdict],
) -> Result<(), Interrupted> {
    let missing: Vec<usize> = (0..verdicts.len()).filter(|at| verdicts[*at].is_missing_session()).collect();
    let again: Vec<Planned> = missing.iter().map(|at| plans[*at].clone()).collect();
    for (at, verdict) in missing.into_iter().zip(run(worker, lane, &again).await?) {
        verdicts[at] = verdict;
    }
    Ok(())
}

/// The log lines that operators look for.
pub(super) fn log(lane: &Lane, event: &Planned, trace_id: Option<&str>, verdict: &Verdict) {
    tracing::info!(platform = %lane.name(), event_id = %event.event_id, trace_id,
        "Processing {} webhook event: {}", lane.label(), event.event_type);
    match verdict {
        Verdict::Applied(Applied::Done(result)) if result.action == Action::StatusUpdated => {
            let shown =
                |status: Option<shared::platform::SessionStatus>| status.map_or("none", |status| status.as_str());
            tracing::info!(platform = %lane.name(), event_id = %event.event_id, trace_id, "Updated session {} status: {} -> {}",
                legible(result.room_id.as_deref()), shown(result.old_status), shown(result.new_status));
        }
        Verdict::Applied(Applied::MissingSession) => {
            tracing::warn!(platform = %lane.name(), event_id = %event.event_id, trace_id,
                "No session found for live_stream_id={}, passthrough={}",
                legible(event.live_stream_id.as_deref()), legible(event.room.as_deref()));
        }
        _ => {}
    }
}

/// What a provider sent, so that it cannot look like a log line of ours.
fn legible(text: Option<&str>) -> Cow<'_, str> {
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
    legible(Some(&text)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_sent_cannot_begin_a_line_of_its_own() {
        let forged = "a\n2026-01-01 INFO Updated session victim status: live -> ended\u{1b}[0m";
        let shown = legible(Some(forged));
        assert!(!shown.contains(char::is_control), "{shown}");
        assert!(shown.starts_with("a\\n2026"), "{shown}");
        assert_eq!(legible(Some("room_123 ü")), "room_123 ü");
        assert_eq!(legible(None), "none");
    }
}
