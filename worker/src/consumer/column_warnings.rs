//! Logs the columns that events did not set as sent.
//!
//! # Guarantees
//! - A platform has at most one line in [`MIN_LOG_INTERVAL`]. The next line counts those that were
//!   left out (`log_lines_within_the_interval_are_counted_in_the_next`).
//! - A line holds names of columns and reasons, never a value
//!   (`outputs_hold_no_secret_signature_or_body`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::context::PlatformQueue;
use crate::effects::{Applied, ColumnWarning, PlannedEvent};

use super::outcome::ExecutionVerdict;

/// Shortest time between two lines of a platform.
const MIN_LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Admits one log line in [`MIN_LOG_INTERVAL`] and counts the others.
#[derive(Debug, Default)]
pub struct ThrottledLog(Mutex<LogThrottle>);

#[derive(Debug, Default)]
struct LogThrottle {
    last: Option<Instant>,
    left_out: u64,
}

impl ThrottledLog {
    /// Returns the number of lines left out since the last one, or `None` if this line is left out.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.is_some_and(|last| now.saturating_duration_since(last) < MIN_LOG_INTERVAL) {
            lines.left_out = lines.left_out.saturating_add(1);
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.left_out))
    }
}

/// Logs the columns that `event` did not set as sent, if it has taken effect.
pub(super) fn log(
    platform_queue: &PlatformQueue,
    event: &PlannedEvent,
    trace_id: Option<&str>,
    verdict: &ExecutionVerdict,
) {
    if event.warnings.is_empty() || !matches!(verdict, ExecutionVerdict::Applied(Applied::Done(_)))
    {
        return;
    }
    let Some(left_out) = platform_queue.column_warnings.admit(Instant::now()) else { return };
    let columns =
        event.warnings.iter().map(ColumnWarning::to_string).collect::<Vec<_>>().join(", ");
    tracing::warn!(platform = %platform_queue.name(), event_id = %event.event_id,
        event_type = %event.event_type, trace_id,
        columns, left_out, "event took effect without columns that cannot be stored as sent");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_lines_within_the_interval_are_counted_in_the_next() {
        let (log, start) = (ThrottledLog::default(), Instant::now());
        assert_eq!(log.admit(start), Some(0));
        assert_eq!(log.admit(start), None);
        assert_eq!(log.admit(start + MIN_LOG_INTERVAL / 2), None);
        assert_eq!(log.admit(start + MIN_LOG_INTERVAL), Some(2));
        assert_eq!(log.admit(start + 2 * MIN_LOG_INTERVAL), Some(0));
    }
}
