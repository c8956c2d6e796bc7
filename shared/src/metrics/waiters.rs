//! The series of requests that wait.

use metrics::{Gauge, gauge};

use super::WAITERS;

/// How many requests of this replica wait for what becomes of their event.
#[derive(Clone)]
pub struct WaiterMetrics {
    waiting: Gauge,
}

impl WaiterMetrics {
    /// Registers the series at 0.
    #[must_use]
    pub fn new() -> Self {
        let waiting = gauge!(WAITERS);
        waiting.set(0);
        Self { waiting }
    }

    /// One more.
    pub fn entered(&self) {
        self.waiting.increment(1);
    }

    /// One less.
    pub fn left(&self) {
        self.waiting.decrement(1);
    }
}

impl Default for WaiterMetrics {
    fn default() -> Self {
        Self::new()
    }
}
