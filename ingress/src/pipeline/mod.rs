//! Processes a webhook from its route to its answer.
//!
//! # Guarantees
//!
//! - "Accepted" and "duplicate" are answered only for a verified request, after Redis confirmed it.
//!   (`redis_outcome_decides_the_response`)
//! - Cheap checks come first. An unverified body is not parsed.
//!   (`checks_run_in_the_order_of_the_contract`)
//!
//! # Design
//!
//! A compressed body is verified as sent. If that fails because of the body, it is decoded within
//! its bound and verified again. A body that cannot be decoded gets 400 if it verifies as sent, and
//! 401 otherwise. A body that is too large gets 413, on the wire and decoded.
//!
//! If the bytes on the wire verify and are JSON, they are the event, and `Content-Encoding` is
//! ignored. The header is wrong, or left over from a proxy that decoded the body. Otherwise an
//! unknown encoding gets 415, with or without a valid signature.
//!
//! With `invalid = "keep"`, a request that verifies on the wire gets no 400, 415 or 413 (decoded).
//! It is kept as a dead letter with its bytes on the wire.

mod batcher;
mod body;
pub(crate) mod content_encoding;
pub(crate) mod handshake;
pub(crate) mod identify;
pub(crate) mod local_rate_limit;
mod verify;
mod wait;

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use actix_web::dev::Payload;
use actix_web::http::header::HeaderMap;
use bytes::Bytes;
use futures_util::future::Either;
use shared::clock;
use shared::event::{EventTime, Millis, NewEvent};
use shared::json::{self, Document};
use shared::platform::InvalidRequestPolicy;
use shared::queue::Enqueued;
use shared::signature::Verified;
use shared::trace;

pub(crate) use batcher::{Batcher, Enqueue, EnqueueError, PlatformBatch};
pub(crate) use body::{BodyReader, InFlightPermit, ReceivedBody};

use crate::error::Error;
use crate::redis_gate::RedisGate;
use crate::targets::IngestTarget;
use content_encoding::ContentEncoding;
use identify::{Identified, IdentifyError, identify, unusable};
use verify::{RequestHeaders, verify_request};
pub use wait::preferred_wait;
pub(crate) use wait::{ResultWaiter, WaiterRegistry};

/// Ingest path of every request; cheap to clone.
///
/// Rare branches are boxed so that the future of a request stays small. It is created and moved
/// once per request.
#[derive(Clone)]
pub(crate) struct Pipeline {
    /// Reads bodies within the bounds.
    pub(crate) body_reader: BodyReader,
    /// Gate in front of Redis.
    pub(crate) gate: RedisGate,
    /// Handle of the batcher.
    pub(crate) batcher: Batcher,
    /// Requests that wait for a result.
    pub(crate) waiters: WaiterRegistry,
}

/// Outcome of an ingest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IngestStatus {
    /// Queued.
    Accepted,
    /// Seen before.
    Duplicate,
    /// No usable event; kept as a dead letter.
    KeptInvalid,
    /// Not subscribed.
    Ignored,
}

impl IngestStatus {
    /// Returns the name for traces.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::KeptInvalid => "kept_invalid",
            Self::Ignored => "ignored",
        }
    }
}

/// Reply to a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IngestReply {
    /// Id of the event. For a duplicate, the id of the first one. For a batch, the id of its first
    /// event; empty if it has none.
    pub(crate) event_id: String,
    /// Ids of the subscribed events of a batch, in order. Ids of all its events if none is
    /// subscribed.
    pub(crate) event_ids: Option<Vec<String>>,
    /// Outcome. A batch is a duplicate if all its events are, and then none of them is queued.
    pub(crate) status: IngestStatus,
}

impl IngestReply {
    fn to(events: &Identified, status: IngestStatus) -> Self {
        let mut ids = events.events().iter().map(|event| event.event_id.clone());
        match events {
            Identified::One(event) | Identified::Unusable(event) => {
                Self { event_id: event.event_id.clone(), event_ids: None, status }
            }
            Identified::Batch(_) => {
                let event_ids: Vec<String> = ids.by_ref().collect();
                let event_id = event_ids.first().cloned().unwrap_or_default();
                Self { event_id, event_ids: Some(event_ids), status }
            }
        }
    }
}

