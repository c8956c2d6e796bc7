//! Bounds the number of connections, and closes idle ones.
//!
//! # Guarantees
//!
//! - There are never more than `MAX_CONNECTIONS`. At the bound, the longest idle connections are
//!   closed for a new one. The new one is refused only if all others have a request in progress.
//!   (`longest_idle_connection_is_evicted_not_a_busy_one`)
//! - A connection without a request is closed after `KEEP_ALIVE_MS`.
//!   (`idle_time_is_bounded_and_starts_after_the_last_request`)
//! - A connection whose request head does not end is closed after [`HEAD_TIMEOUT`], without an
//!   answer. (`connection_with_an_unfinished_head_is_closed`)
//! - A stalled thread reads pending bytes before it closes a connection.
//!   (`idle_connection_is_closed_by_its_own_thread`)
//!
//! # Design
//!
//! actix's own timeouts are not used, for two reasons. Its 408 for a slow first head would also
//! meet honest senders after this process was suspended, and some providers take a 4xx as final.
//! Its timer between requests would be created and cancelled for every request.
//!
//! A connection is closed only if two consecutive sweeps on its own thread find it idle. The sweeps
//! are [`SWEEP_INTERVAL`] apart.
//!
//! The peer's address plays no role, because all senders behind a balancer have the same one.

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

/// Time between two sweeps for idle connections.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that a head may take from its first byte to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Sweeps that may find the same head unfinished before its connection is closed.
const MAX_HEAD_SWEEPS: u8 = (HEAD_TIMEOUT.as_secs() / SWEEP_INTERVAL.as_secs()) as u8;
/// Divisor: 1/64 of all connections is evicted at once, so that not every new one searches them
/// all.
const EVICT_FRACTION: usize = 64;
/// Open files besides connections: listeners, Redis, files of threads.
const OTHER_FILES: u64 = 256;
/// Lower bound of `MAX_CONNECTIONS`.
pub(crate) const MIN_CONNECTIONS: usize = shared::config::variables::MIN_CONNECTIONS as usize;

/// All connections of this process; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connections(Arc<ConnectionsInner>);

struct ConnectionsInner {
    bound: usize,
    keep_alive: Duration,
    /// Permits for requests on connections that carry several at a time.
    request_permits: Arc<Semaphore>,
    started_at: Instant,
    next_id: AtomicU64,
    open: Mutex<HashMap<u64, Arc<ConnectionState>>>,
    /// Set if the bound was reached since the last log line.
    reached: AtomicBool,
}

struct ConnectionState {
    /// Second handle on the connection. Closing it wakes the thread that reads the first.
    socket: TcpStream,
    /// Thread that serves the connection.
    thread: ThreadId,
    /// Number of requests in progress.
    requests: AtomicU32,
    /// Start of the idle time, in ms since the process started.
    idle_since_ms: AtomicU64,
    /// Set if the last sweep found the connection idle for too long.
    was_idle: AtomicBool,
    /// 0 if no byte came since the last request. Otherwise 1 and one more for each sweep.
    head_sweeps: AtomicU8,
}

/// Registration of a connection; dropping it removes the connection.
pub(crate) struct ConnectionGuard {
    id: u64,
    connection: Arc<ConnectionState>,
    connections: Connections,
}

/// Marks a request as in progress until dropped.
pub(crate) struct RequestGuard {
    connection: Arc<ConnectionState>,
    connections: Connections,
}

/// Link between a request and its connection.
pub(crate) struct ConnectionLink {
    /// Keeps the connection from counting as idle.
    pub(crate) busy: Option<RequestGuard>,
    /// Close flag of the connection.
    pub(crate) closing: CloseFlag,
}

impl ConnectionLink {
    /// Returns the link of the connection that `request` came on.
    pub(crate) fn of(request: &Request) -> Self {
        let guard = request.conn_data::<Rc<ConnectionGuard>>();
        Self { busy: guard.map(|guard| guard.busy()), closing: CloseFlag::of(request) }
    }

    /// Returns the link of a connection that announces its end by itself, as HTTP/2 does.
    pub(crate) fn to(guard: Option<&ConnectionGuard>) -> Self {
        Self { busy: guard.map(ConnectionGuard::busy), closing: CloseFlag::default() }
    }
}

impl ConnectionGuard {
    /// Notes that bytes came. They begin a head unless a request is in progress.
    pub(crate) fn note_bytes(&self) {
        if self.connection.head_sweeps.load(Ordering::Relaxed) == 0 {
            self.connection.head_sweeps.store(1, Ordering::Relaxed);
        }
    }

    /// Begins a request.
    fn busy(&self) -> RequestGuard {
        RequestGuard::begin(&self.connection, &self.connections)
    }

    /// Returns a permit for one more request on a connection that carries several. `None`: too
    /// many.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.connections.0.request_permits).try_acquire_owned().ok()
    }

    /// Waits until the connection was idle for `KEEP_ALIVE_MS`.
    pub(crate) async fn wait_until_idle(&self) {
        let keep_alive = self.connections.0.keep_alive;
        loop {
            let since =
                Duration::from_millis(self.connection.idle_since_ms.load(Ordering::Relaxed));
            let idle = if self.connection.is_busy() {
                Duration::ZERO
            } else {
                self.connections.0.started_at.elapsed().saturating_sub(since)
            };
            if idle >= keep_alive {
                return;
            }
            tokio::time::sleep(keep_alive - idle).await;
        }
    }
}

