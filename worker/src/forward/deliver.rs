//! One delivery: one attempt, and what becomes of it.
//!
//! Guarantee: an entry is settled only after a 2xx. An attempt is spent only while the circuit is closed. Whatever Redis
//! does not confirm is tried again, or left pending for whoever claims it: so a delivery may be sent twice, under the same
//! id, and is never forgotten.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use secrecy::ExposeSecret;
use shared::backoff::Backoff;
use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, StreamId};
use shared::metrics::DeliveryOutcome;
use shared::outbound::client::header_map;
use shared::outbound::delivery::Attempt;
use shared::outbound::format;
use shared::outbound::headers::{MAX_HOPS, TRACEPARENT, headers};
use shared::queue::{DeadLettered, Entry, Fault, NewDeadLetter, Pace, Retry, SettleOutcome, Settled, decode};
use shared::trace::{self, Span, SpanKind};

use super::circuit::Circuit;
use super::judge::{Next, Spends, Tried, judge, shut_out};
use super::lane::Lane;
use crate::consumer::chain;

/// Pauses between two calls of a Redis that does not answer.
const REDIS_MIN: Duration = Duration::from_millis(50);
const REDIS_MAX: Duration = Duration::from_secs(1);

/// Interval at which a held delivery asks whether its destination is still busy.
const BUSY_LOOK: Duration = Duration::from_secs(5);

/// The lane is to stop; the entry stays pending and is handed back.
pub(super) struct Interrupted;

/// Lets go of an entry that the program failed over, so that it is claimed by time instead of being renewed for ever.
struct Hold<'l>(&'l Lane, StreamId);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.release(self.1);
        }
    }
}

/// Takes one entry to its end, or as far as it can be taken now.
pub(super) async fn deliver(lane: &Lane, entry: Entry, probe: bool) {
    let id = entry.id;
    let _hold = Hold(lane, id);
    let excused = excused(&entry);
    let next = match decode(entry) {
        Ok(event) => attempt(lane, &event, excused, probe).await.map(|next| (next, Some(event))),
        Err(shared::queue::Undecodable::Gone) => Ok((Next::Settle, None)),
        Err(reason) => {
            Ok((Next::Dead { code: DeadLetterCode::Undecodable, error: reason.to_string(), attempts: 1 }, None))
        }
    };
    let probed_nothing = probe && !matches!(next, Ok((_, Some(_))));
    if probed_nothing {
        lane.circuit(Circuit::forget_probe).await;
    }
    let done = match next {
        Ok((next, event)) => carry_out(lane, id, next, event.as_ref(), excused).await,
        Err(interrupted) => Err(interrupted),
    };
    // What is not finished when the lane stops is handed back; anything else is claimed by time.
    if done.is_ok() || !lane.stop.is_cancelled() {
        lane.release(id);
    }
}

/// Executions of a delivery that spent none of its attempts.
fn excused(entry: &Entry) -> u32 {
    let mut fields = entry.fields.iter().flat_map(|fields| fields.iter());
    let value = fields.find(|(name, _)| *name == b"excused").map(|(_, value)| value);
    value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0)
}

