//! What every loop of a worker shares: its platforms, its queue, its database, and what it holds.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::event::Millis;
use shared::metrics::DatabaseMetrics;
use shared::queue::{Queue, RedisHealth, StreamEntry};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::consumer::chain;
use crate::consumer::inflight::InFlight;
use crate::consumer::outcome::RetryPolicy;
use crate::forward::Forwarding;
pub use crate::platforms::PlatformQueue;
use crate::platforms::PlatformQueues;
use crate::retention::Retention;
use crate::store::{Store, StoreError};

/// Entries of one platform that this worker has taken hold of.
pub struct EntryBatch {
    /// Whose.
    pub platform_queue: Arc<PlatformQueue>,
    /// In the order of the stream.
    pub entries: Vec<StreamEntry>,
    /// Delivered so often that one of them may be what ends workers: each runs alone.
    pub suspect: bool,
    /// When they were received.
    pub taken: Instant,
}

/// Reason why the database does not commit.
#[derive(Clone, Debug)]
pub struct DatabaseOutage {
    reason: String,
    /// A table or column is missing, which a commit elsewhere does not disprove.
    is_schema_error: bool,
}

/// The last trouble of the database, until it commits again.
#[derive(Debug, Default)]
pub struct LastDatabaseOutage(Mutex<Option<DatabaseOutage>>);

impl LastDatabaseOutage {
    fn lock(&self) -> MutexGuard<'_, Option<DatabaseOutage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The parts that every loop of a worker uses.
pub struct WorkerContext {
    /// The platforms that are served.
    pub platforms: PlatformQueues,
    /// The queue.
    pub queue: Queue,
    /// Who gets what was processed.
    pub forwarding: Forwarding,
    /// The database.
    pub store: Store,
    /// Rung when this worker has put something into a retry set; the lane says which.
    pub rescheduled: Notify,
    /// What is held.
    pub inflight: InFlight,
    /// When to retry and when to give up.
    pub policy: RetryPolicy,
    /// This worker's name in the consumer group, and in dead letters.
    pub consumer: String,
    /// Dead letters kept per platform.
    pub dlq_max_len: u64,
    /// What is forgotten after which time.
    pub retention: Retention,
    /// After how long an entry without a renewing holder is taken over.
    pub claim_idle: Duration,
    /// `DURABILITY=strict`.
    pub strict: bool,
    /// What is known of Redis.
    pub redis: watch::Receiver<RedisHealth>,
    /// Whether the database commits, as far as is known.
    pub database: watch::Sender<bool>,
    /// Reason why it does not.
    pub database_outage: LastDatabaseOutage,
    /// When Redis or the database was last found back, by Redis's clock in ms; the start at first.
    pub recovered_at: AtomicI64,
    /// The same, for scraping.
    pub database_metrics: DatabaseMetrics,
    /// Cancelled when the worker is to stop.
    pub stop: CancellationToken,
}

impl WorkerContext {
    /// The lane of the reserved platform on which sessions are announced.
    pub fn announcements(&self) -> Option<Arc<PlatformQueue>> {
        self.platforms.announcements()
    }

    /// The time by Redis's clock, as well as it is known.
    pub fn now(&self) -> Millis {
        self.redis.borrow().now_ms()
    }

    /// Whether the database committed when it was last asked.
    pub fn database_up(&self) -> bool {
        *self.database.borrow()
    }

    /// Notes that a transaction committed. A part of the schema may be missing all the same.
    pub fn note_commit(&self) {
        if !self.database_outage.lock().as_ref().is_some_and(|trouble| trouble.is_schema_error) {
            self.note_database(true);
        }
    }

    /// Notes the outcome of a probe of the database.
    pub fn note_probe(&self, outcome: Result<(), &StoreError>) {
        *self.database_outage.lock() = outcome.err().map(|error| DatabaseOutage {
            reason: chain(error.cause()),
            is_schema_error: error.is_schema_error(),
        });
        self.note_database(outcome.is_ok());
    }

    /// Notes whether the database commits, and logs a change.
    pub fn note_database(&self, up: bool) {
        self.database_metrics.database_up(up);
        if !self.database.send_if_modified(|known| std::mem::replace(known, up) != up) {
            return;
        }
        if up {
            tracing::info!("the session database is back");
            self.note_recovery();
        } else {
            let trouble = self.database_outage.lock();
            let reason = trouble.as_ref().map_or("unknown", |trouble| trouble.reason.as_str());
            tracing::error!(reason, "the session database is unavailable; holding what was read");
        }
    }

    /// Reason of the database's outage, for people.
    fn database_reason(&self) -> String {
        let trouble = self.database_outage.lock();
        let reason =
            trouble.as_ref().map_or_else(String::new, |trouble| format!(": {}", trouble.reason));
        format!("the session database does not commit{reason}")
    }

    /// Notes that Redis or the database has just come back.
    pub fn note_recovery(&self) {
        self.recovered_at.store(self.now(), Ordering::Relaxed);
    }

    /// Since when Redis and the database are both there and Redis's clock goes evenly, as far as is known. Whoever wants
    /// to know how long ago that was asks for [`Self::now`] first: the clock may be set between the two.
    pub fn up_since(&self) -> Millis {
        let clock_set_at = self.redis.borrow().clock_set_at;
        self.recovered_at.load(Ordering::Relaxed).max(clock_set_at.unwrap_or(Millis::MIN))
    }

    /// Waits until something may be taken: the database commits and there is room. `false`: the worker is to stop.
    pub async fn wait_until_may_take(&self) -> bool {
        let mut database = self.database.subscribe();
        let room = async {
            let _ = database.wait_for(|up| *up).await;
            self.inflight.wait_for_capacity().await;
        };
        self.stop.run_until_cancelled(room).await.is_some() && !self.stop.is_cancelled()
    }

    /// Why this worker cannot work now, if so.
    ///
    /// # Errors
    /// In plain words.
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
