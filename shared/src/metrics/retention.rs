//! The series of what expires.

use metrics::{Counter, Gauge, counter, gauge};

use super::{
    DEAD_LETTERS_EXPIRED, DEAD_LETTERS_OVERDUE, LEDGER_EXPIRED, RETENTION_FAILING, count, switch,
};
use crate::platform::PlatformName;

/// What a worker knows of a platform's expired dead letters. Registered where a retention is set.
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

    /// Dead letters that were archived and removed.
    pub fn expired(&self, dead_letters: u64) {
        self.expired.increment(dead_letters);
    }

    /// Dead letters that would expire, if there were an archive.
    pub fn overdue(&self, dead_letters: u64) {
        self.overdue.set(count(dead_letters));
    }

    /// Whether the archive cannot be written, so that everything stays.
    pub fn failing(&self, failing: bool) {
        self.failing.set(switch(failing));
    }
}

/// What a worker knows of expired rows of the ledger. Registered where a retention is set.
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

    /// Rows that were deleted.
    pub fn expired(&self, rows: u64) {
        self.expired.increment(rows);
    }
}

impl Default for LedgerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
