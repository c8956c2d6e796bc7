//! Limits the log lines of refusals during an outage.
//!
//! # Guarantees
//!
//! - The first refusal of an `errcode` and platform is logged in full. The following ones are
//!   counted, and a line every ten seconds has their number.
//!   (`refusals_of_an_outage_are_summed_up`)

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// `errcode` and platform.
type RefusalKind = (&'static str, String);

/// Number of refusals that were not logged in full, for each kind that was logged recently.
pub(crate) struct LogSummary(LazyLock<Mutex<HashMap<RefusalKind, u64>>>);

impl LogSummary {
    pub(crate) const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// Returns true if no refusal of this kind was logged recently. Otherwise counts it.
    pub(crate) fn is_first(&'static self, errcode: &'static str, platform: &str) -> bool {
        let kind = (errcode, platform.to_owned());
        if let Some(count) = self.counts().get_mut(&kind) {
            *count += 1;
            return false;
        }
        // Without a runtime, no task would log the sum.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.counts().insert(kind.clone(), 0);
            runtime.spawn(self.sum_up(kind));
        }
        true
    }

    /// Logs the number of refusals of `kind` until none come any more.
    async fn sum_up(&self, kind: RefusalKind) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let Some(count) = self.take(&kind) else { return };
            let (errcode, platform) = (kind.0, kind.1.as_str());
            tracing::error!(errcode, platform, count, "webhooks refused");
        }
    }

    /// Returns the number since the last call. `None`: none came, and the next one counts as the
    /// first.
    fn take(&self, kind: &RefusalKind) -> Option<u64> {
        let mut counts = self.counts();
        let count = counts.get_mut(kind).map(std::mem::take).filter(|count| *count > 0);
        if count.is_none() {
            counts.remove(kind);
        }
        count
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<RefusalKind, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_of_an_outage_are_summed_up() {
        static SUMMARY: LogSummary = LogSummary::new();
        let mut first = (0..120).map(|_| SUMMARY.is_first("E_X", "mux"));
        assert_eq!(first.by_ref().filter(|first| *first).count(), 1);
        assert!(SUMMARY.is_first("E_Y", "mux") && SUMMARY.is_first("E_X", "acme"));
        let kind = ("E_X", "mux".to_owned());
        assert_eq!(SUMMARY.take(&kind), Some(119));
        assert!(!SUMMARY.is_first("E_X", "mux"), "the outage goes on");
        assert_eq!(SUMMARY.take(&kind), Some(1));
        assert_eq!(SUMMARY.take(&kind), None);
        assert!(SUMMARY.is_first("E_X", "mux"));
    }
}
