//! Log lines about columns that events did not set as sent.
//!
//! # Guarantees
//! - A platform has at most one line in [`INTERVAL`]; the next one counts those that were left out.
//! - A line holds names of columns and reasons, never a value.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::effects::{Applied, Planned, Warning};
use crate::worker::Lane;

use super::outcome::Verdict;

/// Shortest time between two lines of a platform.
const INTERVAL: Duration = Duration::from_secs(5);

/// Lets one log line through in [`INTERVAL`] and counts the others.
#[derive(Debug, Default)]
pub struct SparseLog(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    last: Option<Instant>,
    left_out: u64,
}

impl SparseLog {
    /// Returns how many lines were left out since the last one, or `None` where this one is to be
    /// left out.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            lines.left_out = lines.left_out.saturating_add(1);
            return None;
        }
        lines.last = Some(now);
        Some(std::mem::take(&mut lines.left_out))
    }
}

/// Logs the columns that `event` did not set as sent, once it has taken effect.
pub(super) fn log(lane: &Lane, event: &Planned, trace_id: Option<&str>, verdict: &Verdict) {
    if event.warnings.is_empty() || !matches!(verdict, Verdict::Applied(Applied::Done(_))) {
        return;
    }
    let Some(left_out) = lane.warned.admit(Instant::now()) else { return };
    let columns = event.warnings.iter().map(Warning::to_string).collect::<Vec<_>>().join(", ");
    tracing::warn!(platform = %lane.name(), event_id = %event.event_id, event_type = %event.event_type, trace_id,
        columns, left_out, "event took effect without columns that cannot be stored as sent");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_within_the_interval_are_counted_in_the_next_one() {
        let (log, start) = (SparseLog::default(), Instant::now());
        assert_eq!(log.admit(start), Some(0));
        assert_eq!(log.admit(start), None);
        assert_eq!(log.admit(start + INTERVAL / 2), None);
        assert_eq!(log.admit(start + INTERVAL), Some(2));
        assert_eq!(log.admit(start + 2 * INTERVAL), Some(0));
    }
}