/// Result of an ingest.
pub(crate) enum IngestOutcome {
    /// Event or batch.
    Event(IngestReply),
    /// Event whose sender waits for the result. Its body is released already.
    Waiting(IngestReply, Box<ResultWaiter>),
    /// Handshake.
    Handshake(handshake::HandshakeReply),
}

/// Body after decoding.
enum DecodedBody {
    /// Not encoded, or not decoded because the result is not needed.
    Same,
    /// Decoded bytes.
    Is(Bytes),
    /// Malformed bytes.
    Malformed,
    /// Unknown encoding of a request that is kept.
    Unsupported,
    /// Decoded size over the bound, of a request that is kept.
    TooLarge,
}

impl From<Option<Bytes>> for DecodedBody {
    fn from(decoded: Option<Bytes>) -> Self {
        decoded.map_or(Self::Malformed, Self::Is)
    }
}

impl Pipeline {
    /// Ingests one webhook for `target`.
    ///
    /// # Errors
    /// The reason for the refusal; see [`Error`].
    pub(crate) async fn ingest(
        &self,
        target: &Arc<IngestTarget>,
        head: impl Borrow<HeaderMap>,
        payload: &mut Payload,
    ) -> Result<IngestOutcome, Error> {
        let began = trace::now();
        if !target.platform.enabled {
            return Err(Error::PlatformDisabled);
        }
        let keys = target.keys.as_ref().ok_or(Error::ConfigMissing)?;

        let ReceivedBody { bytes: wire, coding, mut held } =
            self.body_reader.read(head.borrow(), payload).await?;
        let (scheme, headers, now) =
            (&target.platform.scheme, RequestHeaders(head.borrow()), clock::now_ms());
        let on_wire = verify_request(scheme, keys, &headers, &wire, now, &self.gate);
        let keeps = on_wire.is_ok() && target.platform.invalid == InvalidRequestPolicy::Keep;
        let coding = match coding {
            Ok(None) => Ok(None),
            _ if is_json_as_sent(&on_wire, &wire) => Ok(None),
            Err(_) if !keeps => return Err(Error::UnsupportedEncoding),
            named => named,
        };
        let decoded = match coding.map(|coding| encoding_to_decode(coding, on_wire.as_ref().err()))
        {
            Err(_) => DecodedBody::Unsupported,
            Ok(None) => DecodedBody::Same,
            Ok(Some(coding)) => {
                match Box::pin(self.body_reader.decode(coding, &wire, &mut held)).await {
                    Err(Error::PayloadTooLarge { .. }) if keeps => DecodedBody::TooLarge,
                    decoded => decoded?.into(),
                }
            }
        };
        let (body, verified) = match decoded {
            DecodedBody::Is(ref body) => (
                body,
                on_wire
                    .or_else(|_| verify_request(scheme, keys, &headers, body, now, &self.gate))?,
            ),
            DecodedBody::Same
            | DecodedBody::Malformed
            | DecodedBody::Unsupported
            | DecodedBody::TooLarge => (&wire, on_wire?),
        };
        if let Some(reply) =
            handshake::answer_challenge(&target.platform, keys, &headers, &verified, body, now)
        {
            return Ok(IngestOutcome::Handshake(reply));
        }
        let found = match decoded {
            DecodedBody::Malformed => Err(IdentifyError::Coding),
            DecodedBody::Unsupported => Err(IdentifyError::UnknownCoding),
            DecodedBody::TooLarge => Err(IdentifyError::LargeDecoded),
            DecodedBody::Same | DecodedBody::Is(_) => identify(&target.platform, &verified, body),
        };
        let events = found.or_else(|reason| keep_or_refuse(target, &verified, body, reason))?;
        let mut events = match retain_subscribed(target, events) {
            Ok(events) => events,
            Err(ignored) => return Ok(IngestOutcome::Event(ignored)),
        };
        report_flaws(target, &events, now);
        let more = events.bytes().saturating_sub(body.len());
        if more > 0 {
            Box::pin(self.body_reader.count_more(&mut held, more)).await?;
        }
        let waiter = self.waiters.register(target, headers.0, &mut events).map(Box::new);
        // The next request reuses this memory while it is still in the caches.
        drop((decoded, wire, head));
        let answer = self.enqueue_traced(target, events, held, began).await?;
        Ok(match waiter {
            Some(waiter) => IngestOutcome::Waiting(answer, waiter),
            None => IngestOutcome::Event(answer),
        })
    }

