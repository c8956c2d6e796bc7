//! Providers: they send each event until it is answered with 2xx.
//!
//! # Guarantees
//!
//! - An event without an answer, or answered with 429 or 503, is retried at the next ingress until
//!   [`DRAIN_TIMEOUT`] after the run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tests::generator::{Generator, SentEvent};
use tests::ledger::recorder::{AnswerKind, RequestRecorder};
use tests::sender::{self, Sender};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause between two attempts, multiplied by the number of attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Most events in flight; above it no new event is started.
const MAX_IN_FLIGHT: u32 = 512;
/// Time after the run in which unanswered events are retried.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Most attempts of a forged request without an answer.
const MAX_FORGED_TRIES: u32 = 3;

/// Counts of the requests and their answers.
#[derive(Debug)]
pub(crate) struct LoadTotals {
    /// Latency of 2xx answers in µs, per attempt.
    pub(crate) latency: Histogram<u64>,
    /// Requests sent.
    pub(crate) requests: u64,
    /// Answers 429 and 503.
    pub(crate) busy: u64,
    /// Requests without an answer.
    pub(crate) unanswered: u64,
    /// Forged requests that were rejected.
    pub(crate) refused: u64,
}

struct LoadState {
    senders: Vec<Sender>,
    recorder: Arc<RequestRecorder>,
    latency: Mutex<Histogram<u64>>,
    requests: AtomicU64,
    busy: AtomicU64,
    unanswered: AtomicU64,
    refused: AtomicU64,
    /// True after the run: no new event is started.
    is_over: AtomicBool,
    /// True after the drain timeout: no attempt is made.
    given_up: AtomicBool,
    slots: Arc<Semaphore>,
}

/// Load of the providers.
pub(crate) struct ProviderLoad {
    shared: Arc<LoadState>,
    producing: JoinHandle<()>,
}

impl ProviderLoad {
    /// Announces the rooms of the other events, and waits until every announcement is accepted.
    pub(crate) async fn announce_rooms(
        generator: &mut Generator,
        senders: &[Sender],
        recorder: &RequestRecorder,
    ) {
        for sent_event in generator.founding_announcements() {
            loop {
                let (method, request) = sent_event.request(sender::now());
                recorder.record_sending(&sent_event);
                let answer = senders[0].request(method, &request).await;
                match answer.map(|answer| recorder.record_answer(&sent_event, &answer)) {
                    Ok(AnswerKind::Accepted | AnswerKind::Duplicate | AnswerKind::Wrong) => break,
                    _ => tokio::time::sleep(RETRY_PAUSE).await,
                }
            }
        }
    }

    /// Starts to send `rate` events per second.
    pub(crate) fn start(
        generator: Generator,
        senders: Vec<Sender>,
        recorder: Arc<RequestRecorder>,
        rate: u32,
    ) -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid histogram bounds");
        let shared = Arc::new(LoadState {
            senders,
            recorder,
            latency: Mutex::new(latency),
            requests: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)),
        });
        let producing = tokio::spawn(produce(generator, Arc::clone(&shared), rate));
        Self { shared, producing }
    }

    /// Starts no new event, and waits until all are answered, at most [`DRAIN_TIMEOUT`].
    pub(crate) async fn finish(self) -> LoadTotals {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.producing.await.expect("the load task must not panic");
        let all = self.shared.slots.acquire_many(MAX_IN_FLIGHT);
        if tokio::time::timeout(DRAIN_TIMEOUT, all).await.is_err() {
            self.shared.given_up.store(true, Ordering::Relaxed);
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoadTotals {
            latency: self.shared.latency.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            requests: count(&self.shared.requests),
            busy: count(&self.shared.busy),
            unanswered: count(&self.shared.unanswered),
            refused: count(&self.shared.refused),
        }
    }
}

async fn produce(mut generator: Generator, shared: Arc<LoadState>, rate: u32) {
    let every = Duration::from_secs(1) / rate;
    let mut next = tokio::time::Instant::now();
    while !shared.is_over.load(Ordering::Relaxed) {
        tokio::time::sleep_until(next).await;
        // Limits the burst after a delay to 20 events.
        next = (next + every).max(tokio::time::Instant::now() - 20 * every);
        let slot = Arc::clone(&shared.slots).acquire_owned();
        let Ok(Ok(slot)) = tokio::time::timeout(RETRY_PAUSE, slot).await else { continue };
        let Some(sent_event) = generator.next() else { return };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            deliver(&shared, &sent_event).await;
            drop(slot);
        });
    }
}

/// Sends one event until its answer is final, then its duplicates.
async fn deliver(shared: &LoadState, sent_event: &SentEvent) {
    for attempt in 0_u32.. {
        match send(shared, sent_event, attempt).await {
            Some(AnswerKind::Accepted | AnswerKind::Duplicate) => break,
            Some(AnswerKind::Wrong) => return,
            Some(AnswerKind::Refused) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Some(AnswerKind::Busy) | None => {}
        }
        let forged = !sent_event.validly_signed && attempt + 1 >= MAX_FORGED_TRIES;
        if forged || shared.given_up.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep((RETRY_PAUSE * (attempt + 1)).min(MAX_RETRY_PAUSE)).await;
    }
    for copy in 0..sent_event.copies {
        send(shared, sent_event, u32::from(copy)).await;
    }
}

async fn send(shared: &LoadState, sent_event: &SentEvent, attempt: u32) -> Option<AnswerKind> {
    let sender = &shared.senders[(sent_event.replica + attempt as usize) % shared.senders.len()];
    let (method, request) = sent_event.request(sender::now());
    shared.recorder.record_sending(sent_event);
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let begun = Instant::now();
    let Ok(Ok(answer)) =
        tokio::time::timeout(ANSWER_TIMEOUT, sender.request(method, &request)).await
    else {
        shared.unanswered.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    let answer_kind = shared.recorder.record_answer(sent_event, &answer);
    match answer_kind {
        AnswerKind::Accepted | AnswerKind::Duplicate => {
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            shared.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        }
        AnswerKind::Busy => drop(shared.busy.fetch_add(1, Ordering::Relaxed)),
        AnswerKind::Refused | AnswerKind::Wrong => {}
    }
    Some(answer_kind)
}
