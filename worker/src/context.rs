//! State that all loops of a worker share: platforms, queue, database, and held entries.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::event::Millis;
use shared::metrics::DatabaseMetrics;
use shared::queue::{Queue, RedisHealth, StreamEntry};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::consumer::error_chain;
use crate::consumer::inflight::InFlight;
use crate::consumer::outcome::RetryPolicy;
use crate::forward::Forwarding;
pub use crate::platforms::PlatformQueue;
use crate::platforms::PlatformQueues;
use crate::retention::Retention;
use crate::store::{Store, StoreError};

/// Entries of one platform that this worker holds.
pub struct EntryBatch {
    /// Platform of the entries.
    pub platform_queue: Arc<PlatformQueue>,
    /// Entries in the order of the stream.
    pub entries: Vec<StreamEntry>,
    /// One of the entries may crash workers, since it was delivered often. Each of them runs alone.
    pub suspect: bool,
    /// Time at which the entries were received.
    pub taken_at: Instant,
}

/// Reason why the database does not commit.
#[derive(Clone, Debug)]
pub struct DatabaseOutage {
    reason: String,
    /// A table, column or privilege is missing. A commit elsewhere does not disprove that.
    is_schema_error: bool,
}

/// Last outage of the database, until it commits again.
#[derive(Debug, Default)]
pub struct LastDatabaseOutage(Mutex<Option<DatabaseOutage>>);

impl LastDatabaseOutage {
    fn lock(&self) -> MutexGuard<'_, Option<DatabaseOutage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// State that all loops of a worker share.
pub struct WorkerContext {
    /// Served platforms.
    pub platforms: PlatformQueues,
    /// Queue in Redis.
    pub queue: Queue,
    /// Destinations of processed events.
    pub forwarding: Forwarding,
    /// Session database.
    pub store: Store,
    /// Notified when this worker has scheduled a retry. The platform queue records which one.
    pub rescheduled: Notify,
    /// Held entries.
    pub inflight: InFlight,
    /// Bounds on retries.
    pub policy: RetryPolicy,
    /// Name of this worker in the consumer group and in dead letters.
    pub consumer: String,
    /// Most dead letters per platform.
    pub dlq_max_len: u64,
    /// Retention of dead letters and ledger rows.
    pub retention: Retention,
    /// Time after which an entry can be claimed if its holder does not extend its claim.
    pub claim_idle: Duration,
    /// `DURABILITY=strict`.
    pub strict: bool,
    /// State of Redis, as last seen.
    pub redis: watch::Receiver<RedisHealth>,
    /// True while the database commits, as last seen.
    pub database: watch::Sender<bool>,
    /// Reason for the current outage of the database.
    pub database_outage: LastDatabaseOutage,
    /// Time of the last recovery of Redis or the database, in ms by Redis's clock. The start counts
    /// as one.
    pub recovered_at: AtomicI64,
    /// Metrics of the database.
    pub database_metrics: DatabaseMetrics,
    /// Cancelled when the worker is stopped.
    pub stop: CancellationToken,
}

impl WorkerContext {
    /// Returns the queue of the reserved platform for session announcements.
    pub fn announcements(&self) -> Option<Arc<PlatformQueue>> {
        self.platforms.announcements()
    }

    /// Returns the time by Redis's clock.
    pub fn now(&self) -> Millis {
        self.redis.borrow().now_ms()
    }

    /// Returns true if the database committed at the last check.
    pub fn database_up(&self) -> bool {
        *self.database.borrow()
    }

    /// Records a commit. A missing part of the schema outlasts it.
    pub fn note_commit(&self) {
        if !self.database_outage.lock().as_ref().is_some_and(|outage| outage.is_schema_error) {
            self.note_database(true);
        }
    }

    /// Records the result of a probe of the database.
    pub fn note_probe(&self, outcome: Result<(), &StoreError>) {
        *self.database_outage.lock() = outcome.err().map(|error| DatabaseOutage {
            reason: error_chain(error.cause()),
            is_schema_error: error.is_schema_error(),
        });
        self.note_database(outcome.is_ok());
    }

    /// Records whether the database commits, and logs a change.
    pub fn note_database(&self, up: bool) {
        self.database_metrics.database_up(up);
        if !self.database.send_if_modified(|known| std::mem::replace(known, up) != up) {
            return;
        }
        if up {
            tracing::info!("session database recovered; consuming again");
            self.note_recovery();
        } else {
            let outage = self.database_outage.lock();
            let reason = outage.as_ref().map_or("unknown", |outage| outage.reason.as_str());
            tracing::error!(
                reason,
                "the session database is unavailable; holding entries until it recovers"
            );
        }
    }

    /// Returns the reason for the database's outage, for operators.
    fn database_reason(&self) -> String {
        let outage = self.database_outage.lock();
        let reason =
            outage.as_ref().map_or_else(String::new, |outage| format!(": {}", outage.reason));
        format!("the session database does not commit{reason}")
    }

    /// Records that Redis or the database has recovered.
    pub fn note_recovery(&self) {
        self.recovered_at.store(self.now(), Ordering::Relaxed);
    }

    /// Returns the start of the time in which Redis and the database have been available and
    /// Redis's clock has not been set. Call [`Self::now`] first to compute a duration, since the
    /// clock may be set between the two calls.
    pub fn up_since(&self) -> Millis {
        let clock_set_at = self.redis.borrow().clock_set_at;
        self.recovered_at.load(Ordering::Relaxed).max(clock_set_at.unwrap_or(Millis::MIN))
    }

    /// Waits until entries may be read: the database commits and there is capacity. Returns false
    /// if the worker is stopped.
    pub async fn wait_until_may_take(&self) -> bool {
        let mut database = self.database.subscribe();
        let capacity = async {
            let _ = database.wait_for(|up| *up).await;
            self.inflight.wait_for_capacity().await;
        };
        self.stop.run_until_cancelled(capacity).await.is_some() && !self.stop.is_cancelled()
    }

    /// Returns whether this worker can do its work now.
    ///
    /// # Errors
    /// The reason why it cannot, for operators.
    pub fn readiness(&self) -> Result<(), String> {
        if self.stop.is_cancelled() {
            return Err("shutting down".to_owned());
        }
        let redis = self.redis.borrow().clone();
        if !redis.up {
            let reason = redis.trouble.as_ref().map(ToString::to_string);
            return Err(reason.unwrap_or_else(|| "Redis does not answer".to_owned()));
        }
        if self.strict && !self.redis.borrow().strict_ok() {
            return Err("Redis is not as durable as DURABILITY=strict asks for".to_owned());
        }
        if let Some(reason) = self.store.wrong_database() {
            return Err(reason);
        }
        if !self.database_up() {
            return Err(self.database_reason());
        }
        Ok(())
    }
}
