//! The ingest decision: everything that happens to a webhook between its route and its answer, in order.
//!
//! Guarantee: "accepted" and "duplicate" are answered only after Redis confirmed, and only for a genuine request. Cheap
//! checks come first, and nothing of an unverified body is looked at.

mod batcher;
mod body;
pub(crate) mod identify;
pub(crate) mod shield;
mod verify;

use std::sync::Arc;
use std::time::Instant;

use actix_web::dev::Payload;
use actix_web::http::header::HeaderMap;
use shared::clock;
use shared::event::NewEvent;
use shared::queue::Enqueued;

#[cfg(test)]
pub(crate) use batcher::Enqueue;
pub(crate) use batcher::{Batcher, Lost};
pub(crate) use body::{Bodies, Body, Held};

use crate::directory::Target;
use crate::error::Error;
use crate::gate::Gate;
use identify::identify;
use verify::genuine;

/// What every request passes through; cheap to clone.
#[derive(Clone)]
pub(crate) struct Pipeline {
    /// The bounds of bodies.
    pub(crate) bodies: Bodies,
    /// Whether Redis may be asked.
    pub(crate) gate: Gate,
    /// The way into the queue.
    pub(crate) batcher: Batcher,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// Queued.
    Accepted,
    /// Seen before.
    Duplicate,
    /// Not subscribed.
    Ignored,
}

/// A request's answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The event's id; a duplicate's is that of the first one.
    pub(crate) event_id: String,
    /// What became of it.
    pub(crate) status: Status,
}

impl Pipeline {
    /// Takes one webhook for `target`.
    ///
    /// # Errors
    /// Why it is refused; see [`Error`].
    pub(crate) async fn ingest(
        &self,
        target: &Arc<Target>,
        headers: &HeaderMap,
        payload: &mut Payload,
    ) -> Result<Answer, Error> {
        if !target.platform.enabled {
            return Err(Error::PlatformDisabled);
        }
        let keys = target.keys.as_ref().ok_or(Error::ConfigMissing)?;

        let Body { bytes, held } = self.bodies.read(headers, payload).await?;
        let headers = verify::RequestHeaders(headers);
        let verified = genuine(&target.platform.scheme, keys, &headers, &bytes, clock::now_ms(), &self.gate)?;
        let event = identify(&target.platform, &verified, &bytes).map_err(Error::InvalidPayload)?;

        if !target.subscribes(&event.event_type) {
            return Ok(Answer { event_id: event.event_id, status: Status::Ignored });
        }
        self.enqueue(target, event, held).await
    }

    /// Queues an event whose sender has proved itself: duplicate, backlog and rate limit are decided by Redis.
    ///
    /// # Errors
    /// Why it is not known to be queued.
    pub(crate) async fn enqueue(&self, target: &Arc<Target>, event: NewEvent, held: Held) -> Result<Answer, Error> {
        self.gate.open()?;
        target.shield.as_ref().map_or(Ok(()), |shield| shield.admit())?;

        let event_id = event.event_id.clone();
        let asked = Instant::now();
        let outcome = self.batcher.enqueue(target, event, held).await;
        target.metrics.enqueue_duration(asked.elapsed());
        match outcome? {
            Enqueued::Accepted => Ok(Answer { event_id, status: Status::Accepted }),
            Enqueued::Duplicate => Ok(Answer { event_id, status: Status::Duplicate }),
            Enqueued::Overloaded => Err(Error::BacklogFull),
            Enqueued::RateLimited { retry_after_s } => Err(Error::RateLimited { retry_after_s }),
            Enqueued::Refused => Err(Error::QueueAway("Redis refused the entry")),
        }
    }
}
