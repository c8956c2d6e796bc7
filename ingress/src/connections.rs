//! How many connections there are, and which of them goes when there are too many.
//!
//! Guarantee: never more than `MAX_CONNECTIONS`, and at that bound a new connection is still taken: those on which no
//! request has been going on for longest are closed for it, and only where every connection is in the middle of a request
//! is it the new one. So idle connections and heads that never end, however many and from wherever, keep nobody out. Also
//! without need no connection stays open without a request for longer than `KEEP_ALIVE_MS`, nor for
//! longer than [`HEAD_TIMEOUT`] one on which a head begins and never ends. It is closed without an
//! answer, which every sender tries again: a bound of our own in place of actix's,
//! whose 408 for the first head would also meet genuine senders after this process was frozen or starved of its CPU, and
//! to some providers 4xx is final; and whose timer between requests would be made, set and cancelled for each of them.
//! Silence is found twice, a [`SWEEP_INTERVAL`] apart and by the thread that serves the connection, so that after such a time it
//! first reads what has come in meanwhile.
//!
//! Who is at the other end is not asked: behind a balancer all senders have one address.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use actix_http::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::connection_close::CloseFlag;

/// How often those that were silent for longer are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that a head may take from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// So many times a head may be found begun and not ended, [`SWEEP_INTERVAL`] apart.
const MAX_HEAD_SWEEPS: u8 = (HEAD_TIMEOUT.as_secs() / SWEEP_INTERVAL.as_secs()) as u8;
/// Part of all connections that is closed at once at the bound, so that not every new one searches them all.
const EVICT_FRACTION: usize = 64;
/// Files that are open besides connections: listeners, Redis, what belongs to threads.
const OTHER_FILES: u64 = 256;
/// The fewest connections that a bound may leave.
pub(crate) const MIN_CONNECTIONS: usize = 16;

/// All connections of this process; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connections(Arc<ConnectionsInner>);

struct ConnectionsInner {
    most: usize,
    keep_alive: Duration,
    /// Room for requests of connections that carry many at a time.
    streams: Arc<Semaphore>,
    begun: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<ConnectionState>>>,
    /// The bound was reached since this was last told.
    reached: AtomicBool,
}

struct ConnectionState {
    /// A second handle on the connection: closing it is felt by whoever reads from the first.
    socket: TcpStream,
    /// Who serves it.
    thread: ThreadId,
    /// Requests in progress.
    requests: AtomicU32,
    /// Since when there was none, in ms since the process began.
    idle_since_ms: AtomicU64,
    /// It was silent for too long when it was last looked at.
    was_idle: AtomicBool,
    /// 0 while nothing has come since the last request; then 1 and, at each look, one more.
    head: AtomicU8,
}

/// A connection's entry, which ends with it.
pub(crate) struct ConnectionGuard {
    number: u64,
    one: Arc<ConnectionState>,
    all: Connections,
}

/// A request in progress.
pub(crate) struct RequestGuard {
    one: Arc<ConnectionState>,
    all: Connections,
}

/// Tie between a request and its connection.
pub(crate) struct ConnectionLink {
    /// Says that a request is going on, until it is dropped: so long its connection is not silent.
    pub(crate) busy: Option<RequestGuard>,
    /// State of the connection's end, announced or not.
    pub(crate) closing: CloseFlag,
}

impl ConnectionLink {
    /// The connection that `request` came on.
    pub(crate) fn of(request: &Request) -> Self {
        let entry = request.conn_data::<Rc<ConnectionGuard>>();
        Self { busy: entry.map(|entry| entry.busy()), closing: CloseFlag::of(request) }
    }

    /// A connection that says itself when it ends.
    pub(crate) fn to(entry: Option<&ConnectionGuard>) -> Self {
        Self { busy: entry.map(ConnectionGuard::busy), closing: CloseFlag::default() }
    }
}

impl ConnectionGuard {
    /// Takes note that bytes have come, which are a head's unless a request is going on.
    pub(crate) fn note_bytes(&self) {
        if self.one.head.load(Ordering::Relaxed) == 0 {
            self.one.head.store(1, Ordering::Relaxed);
        }
    }

    /// Begins a request.
    fn busy(&self) -> RequestGuard {
        RequestGuard::begin(&self.one, &self.all)
    }

    /// Room for one more request, where a connection carries many at a time. `None`: there are too
    /// many.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all.0.streams).try_acquire_owned().ok()
    }

    /// Waits until there was no request for as long as a connection may stay open without one.
    pub(crate) async fn wait_until_idle(&self) {
        let keep_alive = self.all.0.keep_alive;
        loop {
            let since = Duration::from_millis(self.one.idle_since_ms.load(Ordering::Relaxed));
            let silent = if self.one.is_busy() {
                Duration::ZERO
            } else {
                self.all.0.begun.elapsed().saturating_sub(since)
            };
            if silent >= keep_alive {
                return;
            }
            tokio::time::sleep(keep_alive - silent).await;
        }
    }
}

