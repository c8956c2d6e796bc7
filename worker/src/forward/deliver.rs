//! Makes one attempt at a delivery, and executes the transition that follows.
//!
//! # Guarantees
//! - An entry is settled only after a 2xx answer (`killed_workers_lose_no_delivery`).
//! - A transition that Redis does not confirm is retried, or the entry stays pending until it is
//!   claimed. So a delivery may be sent twice, under the same id, but is never lost
//!   (`killed_workers_lose_no_delivery`).

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use secrecy::ExposeSecret;
use shared::backoff::Backoff;
use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, StreamId};
use shared::metrics::DeliveryOutcome;
use shared::outbound::client::header_map;
use shared::outbound::delivery::AttemptOutcome;
use shared::outbound::format;
use shared::outbound::headers::{MAX_HOPS, TRACEPARENT_HEADER, headers};
use shared::queue::{
    CallError, DeadLettered, DeliveryPermit, NewDeadLetter, Retry, SettleOutcome, Settled,
    StreamEntry, decode,
};
use shared::trace::{self, SpanKind, TraceSpan};

use super::circuit::Circuit;
use super::decide::{
    AttemptedDelivery, DeliveryTransition, SpentBudget, decide, reschedule_while_open,
};
use super::sender::DestinationSender;
use crate::consumer::error_chain;

/// Bounds of the pause between two calls while Redis does not answer.
const REDIS_RETRY_MIN: Duration = Duration::from_millis(50);
const REDIS_RETRY_MAX: Duration = Duration::from_secs(1);

/// Interval at which a waiting delivery checks whether its destination is still busy.
const BUSY_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The sender is stopping, or its keys are damaged. The entry stays pending.
pub(super) struct DeliveryInterruptedError;

/// Releases the entry after a panic, so that it can be claimed instead of being held forever.
struct ReleaseOnPanic<'l>(&'l DestinationSender, StreamId);

impl Drop for ReleaseOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.release(self.1);
        }
    }
}

/// Attempts one delivery and executes the transition that follows.
pub(super) async fn deliver(sender: &DestinationSender, entry: StreamEntry, probe: bool) {
    let id = entry.id;
    let _release = ReleaseOnPanic(sender, id);
    let excused = excused(&entry);
    let next = match decode(entry) {
        Ok(event) => attempt(sender, &event, excused, probe).await.map(|next| (next, Some(event))),
        Err(shared::queue::DecodeError::Gone) => Ok((DeliveryTransition::Settle, None)),
        Err(reason) => Ok((
            DeliveryTransition::DeadLetter {
                code: DeadLetterCode::Undecodable,
                error: reason.to_string(),
                attempts: 1,
            },
            None,
        )),
    };
    let probed_nothing = probe && !matches!(next, Ok((_, Some(_))));
    if probed_nothing {
        sender.update_circuit(Circuit::forget_probe).await;
    }
    let done = match next {
        Ok((next, event)) => apply_transition(sender, id, next, event.as_ref(), excused).await,
        Err(interrupted) => Err(interrupted),
    };
    // After a stop, the unfinished entry is handed back. Otherwise it can be claimed after
    // `CLAIM_IDLE_MS`.
    if done.is_ok() || !sender.stop.is_cancelled() {
        sender.release(id);
    }
}

