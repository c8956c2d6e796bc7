//! Metrics of the systems that a process depends on.

use metrics::{Gauge, gauge};

use super::{
    CLOCK_SKEW, DATA_LOST, DATABASE_UP, REDIS_DURABLE, REDIS_UP, SQLITE_WAL_BYTES,
    UNHANDLED_PLATFORMS, UNUSABLE_REGISTRATIONS, bool_value, gauge_value,
};

/// Metrics of a process's Redis.
#[derive(Clone)]
pub struct DependencyMetrics {
    redis_up: Gauge,
    redis_durable: Gauge,
    clock_skew: Gauge,
    data_lost: Gauge,
}

impl DependencyMetrics {
    /// Registers all series at 0.
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

    /// Sets whether Redis answers and accepts this process's writes.
    pub fn redis_up(&self, up: bool) {
        self.redis_up.set(bool_value(up));
    }

    /// Sets whether Redis is known to keep confirmed writes.
    pub fn redis_durable(&self, durable: bool) {
        self.redis_durable.set(bool_value(durable));
    }

    /// Sets Redis's clock minus this host's, in ms. The gauge is limited to 24 days.
    pub fn clock_skew_ms(&self, skew: i64) {
        let bound = i64::from(i32::MAX);
        let skew = i32::try_from(skew.clamp(-bound, bound)).unwrap_or_default();
        self.clock_skew.set(f64::from(skew) / 1e3);
    }

    /// Records that Redis was emptied.
    pub fn data_lost(&self) {
        self.data_lost.set(1);
    }
}

impl Default for DependencyMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Metrics of a worker's database, and of platforms without a definition.
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

    /// Sets whether the database commits.
    pub fn database_up(&self, up: bool) {
        self.database_up.set(bool_value(up));
    }

    /// Sets the number of platforms with unfinished events but without a definition.
    pub fn unhandled_platforms(&self, platforms: u64) {
        self.unhandled_platforms.set(gauge_value(platforms));
    }

    /// Sets the size of SQLite's write-ahead log in bytes. It may exceed 2^32.
    pub fn sqlite_wal_bytes(&self, bytes: u64) {
        let (high, low) = (gauge_value(bytes >> 32), gauge_value(bytes & u64::from(u32::MAX)));
        self.sqlite_wal_bytes.set(high.mul_add(4_294_967_296.0, low));
    }
}

impl Default for DatabaseMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Metrics of registered platforms.
#[derive(Clone)]
pub struct RegistrationMetrics {
    unusable: Gauge,
}

impl RegistrationMetrics {
    /// Registers the series at 0.
    #[must_use]
    pub fn new() -> Self {
        let unusable = gauge!(UNUSABLE_REGISTRATIONS);
        unusable.set(0);
        Self { unusable }
    }

    /// Sets the number of registrations that this process cannot use in full.
    pub fn unusable(&self, registrations: usize) {
        self.unusable.set(gauge_value(registrations as u64));
    }
}

impl Default for RegistrationMetrics {
    fn default() -> Self {
        Self::new()
    }
}
