//! Result of one attempt: what happens to the delivery, and what is noted of the destination.
//!
//! # Guarantees
//!
//! - An attempt is spent only while the circuit is closed and the destination is not busy
//!   (`busy_receiver_gets_everything_without_a_dead_letter`).
//! - Unexpected 4xx answers spend attempts of their own, so that a deploy with a 404 first and a 502
//!   then costs no dead letter (`receiver_deploy_costs_no_dead_letter`).

use std::time::{Duration, Instant};

use shared::error_code::DeadLetterCode;
use shared::event::Envelope;
use shared::outbound::delivery::{
    AttemptOutcome, DeliveryVerdict, MAX_BUSY_TIME, UNEXPECTED_RETRY_DELAYS, unexpected_retry_delay,
};
use shared::trace;

use super::circuit::{Circuit, DestinationFault};
use super::deliver::{DeliveryInterruptedError, retry_until_answered};
use super::sender::DestinationSender;

/// A delivery that met an open circuit waits at least this long.
const OPEN_CIRCUIT_DELAY: Duration = Duration::from_secs(1);

/// Next state of an entry.
pub(super) enum DeliveryTransition {
    /// Delivered.
    Settle,
    /// Tried again.
    Retry { delay: Duration, spends: SpentBudget, code: DeadLetterCode, error: String },
    /// Tried again when the destination is not busy any more; nothing is spent.
    Busy { delay: Duration, code: DeadLetterCode, error: String },
    /// Dead letter.
    DeadLetter { code: DeadLetterCode, error: String, attempts: u32 },
}

/// Budget that an execution counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpentBudget {
    /// None: the circuit is open.
    Nothing,
    /// The destination's attempts.
    Attempt,
    /// The tries of [`UNEXPECTED_RETRY_DELAYS`].
    Patience,
}

/// One attempt and its delivery.
pub(super) struct AttemptedDelivery<'t> {
    pub(super) event: &'t Envelope,
    /// Earlier executions that spent [`UNEXPECTED_RETRY_DELAYS`] instead of an attempt.
    pub(super) excused: u32,
    pub(super) probe: bool,
    pub(super) attempt: &'t AttemptOutcome,
    pub(super) took: Duration,
}

/// Decides what happens to the delivery, and notes what that says of the destination.
pub(super) async fn decide(
    sender: &DestinationSender,
    tried: &AttemptedDelivery<'_>,
) -> Result<DeliveryTransition, DeliveryInterruptedError> {
    let (destination, name) = (&sender.destination, &sender.destination.name);
    let AttemptedDelivery { event, attempt, .. } = tried;
    let meaning = attempt.verdict(destination.format);
    if let DeliveryVerdict::Delivered = meaning {
        sender.circuit(Circuit::succeeded).await;
        sender.note_delivered().await;
        let (delivery_id, trace_id) =
            (&event.event_id, trace::trace_id(event.traceparent.as_deref()));
        let status =
            if let AttemptOutcome::Answered { status, .. } = attempt { *status } else { 0 };
        tracing::info!(
            delivery_id,
            trace_id,
            "Webhook delivered successfully: {name} ({}ms, status: {status})",
            tried.took.as_millis()
        );
        return Ok(DeliveryTransition::Settle);
    }
    let reason = attempt.reason();
    let now = sender.worker.now();
    // For showing only.
    let _ = sender.worker.queue.note_error(&sender.keys, &reason, now).await;
    if !matches!(meaning, DeliveryVerdict::Retry { .. }) {
        sender.circuit(Circuit::succeeded).await;
    }
    match meaning {
        DeliveryVerdict::Delivered => Ok(DeliveryTransition::Settle),
        DeliveryVerdict::Gone => {
            sender.note_gone();
            retry_until_answered(sender, || sender.worker.queue.note_gone(&sender.keys)).await?;
            tracing::error!(destination = %name, "the destination answered 410: nothing more is sent until it is resumed");
            Ok(DeliveryTransition::DeadLetter {
                code: DeadLetterCode::Gone,
                error: reason,
                attempts: event.attempt,
            })
        }
        DeliveryVerdict::Final { code } => {
            Ok(DeliveryTransition::DeadLetter { code, error: reason, attempts: event.attempt })
        }
        DeliveryVerdict::Busy { code, pause } => {
            let held = retry_until_answered(sender, || {
                sender.worker.queue.hold_destination(&sender.keys, pause)
            })
            .await?;
            sender.note_busy(held);
            if held.begins {
                tracing::warn!(destination = %name, pause_ms = held.pause.as_millis(), reason = attempt.log_reason(),
                    "the destination is busy; its deliveries wait");
            }
            if held.busy < MAX_BUSY_TIME {
                return Ok(DeliveryTransition::Busy { delay: held.pause, code, error: reason });
            }
            Ok(spend_attempt(sender, tried, code, Some(held.pause), reason))
        }
        DeliveryVerdict::Unexpected { code, not_before, retryable } => {
            let since = event.first_failed_at.map_or(0, |at| now.saturating_sub(at));
            let elapsed = Duration::from_millis(u64::try_from(since).unwrap_or(0));
            match unexpected_retry_delay(tried.excused, elapsed, not_before) {
                Some(delay) => {
                    let tries = u32::try_from(UNEXPECTED_RETRY_DELAYS.len()).unwrap_or(u32::MAX);
                    log_retry(sender, tried, (tried.excused + 1, tries + 1), delay);
                    Ok(DeliveryTransition::Retry {
                        delay,
                        spends: SpentBudget::Patience,
                        code,
                        error: reason,
                    })
                }
                None if retryable => Ok(spend_attempt(sender, tried, code, not_before, reason)),
                None => Ok(dead(sender, tried, code, reason)),
            }
        }
        DeliveryVerdict::Retry { code, not_before } => {
            let was_open = sender.circuit_is_open();
            let fault = if code == DeadLetterCode::Http5xx {
                DestinationFault::Failing
            } else {
                DestinationFault::NoAnswer
            };
            sender.circuit(|circuit| circuit.failed(Instant::now(), fault, tried.probe)).await;
            if was_open {
                return Ok(reschedule_while_open(code, reason));
            }
            Ok(spend_attempt(sender, tried, code, not_before, reason))
        }
    }
}

