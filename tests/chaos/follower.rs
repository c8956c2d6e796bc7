//! Follows the commits, to measure the time from acceptance to effect.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tests::database::Database;
use tests::ledger::triggers;
use tokio::task::JoinHandle;

/// Interval of the queries; a commit is seen at most this late.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for a skipped number, since a transaction that began earlier may commit later.
const GAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Most skipped numbers that are waited for.
const MAX_GAPS: usize = 2_000;

type SeenEvents = HashMap<(String, String), Instant>;

/// Polls the database until it is dropped.
#[derive(Debug)]
pub(crate) struct CommitFollower {
    seen: Arc<Mutex<SeenEvents>>,
    polling: JoinHandle<()>,
}

impl CommitFollower {
    /// Starts to poll.
    pub(crate) fn start(database: Database) -> Self {
        let seen: Arc<Mutex<SeenEvents>> = Arc::default();
        let polling = tokio::spawn(follow(database, Arc::clone(&seen)));
        Self { seen, polling }
    }

    /// Returns the time at which the effect of an event was seen.
    pub(crate) fn seen(&self, platform: &str, id: &str) -> Option<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(platform.to_owned(), id.to_owned())).copied()
    }
}

impl Drop for CommitFollower {
    fn drop(&mut self) {
        self.polling.abort();
    }
}

async fn follow(database: Database, seen: Arc<Mutex<SeenEvents>>) {
    let (mut last, mut gaps) = (0, BTreeMap::<i64, Instant>::new());
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let open: Vec<i64> = gaps.keys().copied().collect();
        // While the database is unavailable, the query is repeated.
        let query =
            tokio::time::timeout(Duration::from_secs(5), triggers::applied(&database, last, &open))
                .await;
        let Ok(Ok(rows)) = query else { continue };
        let now = Instant::now();
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        for (number, platform, id) in rows {
            gaps.remove(&number);
            seen.entry((platform, id)).or_insert(now);
            if number > last {
                gaps.extend((last + 1..number).map(|skipped| (skipped, now)));
                last = number;
            }
        }
        gaps.retain(|_, since| since.elapsed() < GAP_TIMEOUT);
        while gaps.len() > MAX_GAPS {
            gaps.pop_first();
        }
    }
}
