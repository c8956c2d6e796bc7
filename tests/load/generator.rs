//! Load generator: an HTTP/1.1 client with raw sockets, one request at a time per keep-alive
//! connection.
//!
//! # Guarantees
//!
//! - At a fixed rate, latency counts from the planned time of a request, so that a stall of the
//!   server shows in every request that it delayed (`server_stall_shows_in_every_delayed_request`).
//! - The delay of this program itself is part of the latency and is also reported separately
//!   (`send_time_counts_from_when_it_was_due`).
//!
//! In a closed loop, a request is due when it is sent.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::requests::SignedRequests;
use crate::response::{self, MAX_RESPONSE_BYTES};

/// Longest wait for a response.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests to send, and their timing.
pub(crate) struct LoadPlan {
    pub(crate) address: SocketAddr,
    pub(crate) connections: u16,
    /// Time in which requests are sent and not counted.
    pub(crate) warm_up: Duration,
    /// Time in which requests are counted.
    pub(crate) measured: Duration,
    /// Requests per second over all connections. `None` sends the next one after each response.
    pub(crate) rate: Option<f64>,
    /// Status of a response that counts.
    pub(crate) expected: u16,
}

/// Results of a generator run.
pub(crate) struct GeneratorOutcome {
    /// Number of responses of the expected status within the measured time.
    pub(crate) answers: u64,
    /// Measured time. Shorter than planned if the requests ran out.
    pub(crate) measured: Duration,
    /// Latency of those responses in µs.
    pub(crate) latency: Histogram<u64>,
    /// Part of the latency, in µs, by which requests were sent late although their connection was
    /// free.
    pub(crate) lateness: Histogram<u64>,
    /// Responses by status, including the warm-up.
    pub(crate) statuses: BTreeMap<u16, u64>,
}

struct GeneratorState {
    requests: SignedRequests,
    begin: Instant,
    end: Instant,
    expected: u16,
    /// True at a fixed rate, where every request has a due time.
    open: bool,
    tally: Mutex<ResponseTally>,
}

struct ResponseTally {
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    /// Time at which the requests ran out, if they did.
    exhausted: Option<Instant>,
}

impl GeneratorState {
    fn tally(&self) -> MutexGuard<'_, ResponseTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `plan`. Calls `mark` at the start and at the end of the measured time.
pub(crate) async fn run(
    plan: &LoadPlan,
    requests: SignedRequests,
    mut mark: impl FnMut(),
) -> Result<GeneratorOutcome, Box<dyn Error>> {
    let mut streams = Vec::new();
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(plan.address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let begin = start + plan.warm_up;
    let latency = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let lateness = latency.clone();
    let tally =
        Mutex::new(ResponseTally { latency, lateness, statuses: BTreeMap::new(), exhausted: None });
    let end = begin + plan.measured;
    let (expected, open) = (plan.expected, plan.rate.is_some());
    let shared = Arc::new(GeneratorState { requests, begin, end, expected, open, tally });

    let connections = streams.into_iter().enumerate().map(|(i, stream)| {
        let turns = plan.rate.map(|rate| SendSchedule {
            next: start + Duration::from_secs_f64(i as f64 / rate),
            every: Duration::from_secs_f64(f64::from(plan.connections) / rate),
        });
        connection(shared.clone(), stream, turns)
    });
    let connections = join_all(connections.map(tokio::task::spawn));
    let watch = async {
        tokio::time::sleep_until(shared.begin.into()).await;
        mark();
        loop {
            // The measured time ends early if the requests run out.
            tokio::time::sleep(Duration::from_millis(5)).await;
            if Instant::now() >= shared.end || shared.tally().exhausted.is_some() {
                mark();
                break Instant::now();
            }
        }
    };
    let all = async { tokio::join!(connections, watch) };
    let limit = plan.warm_up + plan.measured + RESPONSE_TIMEOUT;
    let (connections, ended) =
        tokio::time::timeout(limit, all).await.map_err(|_| "the server stopped answering")?;
    for connection in connections {
        connection??;
    }

    let tally = shared.tally();
    let measured =
        tally.exhausted.unwrap_or(ended).min(shared.end).saturating_duration_since(begin);
    if measured.is_zero() {
        return Err("the requests ran out in the warm-up".into());
    }
    Ok(GeneratorOutcome {
        answers: tally.latency.len(),
        measured,
        latency: tally.latency.clone(),
        lateness: tally.lateness.clone(),
        statuses: tally.statuses.clone(),
    })
}

/// Due times of a connection's requests.
struct SendSchedule {
    next: Instant,
    every: Duration,
}

impl SendSchedule {
    /// Waits until the next request is due. Returns the due time, and the delay of this program.
    ///
    /// The delay is zero if the connection was still busy at the due time.
    async fn take(&mut self) -> (Instant, Duration) {
        let due = self.next;
        self.next += self.every;
        if due <= Instant::now() {
            return (due, Duration::ZERO);
        }
        tokio::time::sleep_until(due.into()).await;
        (due, due.elapsed())
    }
}

async fn connection(
    shared: Arc<GeneratorState>,
    mut stream: TcpStream,
    mut turns: Option<SendSchedule>,
) -> io::Result<()> {
    let mut buffer = [0_u8; MAX_RESPONSE_BYTES];
    loop {
        let (due, late) = match &mut turns {
            Some(turns) => turns.take().await,
            None => (Instant::now(), Duration::ZERO),
        };
        if due >= shared.end {
            return Ok(());
        }
        let Some(request) = shared.requests.next() else {
            shared.tally().exhausted.get_or_insert(due);
            return Ok(());
        };
        stream.write_all(request).await?;
        let status = response::read(&mut stream, &mut buffer).await?;
        let now = Instant::now();
        let mut tally = shared.tally();
        *tally.statuses.entry(status).or_default() += 1;
        // At a fixed rate the due time decides, or the slowest responses at the end would be lost.
        let at = if shared.open { due } else { now };
        if status == shared.expected && at >= shared.begin && at < shared.end {
            tally.latency.saturating_record(micros(now - due));
            tally.lateness.saturating_record(micros(late));
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::requests::RequestKind;

    #[tokio::test]
    async fn send_time_counts_from_when_it_was_due() {
        let start = Instant::now();
        let mut turns = SendSchedule { next: start, every: Duration::from_millis(5) };
        assert_eq!(turns.take().await.0, start);
        // The connection was busy during two due times.
        tokio::time::sleep(Duration::from_millis(12)).await;
        assert_eq!(turns.take().await, (start + Duration::from_millis(5), Duration::ZERO));
        assert_eq!(turns.take().await.0, start + Duration::from_millis(10));
        let (due, late) = turns.take().await;
        assert_eq!(due, start + Duration::from_millis(15));
        assert!(Instant::now() >= due + late);
    }

    #[tokio::test]
    async fn server_stall_shows_in_every_delayed_request() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0_u8; 4096];
            let mut first = true;
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                if std::mem::take(&mut first) {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                stream
                    .write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")
                    .await
                    .unwrap();
            }
        });
        let plan = LoadPlan {
            address,
            connections: 1,
            warm_up: Duration::ZERO,
            measured: Duration::from_millis(400),
            rate: Some(100.0),
            expected: 202,
        };
        let outcome =
            run(&plan, SignedRequests::signed("h", 100, &RequestKind::plain()).endless(), || {})
                .await
                .unwrap();
        // About twenty requests were due while the server slept, with 100 ms of delay on average.
        let slow = outcome.latency.len() - outcome.latency.count_between(0, 20_000);
        assert!(slow >= 15, "{slow} of {}", outcome.latency.len());
        server.abort();
    }
}
