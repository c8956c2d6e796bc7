//! How many connections there are, and which of them goes when there are too many.
//!
//! Guarantee: never more than `MAX_CONNECTIONS`, and at that bound a new connection is still taken: those on which no
//! request has been going on for longest are closed for it, and only where every connection is in the middle of a request
//! is it the new one. So idle connections and heads that never end, however many and from wherever, keep nobody out. Also
//! without need no connection stays open without a request for longer than [`SILENCE`], nor one on which a head begins
//! and never ends. It is closed without an answer, which every sender tries again: a bound of our own in place of actix's,
//! whose 408 for the first head would also meet genuine senders after this process was frozen or starved of its CPU, and
//! to some providers 4xx is final; and whose timer between requests would be made, set and cancelled for each of them.
//! Silence is found twice, a [`SWEEP`] apart and by the thread that serves the connection, so that after such a time it
//! first reads what has come in meanwhile.
//!
//! Who is at the other end is not asked: behind a balancer all senders have one address.

use std::any::Any;
use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use actix_http::Request;
use actix_web::dev::Extensions;
use tokio_util::sync::CancellationToken;

/// Longest time without a request, between two requests or before a head that does not end.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// How often those that were silent for longer are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Part of all connections that is closed at once at the bound, so that not every new one searches them all.
const SHARE: usize = 64;
/// Files that are open besides connections: listeners, Redis, what belongs to threads.
const OTHER_FILES: u64 = 256;
/// The fewest connections that a bound may leave.
pub(crate) const FEWEST: usize = 16;

/// All connections of this process; cheap to clone.
#[derive(Clone)]
pub(crate) struct Connections(Arc<All>);

struct All {
    most: usize,
    begun: Instant,
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<One>>>,
    /// The bound was reached since this was last told.
    reached: AtomicBool,
}

struct One {
    /// A second handle on the connection: closing it is felt by whoever reads from the first.
    socket: TcpStream,
    /// Who serves it.
    thread: ThreadId,
    /// Requests in progress.
    requests: AtomicU32,
    /// Since when there was none, in ms since the process began.
    silent_since: AtomicU64,
    /// It was silent for too long when it was last looked at.
    seen_silent: AtomicBool,
}

/// A connection's entry, which ends with it.
struct Entry {
    number: u64,
    one: Arc<One>,
    all: Connections,
}

/// A request in progress.
pub(crate) struct Busy {
    one: Arc<One>,
    all: Connections,
}

impl Connections {
    /// None yet, and never more than `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(All {
            most: most.max(1),
            begun: Instant::now(),
            next: AtomicU64::new(0),
            open: Mutex::default(),
            reached: AtomicBool::new(false),
        }))
    }

    /// How many there may be.
    pub(crate) fn most(&self) -> usize {
        self.0.most
    }

    /// Takes a new connection, or closes it.
    pub(crate) fn enter(&self, connection: &dyn Any, data: &mut Extensions) {
        let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
        let socket = stream.as_fd().try_clone_to_owned().map(TcpStream::from);
        // Out of file descriptors, which the bound is there to prevent: it is served, and ends by actix's own bounds.
        let Ok(socket) = socket else { return };
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let one = Arc::new(One {
            socket,
            thread: thread::current().id(),
            requests: AtomicU32::new(0),
            silent_since: AtomicU64::new(self.now()),
            seen_silent: AtomicBool::new(false),
        });
        let mut open = self.lock();
        if open.len() >= self.0.most {
            self.0.reached.store(true, Ordering::Relaxed);
            if !close_longest_silent(&mut open, (self.0.most / SHARE).max(1)) {
                one.close();
                return;
            }
        }
        open.insert(number, Arc::clone(&one));
        drop(open);
        data.insert(Entry { number, one, all: self.clone() });
    }

    /// Says that a request is going on, until that is dropped: so long its connection is not silent.
    pub(crate) fn busy(&self, request: &Request) -> Option<Busy> {
        request.conn_data::<Entry>().map(|entry| Busy::begin(&entry.one, self))
    }

    /// Closes what is silent for too long of what this thread serves, until `stop`.
    pub(crate) async fn sweep(self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            self.close_silent(SILENCE);
            if self.0.reached.swap(false, Ordering::Relaxed) {
                let most = self.0.most;
                tracing::warn!(most, "MAX_CONNECTIONS was reached: connections without a request were closed");
            }
        }
    }

    fn close_silent(&self, longest: Duration) {
        let (before, here) = (self.now().saturating_sub(millis(longest)), thread::current().id());
        self.lock().retain(|_, one| {
            if one.thread != here {
                return true;
            }
            let silent = !one.is_busy() && one.silent_since.load(Ordering::Relaxed) <= before;
            let closes = one.seen_silent.swap(silent, Ordering::Relaxed) && silent;
            if closes {
                one.close();
            }
            !closes
        });
    }

    fn now(&self) -> u64 {
        millis(self.0.begun.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<One>>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl One {
    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Acquire) > 0
    }

    fn close(&self) {
        // It may have ended by itself.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.all.lock().remove(&self.number);
    }
}