/// Sends it, if it may be sent.
async fn attempt(lane: &Lane, event: &Envelope, excused: u32, probe: bool) -> Result<Next, Interrupted> {
    if event.hops >= MAX_HOPS {
        lane.circuit(|circuit| {
            if probe {
                circuit.forget_probe()
            }
        })
        .await;
        let error = format!("passed on {} times from one Tributary to the next", event.hops);
        return Ok(Next::Dead { code: DeadLetterCode::Loop, error, attempts: event.attempt - 1 });
    }
    let may_go = !lane.is_gone() && leave(lane).await?;
    if !may_go {
        lane.circuit(|circuit| {
            if probe {
                circuit.forget_probe()
            }
        })
        .await;
        let error = "the destination has answered 410; resume it to send again".to_owned();
        return Ok(Next::Dead { code: DeadLetterCode::Gone, error, attempts: event.attempt - 1 });
    }
    if !probe && lane.circuit_is_open() {
        // Others have failed meanwhile.
        return Ok(shut_out(DeadLetterCode::Unreachable, "its circuit is open".to_owned()));
    }
    let mut span = begin(lane, event);
    let traceparent = span.as_ref().and_then(Span::traceparent).or_else(|| event.traceparent.clone());
    let (attempt, took) = send(lane, event, traceparent.as_deref()).await?;
    lane.metrics.duration(took);
    if let (Some(span), Attempt::Answered { status, .. }) = (&mut span, &attempt) {
        span.set("http.response.status_code", i64::from(*status));
    }
    let next = judge(lane, &Tried { event, excused, probe, attempt: &attempt, took }).await;
    if let (Some(span), Ok(next)) = (span, &next) {
        end(span, next);
    }
    next
}

/// What traces show of one attempt.
fn begin(lane: &Lane, event: &Envelope) -> Option<Span> {
    let mut span = trace::span("webhook deliver", SpanKind::Client, event.traceparent.as_deref(), trace::now()?)?;
    span.set("destination", lane.destination.name.as_str().to_owned());
    span.set("delivery_id", event.event_id.clone());
    span.set("event_type", event.event_type.clone());
    span.set("attempt", i64::from(event.attempt));
    Some(span)
}

fn end(mut span: Span, next: &Next) {
    match next {
        Next::Settle => span.end("delivered"),
        Next::Retry { code, .. } | Next::Busy { code, .. } => {
            span.failed(code.as_str());
            span.end("retried");
        }
        Next::Dead { code, .. } => {
            span.failed(code.as_str());
            span.end("dead_lettered");
        }
    }
}

/// Waits until the rate limit allows one more, and the destination is neither busy nor held back.
/// False: it has answered 410.
async fn leave(lane: &Lane) -> Result<bool, Interrupted> {
    let (name, limit) = (&lane.destination.name, lane.destination.limit);
    let mut told = false;
    loop {
        // It was read before somebody said so.
        lane.resumed().await.ok_or(Interrupted)?;
        let wait = match insist(lane, || lane.worker.queue.pace(&lane.keys, limit)).await? {
            Pace::Now => return Ok(true),
            Pace::Gone => {
                lane.note_gone();
                return Ok(false);
            }
            Pace::Paused => {
                lane.note_paused();
                continue;
            }
            // An operator may end the pause.
            Pace::Busy(wait) => wait.min(BUSY_LOOK),
            Pace::Limited(wait) => {
                if !told && lane.tell_of_limit() {
                    tracing::warn!(
                        "Rate limit exceeded for webhook {name}: {}/{}",
                        limit.max.saturating_add(1),
                        limit.max
                    );
                }
                told = true;
                wait
            }
        };
        lane.stop.run_until_cancelled(tokio::time::sleep(wait)).await.ok_or(Interrupted)?;
    }
}

async fn send(
    lane: &Lane,
    event: &Envelope,
    traceparent: Option<&str>,
) -> Result<(Attempt, Duration), Interrupted> {
    let destination = &lane.destination;
    let payload = String::from_utf8_lossy(&event.body);
    let body = Bytes::from(format::body(destination, &payload));
    let ours = headers(
        &destination.source,
        &destination.signing_secrets(lane.worker.now()),
        &event.event_type,
        &event.event_id,
        event.hops + 1,
        &body,
        lane.worker.now(),
    );
    let operators = destination.headers.iter().map(|(name, value)| (name.as_str(), value.expose_secret()));
    let ours = ours.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    // Checked when they were configured.
    let traced = traceparent.map(|context| (TRACEPARENT, context));
    let headers = header_map(operators.chain(ours).chain(traced)).map_err(|_| Interrupted)?;
    // Never cut off in mid-request by an order to stop: its time-out bounds it, and the grace period is for that.
    Ok(lane.client.post(&destination.url, headers, body, destination.timeout).await)
}

