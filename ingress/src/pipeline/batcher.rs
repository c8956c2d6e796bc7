//! Joins requests that wait during one call to Redis into the next call.
//!
//! # Guarantees
//!
//! - Every request, one event or a batch, gets its own outcome. It is accepted only after Redis
//!   confirmed it. (`event_gets_the_outcome_of_its_position`)
//! - A platform's events keep the order of their arrival. A batch goes into one call.
//!   (`batch_request_is_never_split_over_calls`)
//! - A request is not sent if its sender hung up, or its time ran out, before its call was built.
//!   (`abandoned_and_expired_requests_are_not_sent`)
//! - Every wait has a deadline: [`MAX_WAIT`] until the call, [`CALL_TIMEOUT`] for the call.
//!   (`call_that_times_out_is_unknown`)
//! - No call is sent twice. A call that certainly did not run is refused at once, and the sender's
//!   retry is the second attempt. (`failure_of_a_shared_call_applies_to_all_requests`)
//!
//! # Design
//!
//! On a single server, a call holds events of several platforms. With hundreds of platforms and one
//! or two events of each, separate calls would cost more than the events. Platforms share only the
//! fate of the call: whether the server ran it, and whether its reply came in time. The script
//! decides about each event separately.
//!
//! On a cluster, every platform has its own calls. A failing call of one platform affects no other.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use shared::event::NewEvent;
use shared::queue::{CallError, Enqueued, MAX_BATCH_BYTES, MAX_BATCH_EVENTS};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::body::InFlightPermit;
use super::identify::Identified;
use crate::targets::IngestTarget;

/// Longest time that an event waits for its call.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(2);
/// Longest time of a call. Longer than the timeout of the connection, whose error is more precise.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Bound on waiting requests. Beyond it, this replica is overloaded.
const MAX_WAITING_REQUESTS: usize = 16_384;
/// Bound on the requests that are taken at once, for all platforms together.
const MAX_ROUND: usize = 1024;

/// Queue that the batcher adds events to.
pub(crate) trait Enqueue: Send + Sync + 'static {
    /// Returns true if a call may hold events of several platforms.
    fn mixes_platforms(&self) -> bool;

    /// Decides about the groups of all `sections`, in order; see
    /// [`shared::queue::Queue::enqueue_sections`].
    fn enqueue(
        &self,
        sections: &[PlatformBatch<'_>],
    ) -> impl Future<Output = Result<Vec<Enqueued>, CallError>> + Send;
}

/// One platform's requests in a call.
#[derive(Clone, Copy)]
pub(crate) struct PlatformBatch<'a> {
    /// Platform of the requests.
    pub(crate) target: &'a IngestTarget,
    /// Requests in order of arrival: all of them usable events, or none.
    pub(crate) groups: &'a [&'a [NewEvent]],
}

/// Reason for which an event has no outcome.
#[derive(Clone, Debug)]
pub(crate) enum EnqueueError {
    /// Too many requests wait. Not queued.
    Full,
    /// The time ran out before the call was built. Not queued.
    Expired,
    /// Redis did not run the call. Not queued.
    NotRun(CallError),
    /// The event may be queued. Holds the error, if one was seen.
    Unknown(Option<CallError>),
}

struct EnqueueRequest {
    target: Arc<IngestTarget>,
    queued: QueuedEvents,
    deadline: Instant,
    reply: oneshot::Sender<EnqueueReply>,
}

/// Outcome and payload. The payload is returned so that it is freed on the thread that allocated
/// it.
type EnqueueReply = (Result<Enqueued, EnqueueError>, QueuedEvents);

struct QueuedEvents {
    events: Identified,
    /// The body counts as in flight as long as the event is here, even if its sender hung up.
    _held: InFlightPermit,
}

/// Handle of the batcher; cheap to clone.
#[derive(Clone)]
pub(crate) struct Batcher {
    requests: mpsc::Sender<EnqueueRequest>,
}

impl Batcher {
    /// Starts the batcher on this runtime. Once `stop` is cancelled, it accepts no requests. Its
    /// task ends when all accepted ones are answered.
    pub(crate) fn start(queue: impl Enqueue, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (requests, waiting) = mpsc::channel(MAX_WAITING_REQUESTS);
        (Self { requests }, tokio::spawn(work(queue, waiting, stop)))
    }

    /// Queues an event, or all events of a batch, and waits for the outcome.
    ///
    /// # Errors
    /// See [`EnqueueError`].
    pub(crate) fn enqueue(
        &self,
        target: &Arc<IngestTarget>,
        events: impl Into<Identified>,
        held: InFlightPermit,
    ) -> impl Future<Output = Result<Enqueued, EnqueueError>> {
        let (reply, outcome) = oneshot::channel();
        let deadline = Instant::now() + MAX_WAIT;
        let queued = QueuedEvents { events: events.into(), _held: held };
        let request = EnqueueRequest { target: Arc::clone(target), queued, deadline, reply };
        let sent = self.requests.try_send(request).map_err(|_| EnqueueError::Full);
        async move {
            sent?;
            outcome.await.map_or(Err(EnqueueError::Unknown(None)), |(outcome, _queued)| outcome)
        }
    }
}

