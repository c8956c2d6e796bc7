//! What every loop of a worker shares: its platforms, its queue, its database, and what it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use shared::event::Millis;
use shared::metrics::DatabaseMetrics;
use shared::queue::{Entry, Queue, RedisHealth};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::consumer::inflight::InFlight;
use crate::consumer::outcome::Policy;
use crate::forward::Forwarding;
pub use crate::lanes::Lane;
use crate::lanes::Lanes;
use crate::retention::Retention;
use crate::store::Store;

/// Entries of one platform that this worker has taken hold of.
pub struct Batch {
    /// Whose.
    pub lane: Arc<Lane>,
    /// In the order of the stream.
    pub entries: Vec<Entry>,
    /// Delivered so often that one of them may be what ends workers: each runs alone.
    pub suspect: bool,
    /// When they were received.
    pub taken: Instant,
}

/// The parts that every loop of a worker uses.
pub struct Worker {
    /// The platforms that are served.
    pub lanes: Lanes,
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
    pub policy: Policy,
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
    /// When Redis or the database was last found back, by Redis's clock in ms; the start at first.
    pub back_at: AtomicI64,
    /// The same, for scraping.
    pub database_metrics: DatabaseMetrics,
    /// Cancelled when the worker is to stop.
    pub stop: CancellationToken,
}

impl Worker {
    /// The lane of the reserved platform on which sessions are announced.
    pub fn announcements(&self) -> Option<Arc<Lane>> {
        self.lanes.announcements()
    }

    /// The time by Redis's clock, as well as it is known.
    pub fn now(&self) -> Millis {
        self.redis.borrow().now_ms()
    }

    /// Whether the database committed when it was last asked.
    pub fn database_up(&self) -> bool {
        *self.database.borrow()
    }

    /// Notes what the database did last.
    pub fn note_database(&self, up: bool) {
        self.database_metrics.database_up(up);
        if self.database.send_if_modified(|known| std::mem::replace(known, up) != up) && up {
            self.note_back();
        }
    }

    /// Notes that Redis or the database has just come back.
    pub fn note_back(&self) {
        self.back_at.store(self.now(), Ordering::Relaxed);
    }

    /// Since when Redis and the database are both there and Redis's clock goes evenly, as far as is known. Whoever wants
    /// to know how long ago that was asks for [`Self::now`] first: the clock may be set between the two.
    pub fn up_since(&self) -> Millis {
        let clock_set_at = self.redis.borrow().clock_set_at;
        self.back_at.load(Ordering::Relaxed).max(clock_set_at.unwrap_or(Millis::MIN))
    }

    /// Waits until something may be taken: the database commits and there is room. `false`: the worker is to stop.
    pub async fn may_take(&self) -> bool {
        let mut database = self.database.subscribe();
        let room = async {
            let _ = database.wait_for(|up| *up).await;
            self.inflight.wait_for_room().await;
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
        if !self.redis.borrow().up {
            return Err("Redis does not answer".to_owned());
        }
        if self.strict && !self.redis.borrow().strict_ok() {
            return Err("Redis is not as durable as DURABILITY=strict asks for".to_owned());
        }
        if !self.database_up() {
            return Err("the session database does not commit".to_owned());
        }
        Ok(())
    }
}
