//! The providers: they send, and send again until they are answered 2xx.
//!
//! Guarantee: an event that got no answer, a 429 or a 503 is sent again, to the next ingress, for as long as the run
//! lasts and [`AFTERWARDS`] beyond it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tests::generator::{Generator, Said};
use tests::ledger::oracle::{Heard, Oracle};
use tests::sender::{self, Sender};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(6);
/// Between two attempts; grows with their number.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_MOST: Duration = Duration::from_secs(1);
/// Events that are on their way at a time; beyond it nothing new is begun.
const AT_A_TIME: u32 = 512;
/// How long events that are not answered yet are sent again after the run.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// How often a forged request is tried while nobody answers.
const FORGED_TRIES: u32 = 3;

/// What was sent.
#[derive(Debug)]
pub(crate) struct Sent {
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

struct Shared {
    senders: Vec<Sender>,
    oracle: Arc<Oracle>,
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
pub(crate) struct Load {
    shared: Arc<Shared>,
    producing: JoinHandle<()>,
}

impl Load {
    /// Sends announcements of the rooms that everything else is about, and waits until they are promised.
    pub(crate) async fn found(generator: &mut Generator, senders: &[Sender], oracle: &Oracle) {
        for said in generator.foundation() {
            loop {
                let (method, request) = said.request(sender::now());
                oracle.sending(&said);
                let answer = senders[0].request(method, &request).await;
                match answer.map(|answer| oracle.heard(&said, &answer)) {
                    Ok(Heard::Accepted | Heard::Duplicate | Heard::Wrong) => break,
                    _ => tokio::time::sleep(AGAIN).await,
                }
            }
        }
    }

    /// Begins to send `rate` events a second.
    pub(crate) fn start(generator: Generator, senders: Vec<Sender>, oracle: Arc<Oracle>, rate: u32) -> Self {
        let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("a histogram");
        let shared = Arc::new(Shared {
            senders,
            oracle,
            latency: Mutex::new(latency),
            requests: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            over: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            places: Arc::new(Semaphore::new(AT_A_TIME as usize)),
        });
        let producing = tokio::spawn(produce(generator, Arc::clone(&shared), rate));
        Self { shared, producing }
    }

    /// Begins no new event, and waits until every one has been answered, at most [`AFTERWARDS`].
    pub(crate) async fn finish(self) -> Sent {
        self.shared.over.store(true, Ordering::Relaxed);
        self.producing.await.expect("the load");
        let all = self.shared.places.acquire_many(AT_A_TIME);
        if tokio::time::timeout(AFTERWARDS, all).await.is_err() {
            self.shared.given_up.store(true, Ordering::Relaxed);
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Sent {
            latency: self.shared.latency.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            requests: count(&self.shared.requests),
            busy: count(&self.shared.busy),
            unanswered: count(&self.shared.unanswered),
            refused: count(&self.shared.refused),
        }
    }
}

async fn produce(mut generator: Generator, shared: Arc<Shared>, rate: u32) {
    let every = Duration::from_secs(1) / rate;
    let mut next = tokio::time::Instant::now();
    while !shared.over.load(Ordering::Relaxed) {
        tokio::time::sleep_until(next).await;
        // What could not be begun in time is not made up for all at once.
        next = (next + every).max(tokio::time::Instant::now() - 20 * every);
        let place = Arc::clone(&shared.places).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(AGAIN, place).await else { continue };
        let Some(said) = generator.next() else { return };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            deliver(&shared, &said).await;
            drop(place);
        });
    }
}

/// Sends one event until it is answered for good, then its copies.
async fn deliver(shared: &Shared, said: &Said) {
    for attempt in 0_u32.. {
        match send(shared, said, attempt).await {
            Some(Heard::Accepted | Heard::Duplicate) => break,
            Some(Heard::Wrong) => return,
            Some(Heard::Refused) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            Some(Heard::Busy) | None => {}
        }
        let forged = !said.genuine && attempt + 1 >= FORGED_TRIES;
        if forged || shared.given_up.load(Ordering::Relaxed) {
            return;
        }
        tokio::time::sleep((AGAIN * (attempt + 1)).min(AGAIN_MOST)).await;
    }
    for copy in 0..said.copies {
        send(shared, said, u32::from(copy)).await;
    }
}

async fn send(shared: &Shared, said: &Said, attempt: u32) -> Option<Heard> {
    let sender = &shared.senders[(said.replica + attempt as usize) % shared.senders.len()];
    let (method, request) = said.request(sender::now());
    shared.oracle.sending(said);
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let begun = Instant::now();
    let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, sender.request(method, &request)).await else {
        shared.unanswered.fetch_add(1, Ordering::Relaxed);
        return None;
    };
    let heard = shared.oracle.heard(said, &answer);
    match heard {
        Heard::Accepted | Heard::Duplicate => {
            let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            shared.latency.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros);
        }
        Heard::Busy => drop(shared.busy.fetch_add(1, Ordering::Relaxed)),
        Heard::Refused | Heard::Wrong => {}
    }
    Some(heard)
}