impl Connections {
    /// None yet, and never more than `max_connections`, nor one for longer than `keep_alive` without a
    /// request.
    pub(crate) fn new(most: usize, keep_alive: Duration) -> Self {
        Self(Arc::new(ConnectionsInner {
            most: most.max(1),
            keep_alive,
            streams: Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS))),
            begun: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            reached: AtomicBool::new(false),
        }))
    }

    /// How many there may be.
    pub(crate) fn max_connections(&self) -> usize {
        self.0.most
    }

    /// Takes a new connection. `None`: it is closed, or nothing can be known of it.
    pub(crate) fn register(&self, stream: &tokio::net::TcpStream) -> Option<ConnectionGuard> {
        // Out of file descriptors, which the bound is there to prevent: it is served, and ends with
        // its sender.
        let socket = stream.as_fd().try_clone_to_owned().map(TcpStream::from).ok()?;
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let one = Arc::new(ConnectionState {
            socket,
            thread: thread::current().id(),
            requests: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(self.now()),
            was_idle: AtomicBool::new(false),
            head: AtomicU8::new(0),
        });
        let mut open = self.lock();
        if open.len() >= self.0.most {
            self.0.reached.store(true, Ordering::Relaxed);
            if !close_longest_idle(&mut open, (self.0.most / EVICT_FRACTION).max(1)) {
                one.close();
                return None;
            }
        }
        open.insert(number, Arc::clone(&one));
        drop(open);
        Some(ConnectionGuard { number, one, all: self.clone() })
    }

    /// Closes what is silent for too long of what this thread serves, until `stop`.
    pub(crate) async fn sweep(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(SWEEP_INTERVAL)).await.is_some() {
            self.close_idle(self.0.keep_alive);
            if self.0.reached.swap(false, Ordering::Relaxed) {
                let most = self.0.most;
                tracing::warn!(
                    most,
                    "MAX_CONNECTIONS was reached: connections without a request were closed"
                );
            }
        }
    }

    fn close_idle(&self, longest: Duration) {
        let (before, here) = (self.now().checked_sub(millis(longest)), thread::current().id());
        self.lock().retain(|_, one| {
            if one.thread != here {
                return true;
            }
            let since = one.idle_since_ms.load(Ordering::Relaxed);
            let silent = !one.is_busy() && before.is_some_and(|before| since <= before);
            let closes =
                one.was_idle.swap(silent, Ordering::Relaxed) && silent || one.is_head_overdue();
            if closes {
                one.close();
            }
            !closes
        });
    }

    fn now(&self) -> u64 {
        millis(self.0.begun.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<ConnectionState>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    /// Looks whether a head has begun and does not end. Only the thread that serves the connection
    /// looks.
    fn is_head_overdue(&self) -> bool {
        let looks = self.head.load(Ordering::Relaxed);
        if looks == 0 || self.is_busy() {
            return false;
        }
        self.head.store(looks.saturating_add(1), Ordering::Relaxed);
        looks > MAX_HEAD_SWEEPS
    }

    fn close(&self) {
        // It may have ended by itself.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.all.lock().remove(&self.number);
    }
}

impl RequestGuard {
    fn begin(one: &Arc<ConnectionState>, all: &Connections) -> Self {
        one.requests.fetch_add(1, Ordering::AcqRel);
        one.head.store(0, Ordering::Relaxed);
        Self { one: Arc::clone(one), all: all.clone() }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.one.idle_since_ms.store(self.all.now(), Ordering::Relaxed);
        self.one.head.store(0, Ordering::Relaxed);
        self.one.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Closes up to `count`; `false`: none is silent.
fn close_longest_idle(open: &mut HashMap<u64, Arc<ConnectionState>>, count: usize) -> bool {
    let silent = open.iter().filter(|(_, one)| !one.is_busy());
    let mut silent: Vec<(u64, u64)> =
        silent.map(|(number, one)| (one.idle_since_ms.load(Ordering::Relaxed), *number)).collect();
    if silent.len() > count {
        silent.select_nth_unstable(count);
        silent.truncate(count);
    }
    for (_, number) in &silent {
        if let Some(one) = open.remove(number) {
            one.close();
        }
    }
    !silent.is_empty()
}

/// Raises the number of files that this process may have open as far as the system lets it, and gives the most connections
/// that leave room for the rest: at most `wanted`.
pub(crate) fn limit_to_open_files(wanted: usize) -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let most = max_with_files(files, wanted);
    if most < wanted {
        tracing::warn!(
            files,
            most,
            wanted,
            "fewer connections than MAX_CONNECTIONS: too few files may be open"
        );
    }
    most
}

/// A connection is two files, and those that were told to close are there for another moment.
fn max_with_files(files: u64, wanted: usize) -> usize {
    let room = files.saturating_sub(OTHER_FILES) * 2 / 5;
    usize::try_from(room).unwrap_or(usize::MAX).max(MIN_CONNECTIONS).min(wanted)
}

/// What each of `threads` may hold of `max_connections` connections: more than its share, since they last unequally long.
pub(crate) fn per_thread(most: usize, threads: usize) -> usize {
    let share = most.div_ceil(threads.max(1));
    share + share / 8 + 8
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
