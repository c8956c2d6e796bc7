//! Metric of requests that wait for a result.

use metrics::{Gauge, gauge};

use super::WAITERS;

/// Gauge of the requests of this replica that wait for the result of their event.
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

    /// Adds a waiting request.
    pub fn entered(&self) {
        self.waiting.increment(1);
    }

    /// Removes a waiting request.
    pub fn left(&self) {
        self.waiting.decrement(1);
    }
}

impl Default for WaiterMetrics {
    fn default() -> Self {
        Self::new()
    }
}
