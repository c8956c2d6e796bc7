//! Follows the registrations in Redis and publishes snapshots of them.
//!
//! # Guarantees
//!
//! - A change in Redis is known within about half a second
//!   (`registration_is_known_here_at_once_and_elsewhere_soon`).
//! - An expired secret verifies nothing after half a second, even while Redis is unavailable
//!   (`old_secret_expires_on_time_without_redis`).
//! - The last snapshot stays valid during an outage. Nothing is published before the first read of
//!   Redis (`registrations_end_with_an_emptied_redis_not_with_an_outage`).
//! - Concurrent callers share one read at a time, and there are only a few reads per second
//!   (`concurrent_refreshes_share_a_few_reads`).

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::seal::Sealer;
use super::snapshot::{Snapshot, SnapshotBuilder};
use crate::clock;
use crate::event::Millis;
use crate::platform::registry::Registry;
use crate::queue::{CallError, Queue};

/// Interval between checks for a change in Redis.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Interval between checks for expired secrets.
const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Minimum time between the starts of two reads.
const MIN_READ_INTERVAL: Duration = Duration::from_millis(50);

/// Reads and changes registrations. Cheap to clone.
#[derive(Clone)]
pub struct RegistrationStore {
    inner: Arc<StoreInner>,
}

struct StoreInner {
    queue: Queue,
    sealer: Option<Sealer>,
    builder: Mutex<SnapshotBuilder>,
    reading: tokio::sync::Mutex<LastRead>,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    /// Difference between Redis's clock and ours, in ms.
    skew: AtomicI64,
    /// Expiry of the secret that expires next, by Redis's clock, or `i64::MAX`.
    next_expiry: AtomicI64,
}

/// Start and result of the last read.
#[derive(Default)]
struct LastRead(Option<(Instant, Result<Arc<Snapshot>, CallError>)>);

impl std::fmt::Debug for RegistrationStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistrationStore").finish_non_exhaustive()
    }
}

/// Follows registrations until `stop` and never changes them, see [`RegistrationStore::start`].
#[must_use]
pub fn watch_registrations(
    queue: Queue,
    base: Registry,
    sealer: Option<Sealer>,
    stop: CancellationToken,
) -> watch::Receiver<Option<Arc<Snapshot>>> {
    RegistrationStore::start(queue, base, sealer, stop).subscribe()
}

impl RegistrationStore {
    /// Follows the registrations over `base` until `stop`. `sealer` opens secrets. With `None` this
    /// process verifies no requests.
    #[must_use]
    pub fn start(
        queue: Queue,
        base: Registry,
        sealer: Option<Sealer>,
        stop: CancellationToken,
    ) -> Self {
        let store = Self {
            inner: Arc::new(StoreInner {
                queue,
                builder: Mutex::new(SnapshotBuilder::new(base, sealer.clone())),
                sealer,
                reading: tokio::sync::Mutex::default(),
                publish: watch::Sender::new(None),
                skew: AtomicI64::new(0),
                next_expiry: AtomicI64::new(Millis::MAX),
            }),
        };
        let (poll, expire) = (store.clone(), store.clone());
        let stop_polling = stop.clone();
        tokio::spawn(async move { stop_polling.run_until_cancelled(poll.poll()).await });
        tokio::spawn(async move { stop.run_until_cancelled(expire.expire()).await });
        store
    }

    /// Returns a receiver of snapshots. It holds `None` until Redis was read once.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.inner.publish.subscribe()
    }

    /// Returns the last snapshot, or `None` until Redis was read once.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Snapshot>> {
        self.inner.publish.borrow().clone()
    }

    /// Returns a snapshot from a read that starts after this call. Concurrent callers share the
    /// read.
    ///
    /// # Errors
    /// Returns an error if Redis does not answer.
    pub async fn refresh(&self) -> Result<Arc<Snapshot>, CallError> {
        let called_at = Instant::now();
        let mut last = self.inner.reading.lock().await;
        if let LastRead(Some((started, result))) = &*last {
            if *started > called_at {
                return result.clone();
            }
            sleep((*started + MIN_READ_INTERVAL).saturating_duration_since(Instant::now())).await;
        }
        let started = Instant::now();
        let result = self.read().await;
        last.0 = Some((started, result.clone()));
        result
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.inner.queue
    }

    pub(super) fn sealer(&self) -> Option<&Sealer> {
        self.inner.sealer.as_ref()
    }

    /// Redis's time, estimated from the last read.
    #[must_use]
    pub fn now(&self) -> Millis {
        clock::now_ms().saturating_add(self.inner.skew.load(Ordering::Relaxed))
    }

    async fn read(&self) -> Result<Arc<Snapshot>, CallError> {
        let (version, time) = self.inner.queue.registrations_version().await?;
        self.inner.skew.store(time.saturating_sub(clock::now_ms()), Ordering::Relaxed);
        if let Some(known) = self.current().filter(|known| known.version == version) {
            return Ok(known);
        }
        let registrations = self.inner.queue.registrations().await?;
        self.publish(|builder, now| builder.build(registrations, now)).await.ok_or_else(|| {
            CallError::NotRun(
                (redis::ErrorKind::Client, "the registration snapshot could not be built").into(),
            )
        })
    }

    /// Publishes the snapshot that `build` returns. Snapshots are published in the order in which
    /// they are built. Returns `None` if `build` panicked; the last snapshot stays valid.
    async fn publish(
        &self,
        build: impl FnOnce(&mut SnapshotBuilder, Millis) -> Snapshot + Send + 'static,
    ) -> Option<Arc<Snapshot>> {
        let store = self.clone();
        // Compiling hundreds of definitions would block other tasks of this thread for too long.
        let built = tokio::task::spawn_blocking(move || {
            let mut builder = store.inner.builder.lock().unwrap_or_else(PoisonError::into_inner);
            let snapshot = Arc::new(build(&mut builder, store.now()));
            store
                .inner
                .next_expiry
                .store(builder.next_expiry().unwrap_or(Millis::MAX), Ordering::Relaxed);
            store.inner.publish.send_replace(Some(Arc::clone(&snapshot)));
            snapshot
        });
        built.await.ok()
    }

    async fn poll(&self) {
        let mut failing = false;
        loop {
            match self.refresh().await {
                Ok(_) => failing = false,
                Err(fault) if !failing => {
                    failing = true;
                    tracing::warn!(
                        error = %fault.error(),
                        "cannot read registrations; keeping the last known ones"
                    );
                }
                Err(_) => {}
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn expire(&self) {
        loop {
            sleep(EXPIRY_CHECK_INTERVAL).await;
            if self.inner.next_expiry.load(Ordering::Relaxed) <= self.now() {
                self.publish(SnapshotBuilder::rebuild).await;
            }
        }
    }
}
