//! The micro-batcher: whatever waits while one call to Redis is on its way goes into the next one.
//!
//! Guarantee: every request, be it one event or a batch, gets its own answer, and "accepted" only after Redis confirmed
//! that very one. A platform's events go out in the order of their arrival, a batch's in one call. An event whose sender
//! hung up or whose time ran out before its call was built is not sent. Every wait has an end: [`MAX_WAIT`] until the
//! call, [`CALL_TIMEOUT`] for the call.
//!
//! On a single server a call holds what several platforms brought: with hundreds of them, each of which has an event or
//! two in a round, a call for each would cost more than the events. They share what happens to a call as such: whether
//! the one server ran it, whether its answer came, and in time; nothing a platform does or has in Redis decides that. What
//! is decided about events is each platform's own. On a cluster every platform has calls of its own, and one's
//! failing call harms no other's.
//!
//! Nothing is sent twice from here: a call that certainly did not run is answered as such, at once, and the sender's
//! own retry is the second try.

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

/// How long an event may wait for its call.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(2);
/// How long a call may take. Longer than the connection's own bound, which says more about what went wrong.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// Events that may wait; beyond it this replica is overloaded.
const MAX_WAITING_REQUESTS: usize = 16_384;
/// Most events that are taken at once, for all platforms together.
const MAX_ROUND: usize = 1024;

/// What puts events into the queue.
pub(crate) trait Enqueue: Send + Sync + 'static {
    /// Whether a call may hold shares of several platforms.
    fn mixes_platforms(&self) -> bool;

    /// Decides about the groups of all `shares` in their order; see [`shared::queue::Queue::enqueue_sections`].
    fn enqueue(
        &self,
        shares: &[PlatformBatch<'_>],
    ) -> impl Future<Output = Result<Vec<Enqueued>, CallError>> + Send;
}

/// What one platform brings to a call.
#[derive(Clone, Copy)]
pub(crate) struct PlatformBatch<'a> {
    /// The platform.
    pub(crate) target: &'a IngestTarget,
    /// Its requests, in the order of their arrival: all of them usable events, or none.
    pub(crate) groups: &'a [&'a [NewEvent]],
}

/// Why an event got no outcome.
#[derive(Clone, Debug)]
pub(crate) enum EnqueueError {
    /// Too many are waiting. Not queued.
    Full,
    /// Its time ran out before its call was built. Not queued.
    Expired,
    /// Redis did not run its call. Not queued.
    NotRun(CallError),
    /// It may be queued; the fault, if one was seen.
    Unknown(Option<CallError>),
}

struct EnqueueRequest {
    target: Arc<IngestTarget>,
    load: QueuedEvents,
    deadline: Instant,
    answer: oneshot::Sender<EnqueueReply>,
}

/// What came of a job, and what it brought, so that memory is given back on the thread that asked for it.
type EnqueueReply = (Result<Enqueued, EnqueueError>, QueuedEvents);

struct QueuedEvents {
    events: Identified,
    /// The body's bytes stay counted as long as the event is here, whether or not its sender still waits.
    _held: InFlightPermit,
}

/// The way into the batcher; cheap to clone.
#[derive(Clone)]
pub(crate) struct Batcher {
    jobs: mpsc::Sender<EnqueueRequest>,
}

impl Batcher {
    /// Starts batching into `queue` on this runtime. Once `stop` is cancelled nothing more is taken; the task ends when
    /// everything taken has been answered.
    pub(crate) fn start(queue: impl Enqueue, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_REQUESTS);
        (Self { jobs }, tokio::spawn(work(queue, waiting, stop)))
    }

    /// Queues an event, or the events of a batch together, and waits for what became of it.
    ///
    /// # Errors
    /// See [`EnqueueError`].
    pub(crate) fn enqueue(
        &self,
        target: &Arc<IngestTarget>,
        events: impl Into<Identified>,
        held: InFlightPermit,
    ) -> impl Future<Output = Result<Enqueued, EnqueueError>> {
        let (answer, outcome) = oneshot::channel();
        let deadline = Instant::now() + MAX_WAIT;
        let load = QueuedEvents { events: events.into(), _held: held };
        let job = EnqueueRequest { target: Arc::clone(target), load, deadline, answer };
        let taken = self.jobs.try_send(job).map_err(|_| EnqueueError::Full);
        async move {
            taken?;
            outcome.await.map_or(Err(EnqueueError::Unknown(None)), |(outcome, _load)| outcome)
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
        let taken = tokio::select! {
            biased;
            taken = waiting.recv_many(&mut round, MAX_ROUND) => taken,
            () = stop.cancelled(), if !waiting.is_closed() => {
                waiting.close();
                continue;
            }
        };
        if taken == 0 {
            return;
        }
        let calls = calls(group(round.drain(..), Instant::now()), queue.mixes_platforms());
        join_all(calls.into_iter().map(|call| run(&queue, call))).await;
    }
}

