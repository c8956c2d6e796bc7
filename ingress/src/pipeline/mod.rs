//! The ingest decision: everything that happens to a webhook between its route and its answer, in order.
//!
//! Guarantee: "accepted" and "duplicate" are answered only after Redis confirmed, and only for a genuine request. Cheap
//! checks come first, and nothing of an unverified body is looked at.
//!
//! A compressed body is verified as it came; only where that fails for a reason that lies in the body is it decoded,
//! within its bound, and verified again. So a stream that cannot be decoded is an invalid payload (400) when its sender
//! has proved itself, and an invalid signature (401) when not; one that is too large decoded is too large (413) either way,
//! as one is that is too large on the wire.
//!
//! Bytes on the wire that verify and are JSON are the event for any `Content-Encoding`: the
//! header is a leftover of a proxy that decoded them, or wrong. Otherwise an unknown coding is 415,
//! with or without a valid signature.
//!
//! Where the definition keeps unusable requests, one that verifies on the wire is kept instead of
//! answered with 400, 415 or 413 (decoded): as a dead letter, with its bytes on the wire.

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
use shared::platform::InvalidRequests;
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

/// What every request passes through; cheap to clone. Whatever a request seldom needs is kept apart from what it waits in
/// (`Box::pin`): that is made for each one, and moved.
#[derive(Clone)]
pub(crate) struct Pipeline {
    /// The bounds of bodies.
    pub(crate) body_reader: BodyReader,
    /// Whether Redis may be asked.
    pub(crate) gate: RedisGate,
    /// The way into the queue.
    pub(crate) batcher: Batcher,
    /// Who waits for what becomes of an event.
    pub(crate) waiters: WaiterRegistry,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IngestStatus {
    /// Queued.
    Accepted,
    /// Seen before.
    Duplicate,
    /// No usable event; among the dead letters.
    KeptInvalid,
    /// Not subscribed.
    Ignored,
}

impl IngestStatus {
    /// For traces.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::KeptInvalid => "kept_invalid",
            Self::Ignored => "ignored",
        }
    }
}

/// A request's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IngestReply {
    /// The event's id; a duplicate's is that of the first one. Of a batch, the first event's; empty
    /// if it has none.
    pub(crate) event_id: String,
    /// Of a batch: the ids of all its events, in their order, without those that are not subscribed (unless none is).
    pub(crate) event_ids: Option<Vec<String>>,
    /// What became of it. A batch is a duplicate when all of it is, and then nothing of it is queued.
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

/// What a request was.
pub(crate) enum IngestOutcome {
    /// An event.
    Event(IngestReply),
    /// An event whose sender waits for what becomes of it. Nothing of its body is held any more.
    Waiting(IngestReply, Box<ResultWaiter>),
    /// A provider's question.
    Handshake(handshake::HandshakeReply),
}

/// A body without its coding.
enum DecodedBody {
    /// It has none, or nobody needs to know.
    Same,
    /// What it stands for.
    Is(Bytes),
    /// Nothing.
    Malformed,
    /// Unknown, since its coding is; of a request that is kept.
    Unsupported,
    /// More than the bound; of a request that is kept.
    TooLarge,
}

impl From<Option<Bytes>> for DecodedBody {
    fn from(decoded: Option<Bytes>) -> Self {
        decoded.map_or(Self::Malformed, Self::Is)
    }
}

impl Pipeline {
    /// Takes one webhook for `target`.
    ///
    /// # Errors
    /// Why it is refused; see [`Error`].
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
        let keeps = on_wire.is_ok() && target.platform.invalid == InvalidRequests::Keep;
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
        // The next request is read into the same memory, while the caches still hold it.
        drop((decoded, wire, head));
        let answer = self.enqueue_traced(target, events, held, began).await?;
        Ok(match waiter {
            Some(waiter) => IngestOutcome::Waiting(answer, waiter),
            None => IngestOutcome::Event(answer),
        })
    }

    /// Queues an event, or a batch, whose sender has proved itself: duplicate, backlog and rate limit are decided by
    /// Redis, for all of a batch at once.
    ///
    /// # Errors
    /// Why it is not known to be queued.
    pub(crate) async fn enqueue(
        &self,
        target: &Arc<IngestTarget>,
        events: impl Into<Identified>,
        held: InFlightPermit,
    ) -> Result<IngestReply, Error> {
        self.enqueue_traced(target, events.into(), held, trace::now()).await
    }

    /// The same, and what traces show of it: only of a sender that has proved itself, from `began`, where anything is traced.
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

    /// Asks at once; the answer is waited for.
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

/// The coding to undo: of a body that is genuine as it came, or whose signature may be over what it stands for. What cannot
/// be genuine either way is not decoded.
fn encoding_to_decode(
    coding: Option<ContentEncoding>,
    refused: Option<&Error>,
) -> Option<ContentEncoding> {
    coding.filter(|_| refused.is_none_or(Error::could_verify_after_decoding))
}

/// Ends `span` with `answer`.
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

/// A request's span, begun at `began`. Its events go on under it.
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

/// The dead letter of a verified request that is no usable event, where its sender does not come
/// again after a 4xx.
fn keep_or_refuse(
    target: &IngestTarget,
    verified: &Verified<'_>,
    body: &Bytes,
    reason: IdentifyError,
) -> Result<Identified, Error> {
    match target.platform.invalid {
        InvalidRequests::Refuse => Err(Error::InvalidPayload(reason)),
        InvalidRequests::Keep => {
            Ok(Identified::Unusable(unusable(&target.platform, verified, body, &reason)))
        }
    }
}

/// Logs and counts what is wrong with `events`, which arrived at `now`.
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

/// Returns the events that the operator of `target` asked for, or the answer where there are none:
/// `ignored`, for an empty batch too.
fn retain_subscribed(
    target: &IngestTarget,
    mut events: Identified,
) -> Result<Identified, IngestReply> {
    let wanted = |event: &NewEvent| {
        // A dead letter's type may not be known.
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
