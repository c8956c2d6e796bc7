//! A cheap HTTP/1.1 client: raw sockets, one request at a time on each of many keep-alive connections.
//!
//! Guarantee: latency counts from when a request was due. In a closed loop that is when it was sent; at a fixed rate it is
//! the time in the plan, so that a stall of the server shows in every request that it delayed.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::requests::Requests;

/// Longest answer that is understood.
const MAX_ANSWER: usize = 4096;
/// An answer that takes longer than this is an error.
const PATIENCE: Duration = Duration::from_secs(15);

/// What to send.
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) connections: u16,
    /// Sent and not counted.
    pub(crate) warm_up: Duration,
    /// Counted.
    pub(crate) measured: Duration,
    /// Requests a second over all connections; `None`: the next one as soon as the answer is there.
    pub(crate) rate: Option<f64>,
}

/// What came of it.
pub(crate) struct Outcome {
    /// Answers inside the measured time.
    pub(crate) answers: u64,
    /// The time measured; shorter than planned when the requests ran out.
    pub(crate) measured: Duration,
    /// Latency of those answers in µs.
    pub(crate) latency: Histogram<u64>,
    /// Answers by status, warm-up included.
    pub(crate) statuses: BTreeMap<u16, u64>,
}

struct Shared {
    requests: Requests,
    begin: Instant,
    end: Instant,
    tally: Mutex<Tally>,
}

struct Tally {
    latency: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    /// When the last request was taken, if they ran out.
    exhausted: Option<Instant>,
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `plan`; calls `mark` when the measured time begins and when it ends.
pub(crate) async fn run(
    plan: &Plan,
    requests: Requests,
    mut mark: impl FnMut(),
) -> Result<Outcome, Box<dyn Error>> {
    let mut streams = Vec::new();
    for _ in 0..plan.connections {
        let stream = TcpStream::connect(plan.address).await?;
        stream.set_nodelay(true)?;
        streams.push(stream);
    }
    let start = Instant::now();
    let begin = start + plan.warm_up;
    let latency = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    let tally = Mutex::new(Tally { latency, statuses: BTreeMap::new(), exhausted: None });
    let shared = Arc::new(Shared { requests, begin, end: begin + plan.measured, tally });

    let connections = streams.into_iter().enumerate().map(|(i, stream)| {
        let turns = plan.rate.map(|rate| Turns {
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
            // Requests may run out: then the measured time ends there.
            tokio::time::sleep(Duration::from_millis(5)).await;
            if Instant::now() >= shared.end || shared.tally().exhausted.is_some() {
                mark();
                break Instant::now();
            }
        }
    };
    let all = async { tokio::join!(connections, watch) };
    let limit = plan.warm_up + plan.measured + PATIENCE;
    let (connections, ended) =
        tokio::time::timeout(limit, all).await.map_err(|_| "the server stopped answering")?;
    for connection in connections {
        connection??;
    }

    let tally = shared.tally();
    let measured = tally.exhausted.unwrap_or(ended).min(shared.end).saturating_duration_since(begin);
    if measured.is_zero() {
        return Err("the requests ran out in the warm-up".into());
    }
    Ok(Outcome {
        answers: tally.latency.len(),
        measured,
        latency: tally.latency.clone(),
        statuses: tally.statuses.clone(),
    })
}

/// When a connection's requests are due.
struct Turns {
    next: Instant,
    every: Duration,
}

impl Turns {
    /// Waits for the next turn. A turn that the timer missed by a little was not the server's fault: it counts from
    /// now; one that passed while an answer was awaited counts from when it was due.
    async fn take(&mut self) -> Instant {
        let due = self.next;
        self.next += self.every;
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
            return Instant::now();
        }
        due
    }
}

async fn connection(shared: Arc<Shared>, mut stream: TcpStream, mut turns: Option<Turns>) -> io::Result<()> {
    let mut buffer = [0_u8; MAX_ANSWER];
    loop {
        let due = match &mut turns {
            Some(turns) => turns.take().await,
            None => Instant::now(),
        };
        if due >= shared.end {
            return Ok(());
        }
        let Some(request) = shared.requests.next() else {
            shared.tally().exhausted.get_or_insert(due);
            return Ok(());
        };
        stream.write_all(request).await?;
        let status = answer(&mut stream, &mut buffer).await?;
        let now = Instant::now();
        let mut tally = shared.tally();
        *tally.statuses.entry(status).or_default() += 1;
        if now >= shared.begin && now < shared.end {
            let micros = u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX);
            tally.latency.saturating_record(micros);
        }
    }
}

/// Reads one answer to its end; gives its status.
async fn answer(stream: &mut TcpStream, buffer: &mut [u8; MAX_ANSWER]) -> io::Result<u16> {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += read;
        if let Some((status, length)) = head(&buffer[..filled])? {
            if filled == length {
                return Ok(status);
            }
            if filled > length {
                return Err(io::Error::other("more than one answer to one request"));
            }
        }
    }
}

/// Status and whole length of the answer that `bytes` begins with, once its head is complete.
fn head(bytes: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).map_err(io::Error::other)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("not an HTTP/1.1 answer"))?;
    let length: Option<usize> = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        if name.eq_ignore_ascii_case("content-length") { value.trim().parse().ok() } else { None }
    });
    let length = length.ok_or_else(|| io::Error::other("an answer without content-length"))?;
    Ok(Some((status, end + 4 + length)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_body() {
        let whole = b"HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\ndate: now\r\n\r\nbody";
        assert_eq!(head(whole).unwrap(), Some((202, whole.len())));
        assert_eq!(head(&whole[..30]).unwrap(), None);
        assert!(head(b"HTTP/1.1 202 Accepted\r\n\r\n").is_err());
        assert!(head(b"SSH-2.0\r\n\r\n").is_err());
    }
}