impl Connections {
    /// Creates the registry, bounded to `bound` connections and to `keep_alive` without a request.
    pub(crate) fn new(bound: usize, keep_alive: Duration) -> Self {
        Self(Arc::new(ConnectionsInner {
            bound: bound.max(1),
            keep_alive,
            request_permits: Arc::new(Semaphore::new(bound.clamp(1, Semaphore::MAX_PERMITS))),
            started_at: Instant::now(),
            next_id: AtomicU64::new(0),
            open: Mutex::default(),
            reached: AtomicBool::new(false),
        }))
    }

    /// Returns the bound on connections.
    pub(crate) fn max_connections(&self) -> usize {
        self.0.bound
    }

    /// Registers a new connection. `None`: it was closed, or it cannot be tracked.
    pub(crate) fn register(&self, stream: &tokio::net::TcpStream) -> Option<ConnectionGuard> {
        // No file descriptor is left, which the bound prevents. The connection is served and ends
        // with its sender.
        let socket = stream.as_fd().try_clone_to_owned().map(TcpStream::from).ok()?;
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(ConnectionState {
            socket,
            thread: thread::current().id(),
            requests: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(self.now()),
            was_idle: AtomicBool::new(false),
            head_sweeps: AtomicU8::new(0),
        });
        let mut open = self.lock();
        if open.len() >= self.0.bound {
            self.0.reached.store(true, Ordering::Relaxed);
            if !close_longest_idle(&mut open, (self.0.bound / EVICT_FRACTION).max(1)) {
                connection.close();
                return None;
            }
        }
        open.insert(id, Arc::clone(&connection));
        drop(open);
        Some(ConnectionGuard { id, connection, connections: self.clone() })
    }

    /// Closes idle connections of this thread until `stop`.
    pub(crate) async fn sweep(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(SWEEP_INTERVAL)).await.is_some() {
            self.close_idle(self.0.keep_alive);
            if self.0.reached.swap(false, Ordering::Relaxed) {
                let bound = self.0.bound;
                tracing::warn!(bound, "MAX_CONNECTIONS was reached; closed idle connections");
            }
        }
    }

    fn close_idle(&self, longest: Duration) {
        let (before, here) = (self.now().checked_sub(millis(longest)), thread::current().id());
        self.lock().retain(|_, connection| {
            if connection.thread != here {
                return true;
            }
            let since = connection.idle_since_ms.load(Ordering::Relaxed);
            let idle = !connection.is_busy() && before.is_some_and(|before| since <= before);
            let closes = connection.was_idle.swap(idle, Ordering::Relaxed) && idle
                || connection.is_head_overdue();
            if closes {
                connection.close();
            }
            !closes
        });
    }

    fn now(&self) -> u64 {
        millis(self.0.started_at.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<ConnectionState>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    /// Returns true if a head has begun and did not end in time. Counts the sweeps, so only the
    /// thread of the connection may call it.
    fn is_head_overdue(&self) -> bool {
        let sweeps = self.head_sweeps.load(Ordering::Relaxed);
        if sweeps == 0 || self.is_busy() {
            return false;
        }
        self.head_sweeps.store(sweeps.saturating_add(1), Ordering::Relaxed);
        sweeps > MAX_HEAD_SWEEPS
    }

    fn close(&self) {
        // The connection may have ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}

impl RequestGuard {
    fn begin(connection: &Arc<ConnectionState>, connections: &Connections) -> Self {
        connection.requests.fetch_add(1, Ordering::AcqRel);
        connection.head_sweeps.store(0, Ordering::Relaxed);
        Self { connection: Arc::clone(connection), connections: connections.clone() }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.connection.idle_since_ms.store(self.connections.now(), Ordering::Relaxed);
        self.connection.head_sweeps.store(0, Ordering::Relaxed);
        self.connection.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Closes up to `count` of the longest idle connections. Returns false if none is idle.
fn close_longest_idle(open: &mut HashMap<u64, Arc<ConnectionState>>, count: usize) -> bool {
    let idle = open.iter().filter(|(_, connection)| !connection.is_busy());
    let mut idle: Vec<(u64, u64)> = idle
        .map(|(id, connection)| (connection.idle_since_ms.load(Ordering::Relaxed), *id))
        .collect();
    if idle.len() > count {
        idle.select_nth_unstable(count);
        idle.truncate(count);
    }
    for (_, id) in &idle {
        if let Some(connection) = open.remove(id) {
            connection.close();
        }
    }
    !idle.is_empty()
}

/// Raises the limit of open files as far as possible. Returns the connections that fit into it, at
/// most `wanted`.
pub(crate) fn limit_to_open_files(wanted: usize) -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let bound = max_with_files(files, wanted);
    if bound < wanted {
        tracing::warn!(
            files,
            bound,
            wanted,
            "open file limit is too low for MAX_CONNECTIONS; accepting fewer connections"
        );
    }
    bound
}

/// A connection takes two files. Closed connections keep theirs for a moment.
fn max_with_files(files: u64, wanted: usize) -> usize {
    let room = files.saturating_sub(OTHER_FILES) * 2 / 5;
    usize::try_from(room).unwrap_or(usize::MAX).max(MIN_CONNECTIONS).min(wanted)
}

/// Returns the bound per thread: more than an equal share, since connections last unequally long.
pub(crate) fn per_thread(bound: usize, threads: usize) -> usize {
    let share = bound.div_ceil(threads.max(1));
    share + share / 8 + 8
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
