//! The series of what a process depends on.

use metrics::{Gauge, gauge};

use super::{
    CLOCK_SKEW, DATA_LOST, DATABASE_UP, REDIS_DURABLE, REDIS_UP, SQLITE_WAL_BYTES,
    UNHANDLED_PLATFORMS, UNUSABLE_REGISTRATIONS, count, switch,
};

/// What a process knows of the systems it depends on.
#[derive(Clone)]
pub struct DependencyMetrics {
    redis_up: Gauge,
    redis_durable: Gauge,
    clock_skew: Gauge,
    data_lost: Gauge,
}

impl DependencyMetrics {
    /// Registers the series of Redis, all at 0.
    #[must_use]
    pub fn new() -> Self {
        let at_zero = |name: &'static str| {
            let gauge = gauge!(name);
            gauge.set(0);
            gauge
        };
        Self {
            redis_up: at_zero(REDIS_UP),
            redis_durable: at_zero(REDIS_DURABLE),
            clock_skew: at_zero(CLOCK_SKEW),
            data_lost: at_zero(DATA_LOST),
        }
    }

    /// Redis answers and takes the writes of this process.
    pub fn redis_up(&self, up: bool) {
        self.redis_up.set(switch(up));
    }

    /// Whether Redis is known to keep what it confirmed.
    pub fn redis_durable(&self, durable: bool) {
        self.redis_durable.set(switch(durable));
    }

    /// Redis's clock minus this host's, in ms; beyond 24 days it shows 24 days.
    pub fn clock_skew_ms(&self, skew: i64) {
        let bound = i64::from(i32::MAX);
        let skew = i32::try_from(skew.clamp(-bound, bound)).unwrap_or_default();
        self.clock_skew.set(f64::from(skew) / 1e3);
    }

    /// Redis was found emptied.
    pub fn data_lost(&self) {
        self.data_lost.set(1);
    }
}

impl Default for DependencyMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What a worker knows of its database and of platforms that it cannot serve.
#[derive(Clone)]
pub struct DatabaseMetrics {
    database_up: Gauge,
    unhandled_platforms: Gauge,
    sqlite_wal_bytes: Gauge,
}

impl DatabaseMetrics {
    /// Registers all series at 0.
    #[must_use]
    pub fn new() -> Self {
        let (database_up, unhandled_platforms) = (gauge!(DATABASE_UP), gauge!(UNHANDLED_PLATFORMS));
        let sqlite_wal_bytes = gauge!(SQLITE_WAL_BYTES);
        for gauge in [&database_up, &unhandled_platforms, &sqlite_wal_bytes] {
            gauge.set(0);
        }
        Self { database_up, unhandled_platforms, sqlite_wal_bytes }
    }

    /// Whether the database commits.
    pub fn database_up(&self, up: bool) {
        self.database_up.set(switch(up));
    }

    /// How many platforms have unfinished events and no definition here.
    pub fn unhandled_platforms(&self, platforms: u64) {
        self.unhandled_platforms.set(count(platforms));
    }

    /// Bytes of SQLite's write-ahead log, which may well be more than 2^32.
    pub fn sqlite_wal_bytes(&self, bytes: u64) {
        let (high, low) = (count(bytes >> 32), count(bytes & u64::from(u32::MAX)));
        self.sqlite_wal_bytes.set(high.mul_add(4_294_967_296.0, low));
    }
}

impl Default for DatabaseMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What a process knows of the platforms that are registered while it runs.
#[derive(Clone)]
pub struct RegistrationMetrics {
    unusable: Gauge,
}

impl RegistrationMetrics {
    /// Registers the series.
    #[must_use]
    pub fn new() -> Self {
        let unusable = gauge!(UNUSABLE_REGISTRATIONS);
        unusable.set(0);
        Self { unusable }
    }

    /// How many registrations cannot be used here, or not all of their secrets.
    pub fn unusable(&self, registrations: usize) {
        self.unusable.set(count(registrations as u64));
    }
}

impl Default for RegistrationMetrics {
    fn default() -> Self {
        Self::new()
    }
}
