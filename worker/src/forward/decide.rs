//! Decides the transition of a delivery after one attempt, and records the state of its
//! destination.
//!
//! # Guarantees
//! - An attempt is spent only while the circuit is closed and the destination is not busy
//!   (`busy_receiver_gets_everything_without_a_dead_letter`).
//! - Unexpected 4xx answers have a budget of their own. So a deploy that answers 404 first and 502
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

/// Shortest delay of a delivery that met an open circuit.
const OPEN_CIRCUIT_DELAY: Duration = Duration::from_secs(1);

/// Next transition of a delivery's entry.
pub(super) enum DeliveryTransition {
    /// Delivered.
    Settle,
    /// Retried after `delay`.
    Retry { delay: Duration, spends: SpentBudget, code: DeadLetterCode, error: String },
    /// Retried once the destination is not busy any more. No budget is spent.
    Busy { delay: Duration, code: DeadLetterCode, error: String },
    /// Dead-lettered.
    DeadLetter { code: DeadLetterCode, error: String, attempts: u32 },
}

/// Budget that an execution counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SpentBudget {
    /// None, because the circuit is open.
    Nothing,
    /// The destination's attempts.
    Attempt,
    /// The retries of [`UNEXPECTED_RETRY_DELAYS`].
    Patience,
}

/// One attempt, and the delivery it belongs to.
pub(super) struct AttemptedDelivery<'t> {
    pub(super) event: &'t Envelope,
    /// Earlier executions that spent a retry of [`UNEXPECTED_RETRY_DELAYS`] instead of an attempt.
    pub(super) excused: u32,
    pub(super) probe: bool,
    pub(super) attempt: &'t AttemptOutcome,
    pub(super) duration: Duration,
}

/// Decides the transition of the delivery, and records the state of the destination.
pub(super) async fn decide(
    sender: &DestinationSender,
    tried: &AttemptedDelivery<'_>,
) -> Result<DeliveryTransition, DeliveryInterruptedError> {
    let (destination, name) = (&sender.destination, &sender.destination.name);
    let AttemptedDelivery { event, attempt, .. } = tried;
    let meaning = attempt.verdict(destination.format);
    if let DeliveryVerdict::Delivered = meaning {
        sender.update_circuit(Circuit::succeeded).await;
        sender.note_delivered().await;
        let (delivery_id, trace_id) =
            (&event.event_id, trace::trace_id(event.traceparent.as_deref()));
        let status =
            if let AttemptOutcome::Answered { status, .. } = attempt { *status } else { 0 };
        tracing::info!(
            delivery_id,
            trace_id,
            "Webhook delivered successfully: {name} ({}ms, status: {status})",
            tried.duration.as_millis()
        );
        return Ok(DeliveryTransition::Settle);
    }
    let reason = attempt.reason();
    let now = sender.worker.now();
    // For display only.
    let _ = sender.worker.queue.note_error(&sender.keys, &reason, now).await;
    if !matches!(meaning, DeliveryVerdict::Retry { .. }) {
        sender.update_circuit(Circuit::succeeded).await;
    }
    match meaning {
        DeliveryVerdict::Delivered => Ok(DeliveryTransition::Settle),
        DeliveryVerdict::Gone => {
            sender.note_gone();
            retry_until_answered(sender, || sender.worker.queue.note_gone(&sender.keys)).await?;
            tracing::error!(destination = %name,
                "the destination answered 410; nothing is sent until it is resumed");
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
                tracing::warn!(destination = %name, pause_ms = held.pause.as_millis(),
                    reason = attempt.log_reason(),
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
            sender
                .update_circuit(|circuit| circuit.failed(Instant::now(), fault, tried.probe))
                .await;
            if was_open {
                return Ok(reschedule_while_open(code, reason));
            }
            Ok(spend_attempt(sender, tried, code, not_before, reason))
        }
    }
}

/// Spends an attempt. Dead-letters the delivery if that was the last one.
fn spend_attempt(
    sender: &DestinationSender,
    tried: &AttemptedDelivery<'_>,
    code: DeadLetterCode,
    not_before: Option<Duration>,
    error: String,
) -> DeliveryTransition {
    let spent = tried.event.attempt.saturating_sub(tried.excused).max(1);
    let max_attempts = sender.destination.max_attempts;
    if spent >= max_attempts {
        return dead(sender, tried, code, error);
    }
    let delay = sender.backoff().delay(spent, &mut rand::rng()).max(not_before.unwrap_or_default());
    log_retry(sender, tried, (spent, max_attempts), delay);
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

/// Retries without spending anything, once the circuit allows it.
pub(super) fn reschedule_while_open(code: DeadLetterCode, error: String) -> DeliveryTransition {
    DeliveryTransition::Retry {
        delay: OPEN_CIRCUIT_DELAY,
        spends: SpentBudget::Nothing,
        code,
        error,
    }
}
