//! Rows of the ledger that are older than `EVENTS_RETENTION_DAYS`.
//!
//! Guarantee: a row stays while something could bring its event back: as long as the duplicate marker may be missing
//! nothing, as long as any dead letter or unfinished event of its platform is as old as the row, and as long as an event of
//! that very id is dead, waiting or on its way. Rows go a few at a time, each few in a transaction of their own, so nobody
//! waits for it; a row that a worker writes meanwhile is not old.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::event::Millis;
use shared::metrics::LedgerMetrics;
use shared::platform::PlatformName;
use shared::queue::{CallError, DeadLetter};
use tokio::time::Instant;

use super::{LEDGER_PAUSE_FACTOR, LEDGER_SCAN_INTERVAL, LeaderLease, sleep_unless_stopped};
use crate::consumer::chain;
use crate::context::WorkerContext;
use crate::store::{LedgerKey, StoreError};

/// Rows looked at in one step, and deleted in one transaction.
const STEP_ROWS: usize = 500;
/// Between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// How long the turn is held without a sign of life.
const LEASE_TTL: Duration = Duration::from_secs(120);
/// Before the first round: a worker that has just been started has something better to do.
const START_DELAY: Duration = Duration::from_secs(2);

/// Why a round did not come to its end; the next one begins anew.
#[derive(Debug, thiserror::Error)]
enum LedgerScanError {
    #[error("Redis did not answer")]
    Queue(#[from] CallError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Goes through the ledger again and again until the worker is to stop.
pub(super) async fn run(worker: &WorkerContext, age: Duration) {
    let metrics = LedgerMetrics::new();
    let mut next = START_DELAY;
    while sleep_unless_stopped(worker, next).await {
        let begun = Instant::now();
        if let Some(lease) = LeaderLease::take(worker, "retention-ledger", LEASE_TTL).await {
            let mut round = LedgerScan {
                worker,
                age,
                metrics: &metrics,
                cutoffs: BTreeMap::new(),
                forgotten: 0,
            };
            let result = round.run(&lease).await;
            lease.end().await;
            if round.forgotten > 0 {
                tracing::info!(rows = round.forgotten, "rows of the ledger expired");
            }
            if let Err(held) = result {
                tracing::warn!(error = chain(&held), "the ledger is gone through later");
            }
        }
        next = LEDGER_SCAN_INTERVAL.max(begun.elapsed() * LEDGER_PAUSE_FACTOR);
    }
}

struct LedgerScan<'w> {
    worker: &'w WorkerContext,
    age: Duration,
    metrics: &'w LedgerMetrics,
    /// Per platform of the ledger: rows before this may go.
    cutoffs: BTreeMap<String, Millis>,
    forgotten: u64,
}

impl LedgerScan<'_> {
    /// From the first row to the last, by key.
    async fn run(&mut self, lease: &LeaderLease<'_>) -> Result<(), LedgerScanError> {
        let before = self.worker.queue.now().await?.saturating_sub(millis(self.age));
        let mut after: Option<LedgerKey> = None;
        loop {
            let page = self.worker.store.ledger_page(after.as_ref(), before, STEP_ROWS).await?;
            let whole = page.keys.len() == STEP_ROWS;
            after = page.keys.last().cloned();
            let mut old: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (key, is_old) in page.keys.into_iter().zip(page.old) {
                if is_old {
                    old.entry(key.platform).or_default().push(key.event_id);
                }
            }
            for (platform, event_ids) in old {
                self.delete_from_ledger(&platform, event_ids, before).await?;
            }
            if !whole
                || !sleep_unless_stopped(self.worker, STEP_PAUSE).await
                || !lease.renew().await
            {
                return Ok(());
            }
        }
    }

    async fn delete_from_ledger(
        &mut self,
        platform: &str,
        event_ids: Vec<String>,
        before: Millis,
    ) -> Result<(), LedgerScanError> {
        let Ok(name) = PlatformName::new(platform) else { return Ok(()) };
        let cutoff = match self.cutoffs.get(platform) {
            Some(cutoff) => *cutoff,
            None => {
                let cutoff = self.cutoff(&name, before).await?;
                self.cutoffs.insert(platform.to_owned(), cutoff);
                cutoff
            }
        };
        let keys = self.worker.queue.keys(&name);
        let unfinished = self.worker.queue.exceptions(&keys, &event_ids).await?;
        let free: Vec<String> = event_ids
            .into_iter()
            .zip(unfinished)
            .filter(|(_, held)| !held)
            .map(|(id, _)| id)
            .collect();
        if free.is_empty() {
            return Ok(());
        }
        let rows = self.worker.store.delete_from_ledger(platform, &free, cutoff).await?;
        self.metrics.expired(rows);
        self.forgotten += rows;
        Ok(())
    }

    /// Rows of `platform` before this may go: not younger than retention, than what duplicates are remembered for, than
    /// the oldest dead letter, than the oldest unfinished event.
    async fn cutoff(
        &self,
        platform: &PlatformName,
        before: Millis,
    ) -> Result<Millis, LedgerScanError> {
        let keys = self.worker.queue.keys(platform);
        let depth = self.worker.queue.depth(&keys).await?;
        let platforms = self.worker.platforms.all();
        let own = platforms
            .iter()
            .find(|platform_queue| platform_queue.name() == platform)
            .and_then(|platform_queue| platform_queue.platform.dedup_ttl);
        let ttl = own.unwrap_or(self.worker.retention.dedup_ttl);
        let oldest = self.worker.queue.dead_letters(&keys, None, 1).await?.into_iter().next();
        let oldest = oldest.map(|entry| {
            let letter = DeadLetter::decode(platform, entry);
            let came = letter.received_at.unwrap_or(Millis::MAX);
            came.min(letter.dead_lettered_at())
                .min(Millis::try_from(letter.id.ms).unwrap_or(Millis::MAX))
        });
        let bounds = [
            Some(before),
            Some(depth.now.saturating_sub(millis(ttl))),
            oldest,
            depth.head_received_at,
        ];
        Ok(bounds.into_iter().flatten().min().unwrap_or(before))
    }
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}