/// Returns the executions of a delivery that spent none of its attempts.
fn excused(entry: &StreamEntry) -> u32 {
    let mut fields = entry.fields.iter().flat_map(|fields| fields.iter());
    let value = fields.find(|(name, _)| *name == b"excused").map(|(_, value)| value);
    value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// Sends the delivery, if it may be sent.
async fn attempt(
    sender: &DestinationSender,
    event: &Envelope,
    excused: u32,
    probe: bool,
) -> Result<DeliveryTransition, DeliveryInterruptedError> {
    if event.hops >= MAX_HOPS {
        sender
            .update_circuit(|circuit| {
                if probe {
                    circuit.forget_probe()
                }
            })
            .await;
        let error = format!("forwarded {} times between Tributary instances", event.hops);
        return Ok(DeliveryTransition::DeadLetter {
            code: DeadLetterCode::Loop,
            error,
            attempts: event.attempt - 1,
        });
    }
    let may_go = !sender.is_gone() && wait_for_permit(sender).await?;
    if !may_go {
        sender
            .update_circuit(|circuit| {
                if probe {
                    circuit.forget_probe()
                }
            })
            .await;
        let error = "the destination has answered 410; resume it to send again".to_owned();
        return Ok(DeliveryTransition::DeadLetter {
            code: DeadLetterCode::Gone,
            error,
            attempts: event.attempt - 1,
        });
    }
    if !probe && sender.circuit_is_open() {
        // Other deliveries have opened the circuit meanwhile.
        return Ok(reschedule_while_open(
            DeadLetterCode::Unreachable,
            "its circuit is open".to_owned(),
        ));
    }
    let mut span = begin(sender, event);
    let traceparent =
        span.as_ref().and_then(TraceSpan::traceparent).or_else(|| event.traceparent.clone());
    let (attempt, duration) = send(sender, event, traceparent.as_deref()).await?;
    sender.metrics.duration(duration);
    if let (Some(span), AttemptOutcome::Answered { status, .. }) = (&mut span, &attempt) {
        span.set("http.response.status_code", i64::from(*status));
    }
    let next =
        decide(sender, &AttemptedDelivery { event, excused, probe, attempt: &attempt, duration })
            .await;
    if let (Some(span), Ok(next)) = (span, &next) {
        end(span, next);
    }
    next
}

/// Opens the trace span of one attempt.
fn begin(sender: &DestinationSender, event: &Envelope) -> Option<TraceSpan> {
    let mut span = trace::span(
        "webhook deliver",
        SpanKind::Client,
        event.traceparent.as_deref(),
        trace::now()?,
    )?;
    span.set("destination", sender.destination.name.as_str().to_owned());
    span.set("delivery_id", event.event_id.clone());
    span.set("event_type", event.event_type.clone());
    span.set("attempt", i64::from(event.attempt));
    Some(span)
}

fn end(mut span: TraceSpan, next: &DeliveryTransition) {
    match next {
        DeliveryTransition::Settle => span.end("delivered"),
        DeliveryTransition::Retry { code, .. } | DeliveryTransition::Busy { code, .. } => {
            span.failed(code.as_str());
            span.end("retried");
        }
        DeliveryTransition::DeadLetter { code, .. } => {
            span.failed(code.as_str());
            span.end("dead_lettered");
        }
    }
}

/// Waits for the rate limit, and until the destination is neither busy nor paused. Returns false if
/// the destination has answered 410.
async fn wait_for_permit(sender: &DestinationSender) -> Result<bool, DeliveryInterruptedError> {
    let (name, limit) = (&sender.destination.name, sender.destination.limit);
    let mut logged = false;
    loop {
        // The destination may have been paused since the entry was read.
        sender.wait_until_resumed().await.ok_or(DeliveryInterruptedError)?;
        let wait = match retry_until_answered(sender, || {
            sender.worker.queue.acquire_delivery_permit(&sender.keys, limit)
        })
        .await?
        {
            DeliveryPermit::Now => return Ok(true),
            DeliveryPermit::Gone => {
                sender.note_gone();
                return Ok(false);
            }
            DeliveryPermit::Paused => {
                sender.note_paused();
                continue;
            }
            // An operator may end the busy state early.
            DeliveryPermit::Busy(wait) => wait.min(BUSY_POLL_INTERVAL),
            DeliveryPermit::Limited(wait) => {
                if !logged && sender.should_log_limit() {
                    tracing::warn!(
                        "Rate limit exceeded for webhook {name}: {}/{}",
                        limit.max.saturating_add(1),
                        limit.max
                    );
                }
                logged = true;
                wait
            }
        };
        sender
            .stop
            .run_until_cancelled(tokio::time::sleep(wait))
            .await
            .ok_or(DeliveryInterruptedError)?;
    }
}

async fn send(
    sender: &DestinationSender,
    event: &Envelope,
    traceparent: Option<&str>,
) -> Result<(AttemptOutcome, Duration), DeliveryInterruptedError> {
    let destination = &sender.destination;
    let payload = String::from_utf8_lossy(&event.body);
    let body = Bytes::from(format::body(destination, &payload));
    let ours = headers(
        &destination.source,
        &destination.signing_secrets(sender.worker.now()),
        &event.event_type,
        &event.event_id,
        event.hops + 1,
        &body,
        sender.worker.now(),
    );
    let operators =
        destination.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret()));
    let ours = ours.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // The configuration has checked these headers.
    let traced = traceparent.map(|context| (TRACEPARENT_HEADER, context));
    let headers =
        header_map(operators.chain(ours).chain(traced)).map_err(|_| DeliveryInterruptedError)?;
    // A stop does not cancel a request. Its timeout bounds it, and the grace period waits for it.
    Ok(sender.client.post(&destination.url, headers, body, destination.timeout).await)
}