    /// Queues an event or a batch of a verified sender. Redis decides about duplicate, backlog and
    /// rate limit, for a batch as a whole.
    ///
    /// # Errors
    /// The reason why the event is not known to be queued.
    pub(crate) async fn enqueue(
        &self,
        target: &Arc<IngestTarget>,
        events: impl Into<Identified>,
        held: InFlightPermit,
    ) -> Result<IngestReply, Error> {
        self.enqueue_traced(target, events.into(), held, trace::now()).await
    }

    /// Queues likewise, within a span that began at `began`. Only requests of verified senders are
    /// traced.
    fn enqueue_traced(
        &self,
        target: &Arc<IngestTarget>,
        mut events: Identified,
        held: InFlightPermit,
        began: Option<SystemTime>,
    ) -> impl Future<Output = Result<IngestReply, Error>> {
        match began.and_then(|began| span(target, &mut events, began)) {
            None => Either::Left(self.enqueue_untraced(target, events, held)),
            Some(span) => {
                Either::Right(Box::pin(traced(span, self.enqueue_untraced(target, events, held))))
            }
        }
    }

    /// Calls the batcher now. The returned future waits for the outcome.
    fn enqueue_untraced(
        &self,
        target: &Arc<IngestTarget>,
        events: Identified,
        held: InFlightPermit,
    ) -> impl Future<Output = Result<IngestReply, Error>> {
        let admitted = self
            .gate
            .check_open()
            .and_then(|()| target.limiter.as_ref().map_or(Ok(()), |limiter| limiter.admit()));
        let asked = admitted.map(|()| {
            let unusable = matches!(events, Identified::Unusable(_));
            let answer = IngestReply::to(
                &events,
                if unusable { IngestStatus::KeptInvalid } else { IngestStatus::Accepted },
            );
            (answer, Instant::now(), self.batcher.enqueue(target, events, held))
        });
        async move {
            let (mut answer, asked, outcome) = asked?;
            let outcome = outcome.await;
            target.metrics.enqueue_duration(asked.elapsed());
            match outcome? {
                Enqueued::Accepted => {}
                Enqueued::Duplicate => answer.status = IngestStatus::Duplicate,
                Enqueued::Overloaded if answer.status == IngestStatus::KeptInvalid => {
                    return Err(Error::DeadLettersFull);
                }
                Enqueued::Overloaded => return Err(Error::BacklogFull),
                Enqueued::RateLimited { retry_after_s } => {
                    return Err(Error::RateLimited { retry_after_s });
                }
                Enqueued::Refused => {
                    return Err(Error::QueueUnavailable("Redis refused the entry"));
                }
            }
            self.gate.check_durable()?;
            Ok(answer)
        }
    }
}

/// Returns true if a body verifies as sent and is JSON as sent.
fn is_json_as_sent(on_wire: &Result<Verified<'_>, Error>, wire: &Bytes) -> bool {
    on_wire.is_ok() && Document::parse_text(&json::text(wire)).is_ok()
}

/// Returns the encoding to decode. A body that verifies as sent is decoded, and one whose decoded
/// bytes may verify.
fn encoding_to_decode(
    coding: Option<ContentEncoding>,
    refused: Option<&Error>,
) -> Option<ContentEncoding> {
    coding.filter(|_| refused.is_none_or(Error::could_verify_after_decoding))
}

