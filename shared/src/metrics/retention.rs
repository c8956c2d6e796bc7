//! Metrics of retention.

use metrics::{Counter, Gauge, counter, gauge};

use super::{
    DEAD_LETTERS_EXPIRED, DEAD_LETTERS_OVERDUE, LEDGER_EXPIRED, RETENTION_FAILING, bool_value,
    gauge_value,
};
use crate::platform::PlatformName;

/// Metrics of a platform's expired dead letters. Registered only if a retention is configured.
#[derive(Clone)]
pub struct RetentionMetrics {
    expired: Counter,
    overdue: Gauge,
    failing: Gauge,
}

impl RetentionMetrics {
    /// Registers all series of `platform`.
    #[must_use]
    pub fn new(platform: &PlatformName) -> Self {
        let platform = platform.as_str().to_owned();
        Self {
            expired: counter!(DEAD_LETTERS_EXPIRED, "platform" => platform.clone()),
            overdue: gauge!(DEAD_LETTERS_OVERDUE, "platform" => platform.clone()),
            failing: gauge!(RETENTION_FAILING, "platform" => platform),
        }
    }

    /// Counts dead letters that were archived and removed.
    pub fn expired(&self, dead_letters: u64) {
        self.expired.increment(dead_letters);
    }

    /// Sets the number of dead letters that stay because no archive is configured.
    pub fn overdue(&self, dead_letters: u64) {
        self.overdue.set(gauge_value(dead_letters));
    }

    /// Sets whether the archive cannot be written, so that no dead letter expires.
    pub fn failing(&self, failing: bool) {
        self.failing.set(bool_value(failing));
    }
}

/// Metrics of expired ledger rows. Registered only if a retention is configured.
#[derive(Clone)]
pub struct LedgerMetrics {
    expired: Counter,
}

impl LedgerMetrics {
    /// Registers the series.
    #[must_use]
    pub fn new() -> Self {
        Self { expired: counter!(LEDGER_EXPIRED) }
    }

    /// Counts deleted rows.
    pub fn expired(&self, rows: u64) {
        self.expired.increment(rows);
    }
}

impl Default for LedgerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
