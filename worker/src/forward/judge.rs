//! Result of one attempt: what happens to the delivery, and what is noted of the destination.
//!
//! # Guarantees
//!
//! - An attempt is spent only while the circuit is closed and the destination is not busy
//!   (`busy_receiver_gets_everything_without_a_dead_letter`).
//! - Unexpected 4xx answers spend attempts of their own, so that a deploy with a 404 first and a 502
//!   then costs no dead letter (`receivers_deploy_costs_no_dead_letter`).

use std::time::{Duration, Instant};

use shared::error_code::DeadLetterCode;
use shared::event::Envelope;
use shared::outbound::delivery::{Attempt, LONGEST_BUSY, Meaning, PATIENCE, patient_pause};
use shared::trace;

use super::circuit::{Circuit, Fault as Failure};
use super::deliver::{Interrupted, insist};
use super::lane::Lane;

/// A delivery that met an open circuit waits at least this long.
const SHUT_OUT: Duration = Duration::from_secs(1);

/// Next state of an entry.
pub(super) enum Next {
    /// Delivered.
    Settle,
    /// Tried again.
    Retry { delay: Duration, spends: Spends, code: DeadLetterCode, error: String },
    /// Tried again when the destination is not busy any more; nothing is spent.
    Busy { delay: Duration, code: DeadLetterCode, error: String },
    /// Dead letter.
    Dead { code: DeadLetterCode, error: String, attempts: u32 },
}

/// Budget that an execution counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spends {
    /// None: the circuit is open.
    Nothing,
    /// The destination's attempts.
    Attempt,
    /// The tries of [`PATIENCE`].
    Patience,
}

/// One attempt and its delivery.
pub(super) struct Tried<'t> {
    pub(super) event: &'t Envelope,
    /// Earlier executions that spent [`PATIENCE`] instead of an attempt.
    pub(super) excused: u32,
    pub(super) probe: bool,
    pub(super) attempt: &'t Attempt,
    pub(super) took: Duration,
}

/// Decides what happens to the delivery, and notes what that says of the destination.
pub(super) async fn judge(lane: &Lane, tried: &Tried<'_>) -> Result<Next, Interrupted> {
    let (destination, name) = (&lane.destination, &lane.destination.name);
    let Tried { event, attempt, .. } = tried;
    let meaning = attempt.meaning(destination.format);
    if let Meaning::Delivered = meaning {
        lane.circuit(Circuit::succeeded).await;
        lane.not_busy().await;
        let (delivery_id, trace_id) = (&event.event_id, trace::trace_id(event.traceparent.as_deref()));
        let status = if let Attempt::Answered { status, .. } = attempt { *status } else { 0 };
        tracing::info!(
            delivery_id,
            trace_id,
            "Webhook delivered successfully: {name} ({}ms, status: {status})",
            tried.took.as_millis()
        );
        return Ok(Next::Settle);
    }
    let reason = attempt.reason();
    let now = lane.worker.now();
    // For showing only.
    let _ = lane.worker.queue.note_error(&lane.keys, &reason, now).await;
    if !matches!(meaning, Meaning::Again { .. }) {
        lane.circuit(Circuit::succeeded).await;
    }
    match meaning {
        Meaning::Delivered => Ok(Next::Settle),
        Meaning::Gone => {
            lane.note_gone();
            insist(lane, || lane.worker.queue.note_gone(&lane.keys)).await?;
            tracing::error!(destination = %name, "the destination answered 410: nothing more is sent until it is resumed");
            Ok(Next::Dead { code: DeadLetterCode::Gone, error: reason, attempts: event.attempt })
        }
        Meaning::Never { code } => Ok(Next::Dead { code, error: reason, attempts: event.attempt }),
        Meaning::Busy { code, pause } => {
            let held = insist(lane, || lane.worker.queue.hold_destination(&lane.keys, pause)).await?;
            lane.note_busy(held);
            if held.begins {
                tracing::warn!(destination = %name, pause_ms = held.pause.as_millis(), reason = attempt.brief(),
                    "the destination is busy; its deliveries wait");
            }
            if held.busy < LONGEST_BUSY {
                return Ok(Next::Busy { delay: held.pause, code, error: reason });
            }
            Ok(spend(lane, tried, code, Some(held.pause), reason))
        }
        Meaning::Unexpected { code, not_before, passing } => {
            let since = event.first_failed_at.map_or(0, |at| now.saturating_sub(at));
            let elapsed = Duration::from_millis(u64::try_from(since).unwrap_or(0));
            match patient_pause(tried.excused, elapsed, not_before) {
                Some(delay) => {
                    let tries = u32::try_from(PATIENCE.len()).unwrap_or(u32::MAX);
                    retrying(lane, tried, (tried.excused + 1, tries + 1), delay);
                    Ok(Next::Retry { delay, spends: Spends::Patience, code, error: reason })
                }
                None if passing => Ok(spend(lane, tried, code, not_before, reason)),
                None => Ok(dead(lane, tried, code, reason)),
            }
        }
        Meaning::Again { code, not_before } => {
            let was_open = lane.circuit_is_open();
            let fault = if code == DeadLetterCode::Http5xx { Failure::Failing } else { Failure::NoAnswer };
            lane.circuit(|circuit| circuit.failed(Instant::now(), fault, tried.probe)).await;
            if was_open {
                return Ok(shut_out(code, reason));
            }
            Ok(spend(lane, tried, code, not_before, reason))
        }
    }
}

/// Spends an attempt; the delivery is a dead letter if that was the last.
fn spend(
    lane: &Lane,
    tried: &Tried<'_>,
    code: DeadLetterCode,
    not_before: Option<Duration>,
    error: String,
) -> Next {
    let spent = tried.event.attempt.saturating_sub(tried.excused).max(1);
    let most = lane.destination.max_attempts;
    if spent >= most {
        return dead(lane, tried, code, error);
    }
    let delay = lane.backoff().delay(spent, &mut rand::rng()).max(not_before.unwrap_or_default());
    retrying(lane, tried, (spent, most), delay);
    Next::Retry { delay, spends: Spends::Attempt, code, error }
}

fn dead(lane: &Lane, tried: &Tried<'_>, code: DeadLetterCode, error: String) -> Next {
    let event = tried.event;
    let (delivery_id, trace_id) = (&event.event_id, trace::trace_id(event.traceparent.as_deref()));
    tracing::error!(destination = %lane.destination.name, delivery_id, trace_id,
        "Webhook delivery failed after {} attempts: {}", event.attempt, tried.attempt.brief());
    Next::Dead { code, error, attempts: event.attempt }
}

fn retrying(lane: &Lane, tried: &Tried<'_>, (number, of): (u32, u32), delay: Duration) {
    let event = tried.event;
    let (delivery_id, trace_id) = (&event.event_id, trace::trace_id(event.traceparent.as_deref()));
    tracing::warn!(
        delivery_id,
        trace_id,
        "Webhook delivery failed (attempt {number}/{of}): {} - {}. Retrying in {}ms...",
        lane.destination.name,
        tried.attempt.brief(),
        delay.as_millis()
    );
}

/// Retry at no cost, when the circuit allows it.
pub(super) fn shut_out(code: DeadLetterCode, error: String) -> Next {
    Next::Retry { delay: SHUT_OUT, spends: Spends::Nothing, code, error }
}