/// Ends `span` with the outcome of `answer`.
async fn traced(
    mut span: trace::TraceSpan,
    answer: impl Future<Output = Result<IngestReply, Error>>,
) -> Result<IngestReply, Error> {
    let answer = answer.await;
    match &answer {
        Ok(answer) => span.end(answer.status.as_str()),
        Err(error) => {
            span.failed(error.errcode());
            span.end("refused");
        }
    }
    answer
}

/// Creates the span of a request that began at `began`, and makes it the parent of the events.
fn span(
    target: &IngestTarget,
    events: &mut Identified,
    began: SystemTime,
) -> Option<trace::TraceSpan> {
    let first = events.events().first()?;
    let mut span = trace::span(
        "webhook receive",
        trace::SpanKind::Server,
        first.traceparent.as_deref(),
        began,
    )?;
    span.set("platform", target.platform.name.as_str().to_owned());
    span.set("event_id", first.event_id.clone());
    span.set("event_type", first.event_type.clone());
    if let Identified::Batch(events) = &*events {
        span.set("events", i64::try_from(events.len()).unwrap_or(i64::MAX));
    }
    let traceparent = span.traceparent();
    match events {
        Identified::One(event) | Identified::Unusable(event) => event.traceparent = traceparent,
        Identified::Batch(events) => {
            events.iter_mut().for_each(|event| event.traceparent.clone_from(&traceparent))
        }
    }
    Some(span)
}

/// Builds the dead letter of a verified request that is no usable event, for a sender that does not
/// retry after a 4xx.
fn keep_or_refuse(
    target: &IngestTarget,
    verified: &Verified<'_>,
    body: &Bytes,
    reason: IdentifyError,
) -> Result<Identified, Error> {
    match target.platform.invalid {
        InvalidRequestPolicy::Refuse => Err(Error::InvalidPayload(reason)),
        InvalidRequestPolicy::Keep => {
            Ok(Identified::Unusable(unusable(&target.platform, verified, body, &reason)))
        }
    }
}

/// Logs and counts problems of `events`, which arrived at `now`.
fn report_flaws(target: &IngestTarget, events: &Identified, now: Millis) {
    if let Identified::Unusable(NewEvent { event_id, unusable: Some(reason), .. }) = events {
        let platform = target.platform.name.as_str();
        tracing::warn!(
            platform,
            event_id,
            reason,
            "verified request is no usable event; dead-lettering it"
        );
    }
    for event in events.events() {
        let NewEvent { event_id, event_type, occurred_at, .. } = event;
        let platform = target.platform.name.as_str();
        match occurred_at {
            EventTime::Unreadable => {
                target.metrics.unreadable_time();
                if target.unreadable_logged.is_due() {
                    tracing::warn!(
                        platform,
                        event_id,
                        event_type,
                        "event time is unreadable; the event is ordered before every known time \
                         (logged once a minute)"
                    );
                }
            }
            EventTime::Known(at) if occurred_at.is_ahead(now) => {
                target.metrics.future_time();
                if target.future_logged.is_due() {
                    tracing::warn!(
                        platform,
                        event_id,
                        event_type,
                        ahead_s = (at - now) / 1000,
                        "event time is more than five minutes ahead of its arrival; \
                         the time of arrival counts (logged once a minute)"
                    );
                }
            }
            EventTime::Known(_) | EventTime::Absent => {}
        }
    }
}

/// Keeps the subscribed events. Returns the `ignored` reply if there are none, also for an empty
/// batch.
fn retain_subscribed(
    target: &IngestTarget,
    mut events: Identified,
) -> Result<Identified, IngestReply> {
    let wanted = |event: &NewEvent| {
        // The type of a dead letter may be unknown.
        event.unusable.is_some() && event.event_type.is_empty()
            || target.subscribes(&event.event_type)
    };
    if !events.events().iter().any(wanted) {
        return Err(IngestReply::to(&events, IngestStatus::Ignored));
    }
    if let Identified::Batch(events) = &mut events {
        events.retain(|event| target.subscribes(&event.event_type));
    }
    Ok(events)
}