impl Busy {
    fn begin(one: &Arc<One>, all: &Connections) -> Self {
        one.requests.fetch_add(1, Ordering::AcqRel);
        Self { one: Arc::clone(one), all: all.clone() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.one.silent_since.store(self.all.now(), Ordering::Relaxed);
        self.one.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Closes up to `count`; `false`: none is silent.
fn close_longest_silent(open: &mut HashMap<u64, Arc<One>>, count: usize) -> bool {
    let silent = open.iter().filter(|(_, one)| !one.is_busy());
    let mut silent: Vec<(u64, u64)> =
        silent.map(|(number, one)| (one.silent_since.load(Ordering::Relaxed), *number)).collect();
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
pub(crate) fn within_files(wanted: usize) -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let most = most_with(files, wanted);
    if most < wanted {
        tracing::warn!(files, most, wanted, "fewer connections than MAX_CONNECTIONS: too few files may be open");
    }
    most
}

/// A connection is two files, and those that were told to close are there for another moment.
fn most_with(files: u64, wanted: usize) -> usize {
    let room = files.saturating_sub(OTHER_FILES) * 2 / 5;
    usize::try_from(room).unwrap_or(usize::MAX).max(FEWEST).min(wanted)
}

/// What each of `threads` may hold of `most` connections: more than its share, since they last unequally long.
pub(crate) fn per_thread(most: usize, threads: usize) -> usize {
    let share = most.div_ceil(threads.max(1));
    share + share / 8 + 8
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// The other side of a connection, and what ingress knows it by.
    fn open(all: &Connections, listener: &TcpListener) -> (TcpStream, Extensions) {
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        other.set_nonblocking(true).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = actix_web::rt::net::TcpStream::from_std(stream).unwrap();
        let mut data = Extensions::new();
        all.enter(&stream, &mut data);
        // The server's own handle lives as long as its entry.
        data.insert(stream);
        (other, data)
    }

    fn is_closed(other: &mut TcpStream) -> bool {
        matches!(other.read(&mut [0]), Ok(0))
    }

    fn busy(all: &Connections, data: &Extensions) -> Busy {
        Busy::begin(&data.get::<Entry>().unwrap().one, all)
    }

    #[tokio::test]
    async fn the_longest_silent_one_goes_and_none_in_the_middle_of_a_request() {
        let (all, listener) = (Connections::new(2), TcpListener::bind("127.0.0.1:0").unwrap());
        let (mut first, data) = open(&all, &listener);
        let working = busy(&all, &data);
        let (mut second, other) = open(&all, &listener);
        let (mut third, _third) = open(&all, &listener);
        assert!(!is_closed(&mut first), "it is in the middle of a request");
        assert!(is_closed(&mut second) && !is_closed(&mut third));
        drop(other);
        let also = busy(&all, &_third);
        let (mut fourth, fourth_data) = open(&all, &listener);
        assert!(is_closed(&mut fourth) && fourth_data.get::<Entry>().is_none(), "there was nobody to close for it");
        drop((working, also, data));
        assert_eq!(all.lock().len(), 1);
        let (mut fifth, _fifth) = open(&all, &listener);
        assert!(!is_closed(&mut fifth) && !is_closed(&mut third));
    }

    #[tokio::test]
    async fn silence_has_an_end_and_begins_after_the_last_request() {
        let (all, listener) = (Connections::new(9), TcpListener::bind("127.0.0.1:0").unwrap());
        let (mut idle, _idle) = open(&all, &listener);
        let (mut working, data) = open(&all, &listener);
        let request = busy(&all, &data);
        let look = async || {
            tokio::time::sleep(Duration::from_millis(360)).await;
            all.close_silent(Duration::from_millis(300));
        };
        look().await;
        assert!(!is_closed(&mut idle), "what came in may not have been read yet");
        look().await;
        assert!(is_closed(&mut idle) && !is_closed(&mut working));
        drop(request);
        all.close_silent(Duration::from_millis(300));
        assert!(!is_closed(&mut working), "it has only just been answered");
        look().await;
        drop(busy(&all, &data));
        all.close_silent(Duration::from_millis(300));
        assert!(!is_closed(&mut working), "it has spoken since it was found silent");
        look().await;
        look().await;
        assert!(is_closed(&mut working));
    }

    #[tokio::test]
    async fn silence_is_found_by_the_thread_that_would_have_read() {
        let (all, listener) = (Connections::new(9), TcpListener::bind("127.0.0.1:0").unwrap());
        let (mut idle, _idle) = open(&all, &listener);
        let look = || all.close_silent(Duration::ZERO);
        thread::scope(|scope| {
            scope.spawn(|| (look(), look()));
        });
        look();
        assert!(!is_closed(&mut idle), "what another thread sees says nothing");
        look();
        assert!(is_closed(&mut idle));
    }

    #[test]
    fn files_bound_connections() {
        assert_eq!(most_with(1 << 20, 10_000), 10_000);
        assert_eq!(most_with(1024, 10_000), 307);
        assert_eq!(most_with(64, 10_000), FEWEST);
        assert_eq!((per_thread(10_000, 2), per_thread(16, 4)), (5_633, 12));
    }
}