async fn carry_out(
    lane: &Lane,
    id: StreamId,
    next: Next,
    event: Option<&Envelope>,
    excused: u32,
) -> Result<(), Interrupted> {
    let (queue, keys, consumer) = (&lane.worker.queue, &lane.keys.queue, &lane.worker.consumer);
    let first_failed_at = event.and_then(|event| event.first_failed_at);
    match next {
        Next::Settle => {
            let mut settled = Settled::new(id, SettleOutcome::Processed);
            settled.moved = event.filter(|event| event.was_moved()).map(|event| event.event_id.clone());
            let entries = [settled];
            insist(lane, || queue.settle(keys, &entries)).await?;
            if event.is_some() {
                lane.metrics.delivery(DeliveryOutcome::Delivered, 1);
            }
        }
        Next::Retry { delay, spends, code, error } => {
            let before = event.map_or(1, |event| event.attempt);
            let (attempt, excused) = match spends {
                Spends::Nothing => (before, excused),
                Spends::Attempt => (before + 1, excused),
                Spends::Patience => (before + 1, excused + 1),
            };
            let spent = attempt > before;
            let retry = Retry {
                id,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                attempt,
                first_failed_at: first_failed_at.or_else(|| spent.then(|| lane.worker.now())),
                error_code: code,
                error,
            };
            insist(lane, || queue.schedule_excused(keys, consumer, &retry, excused)).await?;
            lane.metrics.delivery(DeliveryOutcome::Retried, 1);
        }
        Next::Busy { delay, code, error } => {
            let retry = Retry {
                id,
                delay_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
                attempt: event.map_or(1, |event| event.attempt),
                first_failed_at,
                error_code: code,
                error,
            };
            insist(lane, || queue.schedule_held(keys, consumer, &retry, excused)).await?;
            lane.metrics.delivery(DeliveryOutcome::Busy, 1);
        }
        Next::Dead { code, error, attempts } => {
            let letter = [NewDeadLetter {
                id,
                error_code: code,
                error: error.clone(),
                attempts,
                first_failed_at,
                reply: None,
            }];
            let most = lane.worker.dlq_max_len;
            let done = insist(lane, || queue.dead_letter(keys, consumer, consumer, &letter, most)).await?;
            if done.first() == Some(&DeadLettered::Full) {
                let retry = [Retry {
                    id,
                    delay_ms: u64::try_from(lane.destination.max_retry_delay.as_millis()).unwrap_or(u64::MAX),
                    attempt: attempts.max(1),
                    first_failed_at,
                    error_code: code,
                    error,
                }];
                lane.note_dead_letters(true);
                insist(lane, || queue.schedule_retry(keys, consumer, &retry)).await?;
            } else {
                lane.note_dead_letters(false);
                tracing::warn!(destination = %lane.destination.name, %id, %code, attempts, "dead letter");
                lane.metrics.delivery(DeliveryOutcome::DeadLettered, 1);
            }
        }
    }
    Ok(())
}

/// Makes a call until Redis answers it, or the worker is to stop and it does not.
pub(super) async fn insist<T, F>(lane: &Lane, mut call: impl FnMut() -> F) -> Result<T, Interrupted>
where
    F: Future<Output = Result<T, Fault>>,
{
    let backoff = Backoff::new(REDIS_MIN, REDIS_MAX);
    for attempt in 1.. {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(fault) if fault.is_no_group() || fault.is_wrong_type() => {
                tracing::error!(destination = %lane.destination.name, error = chain(&fault), "its keys are damaged");
                break;
            }
            Err(fault) => lane.worker.queue.outage_log().failed("settle deliveries", &fault),
        }
        let pause = backoff.delay(attempt, &mut rand::rng());
        if lane.stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            break;
        }
    }
    Err(Interrupted)
}
