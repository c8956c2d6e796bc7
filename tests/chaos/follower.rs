//! Sees every commit as it happens, so that it is known how long an accepted event took to take effect.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tests::database::Database;
use tests::ledger::triggers;
use tokio::task::JoinHandle;

/// How often it looks: what a commit may seem to be late.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a number that was skipped is waited for: a transaction that began earlier may commit later.
const GAP_TIMEOUT: Duration = Duration::from_secs(30);
/// Skipped numbers that are waited for at most.
const MAX_GAPS: usize = 2_000;

type SeenEvents = HashMap<(String, String), Instant>;

/// Looks until dropped.
#[derive(Debug)]
pub(crate) struct CommitFollower {
    seen: Arc<Mutex<SeenEvents>>,
    looking: JoinHandle<()>,
}

impl CommitFollower {
    /// Begins to look.
    pub(crate) fn start(database: Database) -> Self {
        let seen: Arc<Mutex<SeenEvents>> = Arc::default();
        let looking = tokio::spawn(follow(database, Arc::clone(&seen)));
        Self { seen, looking }
    }

    /// When the effect of an event was seen.
    pub(crate) fn seen(&self, platform: &str, id: &str) -> Option<Instant> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(platform.to_owned(), id.to_owned())).copied()
    }
}

impl Drop for CommitFollower {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn follow(database: Database, seen: Arc<Mutex<SeenEvents>>) {
    let (mut last, mut gaps) = (0, BTreeMap::<i64, Instant>::new());
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let open: Vec<i64> = gaps.keys().copied().collect();
        // A database that is away is looked at again.
        let look =
            tokio::time::timeout(Duration::from_secs(5), triggers::applied(&database, last, &open))
                .await;
        let Ok(Ok(rows)) = look else { continue };
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
