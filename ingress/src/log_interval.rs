//! Limits how often a line is logged.

use std::sync::atomic::{AtomicI64, Ordering};

use shared::clock;
use shared::event::Millis;

/// Shortest time between two lines.
const INTERVAL: Millis = 60_000;

/// Time of the last line.
#[derive(Debug, Default)]
pub(crate) struct LogInterval(AtomicI64);

impl LogInterval {
    /// Returns true at most once a minute, for all threads together.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due_at(clock::now_ms())
    }

    fn is_due_at(&self, now: Millis) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        // The line is also due after the clock was set back.
        let is_due = now >= last.saturating_add(INTERVAL) || now < last;
        is_due && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_logged_once_a_minute() {
        let line = LogInterval::default();
        let start = 1_767_225_600_000;
        let due = [0, 1, 59_999, 60_000, 60_001, 10, 11].map(|after| line.is_due_at(start + after));
        assert_eq!(due, [true, false, false, true, false, true, false]);
    }
}