async fn apply_transition(
    sender: &DestinationSender,
    id: StreamId,
    next: DeliveryTransition,
    event: Option<&Envelope>,
    excused: u32,
) -> Result<(), DeliveryInterruptedError> {
    let (queue, keys, consumer) =
        (&sender.worker.queue, &sender.keys.queue, &sender.worker.consumer);
    let first_failed_at = event.and_then(|event| event.first_failed_at);
    match next {
        DeliveryTransition::Settle => {
            let mut settled = Settled::new(id, SettleOutcome::Processed);
            settled.moved =
                event.filter(|event| event.was_requeued()).map(|event| event.event_id.clone());
            let entries = [settled];
            retry_until_answered(sender, || queue.settle(keys, &entries)).await?;
            if event.is_some() {
                sender.metrics.delivery(DeliveryOutcome::Delivered, 1);
            }
        }
        DeliveryTransition::Retry { delay, spends, code, error } => {
            let before = event.map_or(1, |event| event.attempt);
            let (attempt, excused) = match spends {
                SpentBudget::Nothing => (before, excused),
                SpentBudget::Attempt => (before + 1, excused),
                SpentBudget::Patience => (before + 1, excused + 1),
            };
            let spent = attempt > before;
            let retry = Retry {
                id,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                attempt,
                first_failed_at: first_failed_at.or_else(|| spent.then(|| sender.worker.now())),
                error_code: code,
                error,
            };
            retry_until_answered(sender, || {
                queue.schedule_excused(keys, consumer, &retry, excused)
            })
            .await?;
            sender.metrics.delivery(DeliveryOutcome::Retried, 1);
        }
        DeliveryTransition::Busy { delay, code, error } => {
            let retry = Retry {
                id,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                attempt: event.map_or(1, |event| event.attempt),
                first_failed_at,
                error_code: code,
                error,
            };
            retry_until_answered(sender, || queue.schedule_held(keys, consumer, &retry, excused))
                .await?;
            sender.metrics.delivery(DeliveryOutcome::Busy, 1);
        }
        DeliveryTransition::DeadLetter { code, error, attempts } => {
            let dead_letter = [NewDeadLetter {
                id,
                error_code: code,
                error: error.clone(),
                attempts,
                first_failed_at,
                reply: None,
            }];
            let max_len = sender.worker.dlq_max_len;
            let done = retry_until_answered(sender, || {
                queue.dead_letter(keys, consumer, consumer, &dead_letter, max_len)
            })
            .await?;
            if done.first() == Some(&DeadLettered::Full) {
                let retry = [Retry {
                    id,
                    delay_ms: u64::try_from(sender.destination.max_retry_delay.as_millis())
                        .unwrap_or(u64::MAX),
                    attempt: attempts.max(1),
                    first_failed_at,
                    error_code: code,
                    error,
                }];
                sender.note_dead_letters(true);
                retry_until_answered(sender, || queue.schedule_retry(keys, consumer, &retry))
                    .await?;
            } else {
                sender.note_dead_letters(false);
                tracing::warn!(destination = %sender.destination.name, %id, %code, attempts,
                    "dead letter");
                sender.metrics.delivery(DeliveryOutcome::DeadLettered, 1);
            }
        }
    }
    Ok(())
}

/// Retries a call until Redis answers, or until the sender is stopped.
pub(super) async fn retry_until_answered<T, F>(
    sender: &DestinationSender,
    mut call: impl FnMut() -> F,
) -> Result<T, DeliveryInterruptedError>
where
    F: Future<Output = Result<T, CallError>>,
{
    let backoff = Backoff::new(REDIS_RETRY_MIN, REDIS_RETRY_MAX);
    for attempt in 1.. {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(fault) if fault.is_no_group() || fault.is_wrong_type() => {
                tracing::error!(destination = %sender.destination.name,
                    error = error_chain(&fault),
                    "the destination's keys are damaged; leaving the delivery pending");
                break;
            }
            Err(fault) => sender.worker.queue.outage_log().failed("settle deliveries", &fault),
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        if sender.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Err(DeliveryInterruptedError)
}