/// Spends an attempt; the delivery is a dead letter if that was the last.
fn spend_attempt(
    sender: &DestinationSender,
    tried: &AttemptedDelivery<'_>,
    code: DeadLetterCode,
    not_before: Option<Duration>,
    error: String,
) -> DeliveryTransition {
    let spent = tried.event.attempt.saturating_sub(tried.excused).max(1);
    let most = sender.destination.max_attempts;
    if spent >= most {
        return dead(sender, tried, code, error);
    }
    let delay = sender.backoff().delay(spent, &mut rand::rng()).max(not_before.unwrap_or_default());
    log_retry(sender, tried, (spent, most), delay);
    DeliveryTransition::Retry { delay, spends: SpentBudget::Attempt, code, error }
}

fn dead(
    sender: &DestinationSender,
    tried: &AttemptedDelivery<'_>,
    code: DeadLetterCode,
    error: String,
) -> DeliveryTransition {
    let event = tried.event;
    let (delivery_id, trace_id) = (&event.event_id, trace::trace_id(event.traceparent.as_deref()));
    tracing::error!(destination = %sender.destination.name, delivery_id, trace_id,
        "Webhook delivery failed after {} attempts: {}", event.attempt, tried.attempt.log_reason());
    DeliveryTransition::DeadLetter { code, error, attempts: event.attempt }
}

fn log_retry(
    sender: &DestinationSender,
    tried: &AttemptedDelivery<'_>,
    (number, of): (u32, u32),
    delay: Duration,
) {
    let event = tried.event;
    let (delivery_id, trace_id) = (&event.event_id, trace::trace_id(event.traceparent.as_deref()));
    tracing::warn!(
        delivery_id,
        trace_id,
        "Webhook delivery failed (attempt {number}/{of}): {} - {}. Retrying in {}ms...",
        sender.destination.name,
        tried.attempt.log_reason(),
        delay.as_millis()
    );
}

/// Retry at no cost, when the circuit allows it.
pub(super) fn reschedule_while_open(code: DeadLetterCode, error: String) -> DeliveryTransition {
    DeliveryTransition::Retry {
        delay: OPEN_CIRCUIT_DELAY,
        spends: SpentBudget::Nothing,
        code,
        error,
    }
}
