//! The providers: they send, and send again until they are answered 2xx.
//!
//! Guarantee: an event that got no answer, a 429 or a 503 is sent again, to the next ingress, for as long as the run
//! lasts and [`DRAIN_TIMEOUT`] beyond it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tests::generator::{Generator, SentEvent};
use tests::ledger::recorder::{AnswerKind, RequestRecorder};
use tests::sender::{self, Sender};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How long an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(6);
/// Between two attempts; grows with their number.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Events that are on their way at a time; beyond it nothing new is begun.
const MAX_IN_FLIGHT: u32 = 512;
/// How long events that are not answered yet are sent again after the run.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How often a forged request is tried while nobody answers.
const MAX_FORGED_TRIES: u32 = 3;

/// What was sent.
#[derive(Debug)]
pub(crate) struct LoadTotals {
    /// Latency of answers 2xx, in µs, each attempt by itself.
    pub(crate) latency: Histogram<u64>,
    /// All requests.
    pub(crate) requests: u64,
    /// Answers 429 and 503.
    pub(crate) busy: u64,
    /// Requests without an answer.
    pub(crate) unanswered: u64,
    /// Forged requests that were refused.
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
    /// No new events.
    over: AtomicBool,
    /// No new attempts either.
    given_up: AtomicBool,
    places: Arc<Semaphore>,
}

/// The load.
pub(crate) struct ProviderLoad {
    shared: Arc<LoadState>,
    producing: JoinHandle<()>,
}

impl ProviderLoad {
    /// Sends announcements of the rooms that everything else is about, and waits until they are promised.
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

    /// Begins to send `rate` events a second.
    pub(crate) fn start(
        generator: Generator,
        senders: Vec<Sender>,
        recorder: Arc<RequestRecorder>,
        rate: u32,
    ) -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("a histogram");
        let shared = Arc::new(LoadState {
            senders,
            recorder,
            latency: Mutex::new(latency),
            requests: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            over: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(MAX_IN_FLIGHT as usize)),
        });
        let producing = tokio::spawn(produce(generator, Arc::clone(&shared), rate));
        Self { shared, producing }
    }

    /// Begins no new event, and waits until every one has been answered, at most [`DRAIN_TIMEOUT`].
    pub(crate) async fn finish(self) -> LoadTotals {
        self.shared.over.store(true, Ordering::Relaxed);
        self.producing.await.expect("the load");
        let all = self.shared.places.acquire_many(MAX_IN_FLIGHT);
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
    while !shared.over.load(Ordering::Relaxed) {
        tokio::time::sleep_until(next).await;
        // What could not be begun in time is not made up for all at once.
        next = (next + every).max(tokio::time::Instant::now() - 20 * every);
        let place = Arc::clone(&shared.places).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(RETRY_PAUSE, place).await else { continue };
        let Some(sent_event) = generator.next() else { return };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            deliver(&shared, &sent_event).await;
            drop(place);
        });
    }
}

/// Sends one event until it is answered for good, then its copies.
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
    let heard = shared.recorder.record_answer(sent_event, &answer);
    match heard {
        AnswerKind::Accepted | AnswerKind::Duplicate => {
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            shared.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        }
        AnswerKind::Busy => drop(shared.busy.fetch_add(1, Ordering::Relaxed)),
        AnswerKind::Refused | AnswerKind::Wrong => {}
    }
    Some(heard)
}