async fn work(
    queue: impl Enqueue,
    mut waiting: mpsc::Receiver<EnqueueRequest>,
    stop: CancellationToken,
) {
    let mut round = Vec::new();
    loop {
        let received = tokio::select! {
            biased;
            received = waiting.recv_many(&mut round, MAX_ROUND) => received,
            () = stop.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        if received == 0 {
            return;
        }
        let calls = calls(group(round.drain(..), Instant::now()), queue.mixes_platforms());
        join_all(calls.into_iter().map(|call| run(&queue, call))).await;
    }
}

/// Requests of one platform for one call.
struct PendingBatch {
    target: Arc<IngestTarget>,
    /// Set if the requests are no usable events.
    unusable: bool,
    requests: Vec<EnqueueRequest>,
    events: usize,
    bytes: usize,
}

/// Sorts requests into batches within the bounds of a call, in order for each platform. Drops
/// requests whose sender hung up.
fn group(requests: impl Iterator<Item = EnqueueRequest>, now: Instant) -> Vec<PendingBatch> {
    let mut batches: Vec<PendingBatch> = Vec::new();
    for request in requests {
        if request.reply.is_closed() {
            continue;
        }
        if request.deadline <= now {
            reply(request, Err(EnqueueError::Expired));
            continue;
        }
        let (events, bytes) = (request.queued.events.events().len(), request.queued.events.bytes());
        let unusable = matches!(request.queued.events, Identified::Unusable(_));
        // Only the newest batch of the platform may grow. Otherwise a later event would overtake an
        // earlier one.
        let newest = batches.iter_mut().rfind(|batch| {
            batch.unusable == unusable && Arc::ptr_eq(&batch.target, &request.target)
        });
        match newest.filter(|batch| fits(batch.events + events, batch.bytes + bytes)) {
            Some(batch) => {
                batch.events += events;
                batch.bytes += bytes;
                batch.requests.push(request);
            }
            None => batches.push(PendingBatch {
                target: Arc::clone(&request.target),
                unusable,
                events,
                bytes,
                requests: vec![request],
            }),
        }
    }
    batches
}

const fn fits(events: usize, bytes: usize) -> bool {
    events <= MAX_BATCH_EVENTS && bytes <= MAX_BATCH_BYTES
}

/// Sorts batches into calls; `mix` lets platforms share them. Only the newest call grows, so that a
/// platform's batches keep their order.
fn calls(batches: Vec<PendingBatch>, mix: bool) -> Vec<Vec<PendingBatch>> {
    let mut calls: Vec<Vec<PendingBatch>> = Vec::new();
    let (mut events, mut bytes) = (0, 0);
    for batch in batches {
        (events, bytes) = (events + batch.events, bytes + batch.bytes);
        match calls.last_mut().filter(|_| mix && fits(events, bytes)) {
            Some(call) => call.push(batch),
            None => {
                (events, bytes) = (batch.events, batch.bytes);
                calls.push(vec![batch]);
            }
        }
    }
    calls
}

async fn run(queue: &impl Enqueue, call: Vec<PendingBatch>) {
    let groups: Vec<&[NewEvent]> = call
        .iter()
        .flat_map(|batch| &batch.requests)
        .map(|request| request.queued.events.events())
        .collect();
    let mut rest = &groups[..];
    let sections: Vec<PlatformBatch<'_>> = call
        .iter()
        .map(|batch| {
            let (groups, others) = rest.split_at(batch.requests.len());
            rest = others;
            PlatformBatch { target: &batch.target, groups }
        })
        .collect();
    let result = timeout(CALL_TIMEOUT, queue.enqueue(&sections)).await;
    let wanted = groups.len();
    let requests = call.into_iter().flat_map(|batch| batch.requests);
    let error = match result {
        Ok(Ok(outcomes)) if outcomes.len() == wanted => {
            requests.zip(outcomes).for_each(|(request, outcome)| reply(request, Ok(outcome)));
            return;
        }
        Ok(Err(fault)) if fault.certainly_not_run() => EnqueueError::NotRun(fault),
        Ok(Err(fault)) => EnqueueError::Unknown(Some(fault)),
        Ok(Ok(_)) | Err(_) => EnqueueError::Unknown(None),
    };
    requests.for_each(|request| reply(request, Err(error.clone())));
}

fn reply(request: EnqueueRequest, outcome: Result<Enqueued, EnqueueError>) {
    // A sender that hung up sends the event again and gets a duplicate.
    let _ = request.reply.send((outcome, request.queued));
}

#[cfg(test)]
mod tests;