/// One platform's part of a round, or as much of it as goes into one call.
struct PendingBatch {
    target: Arc<IngestTarget>,
    /// Whether its requests are no usable events.
    unusable: bool,
    jobs: Vec<EnqueueRequest>,
    events: usize,
    bytes: usize,
}

/// Sorts jobs into parts within the bounds of a call, each platform's in their order; drops those that nobody waits for
/// any more.
fn group(jobs: impl Iterator<Item = EnqueueRequest>, now: Instant) -> Vec<PendingBatch> {
    let mut parts: Vec<PendingBatch> = Vec::new();
    for job in jobs {
        if job.answer.is_closed() {
            continue;
        }
        if job.deadline <= now {
            answer(job, Err(EnqueueError::Expired));
            continue;
        }
        let (events, bytes) = (job.load.events.events().len(), job.load.events.bytes());
        let unusable = matches!(job.load.events, Identified::Unusable(_));
        // Only the platform's newest part may be filled up, or a later event would overtake an earlier one.
        let newest = parts
            .iter_mut()
            .rfind(|part| part.unusable == unusable && Arc::ptr_eq(&part.target, &job.target));
        match newest.filter(|part| fits(part.events + events, part.bytes + bytes)) {
            Some(part) => {
                part.events += events;
                part.bytes += bytes;
                part.jobs.push(job);
            }
            None => parts.push(PendingBatch {
                target: Arc::clone(&job.target),
                unusable,
                events,
                bytes,
                jobs: vec![job],
            }),
        }
    }
    parts
}

const fn fits(events: usize, bytes: usize) -> bool {
    events <= MAX_BATCH_EVENTS && bytes <= MAX_BATCH_BYTES
}

/// Puts parts into calls, several into one where platforms mix. Only the newest call is filled up, so that a platform's
/// parts stay in their order.
fn calls(parts: Vec<PendingBatch>, mix: bool) -> Vec<Vec<PendingBatch>> {
    let mut calls: Vec<Vec<PendingBatch>> = Vec::new();
    let (mut events, mut bytes) = (0, 0);
    for part in parts {
        (events, bytes) = (events + part.events, bytes + part.bytes);
        match calls.last_mut().filter(|_| mix && fits(events, bytes)) {
            Some(call) => call.push(part),
            None => {
                (events, bytes) = (part.events, part.bytes);
                calls.push(vec![part]);
            }
        }
    }
    calls
}

async fn run(queue: &impl Enqueue, call: Vec<PendingBatch>) {
    let groups: Vec<&[NewEvent]> =
        call.iter().flat_map(|part| &part.jobs).map(|job| job.load.events.events()).collect();
    let mut rest = &groups[..];
    let shares: Vec<PlatformBatch<'_>> = call
        .iter()
        .map(|part| {
            let (groups, others) = rest.split_at(part.jobs.len());
            rest = others;
            PlatformBatch { target: &part.target, groups }
        })
        .collect();
    let result = timeout(CALL_TIMEOUT, queue.enqueue(&shares)).await;
    let wanted = groups.len();
    let jobs = call.into_iter().flat_map(|part| part.jobs);
    let lost = match result {
        Ok(Ok(outcomes)) if outcomes.len() == wanted => {
            jobs.zip(outcomes).for_each(|(job, outcome)| answer(job, Ok(outcome)));
            return;
        }
        Ok(Err(fault)) if fault.certainly_not_run() => EnqueueError::NotRun(fault),
        Ok(Err(fault)) => EnqueueError::Unknown(Some(fault)),
        Ok(Ok(_)) | Err(_) => EnqueueError::Unknown(None),
    };
    jobs.for_each(|job| answer(job, Err(lost.clone())));
}

fn answer(job: EnqueueRequest, outcome: Result<Enqueued, EnqueueError>) {
    // A sender that hung up meanwhile comes again, and is told of a duplicate.
    let _ = job.answer.send((outcome, job.load));
}

#[cfg(test)]
mod tests;
