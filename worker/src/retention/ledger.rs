//! Deletes ledger rows that are older than `EVENTS_RETENTION_DAYS`.
//!
//! # Guarantees
//! - A row stays while anything could bring its event back. That is the dedup time, a dead letter
//!   or unfinished event of its platform that is as old, or its own event in Redis
//!   (`ledger_rows_expire_unless_something_needs_them`).
//!
//! # Design
//! Rows are deleted in small transactions, so that no worker waits long. A row that is written
//! meanwhile is too new to be deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::event::Millis;
use shared::metrics::LedgerMetrics;
use shared::platform::PlatformName;
use shared::queue::{CallError, DeadLetter};
use tokio::time::Instant;

use super::{LEDGER_PAUSE_FACTOR, LEDGER_SCAN_INTERVAL, LeaderLease, sleep_unless_stopped};
use crate::consumer::error_chain;
use crate::context::WorkerContext;
use crate::store::{LedgerKey, StoreError};

/// Rows read in one step and deleted in one transaction.
const STEP_ROWS: usize = 500;
/// Pause between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(20);
/// Time after which the lease expires unless it is renewed.
const LEASE_TTL: Duration = Duration::from_secs(120);
/// Delay of the first scan, so that a new worker consumes events first.
const START_DELAY: Duration = Duration::from_secs(2);

/// Reason why a scan ended early. The next one starts from the beginning.
#[derive(Debug, thiserror::Error)]
enum LedgerScanError {
    #[error("Redis did not answer")]
    Queue(#[from] CallError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Scans the ledger in intervals until the worker is stopped.
pub(super) async fn run(worker: &WorkerContext, age: Duration) {
    let metrics = LedgerMetrics::new();
    let mut next = START_DELAY;
    while sleep_unless_stopped(worker, next).await {
        let begun = Instant::now();
        if let Some(lease) = LeaderLease::take(worker, "retention-ledger", LEASE_TTL).await {
            let mut round =
                LedgerScan { worker, age, metrics: &metrics, cutoffs: BTreeMap::new(), deleted: 0 };
            let result = round.run(&lease).await;
            lease.end().await;
            if round.deleted > 0 {
                tracing::info!(rows = round.deleted, "rows of the ledger expired");
            }
            if let Err(held) = result {
                tracing::warn!(
                    error = error_chain(&held),
                    "ledger retention scan failed; retrying later"
                );
            }
        }
        next = LEDGER_SCAN_INTERVAL.max(begun.elapsed() * LEDGER_PAUSE_FACTOR);
    }
}

struct LedgerScan<'w> {
    worker: &'w WorkerContext,
    age: Duration,
    metrics: &'w LedgerMetrics,
    /// For each platform of the ledger, the time before which rows may be deleted.
    cutoffs: BTreeMap<String, Millis>,
    deleted: u64,
}

impl LedgerScan<'_> {
    /// Scans all rows in order of their key.
    async fn run(&mut self, lease: &LeaderLease<'_>) -> Result<(), LedgerScanError> {
        let before = self.worker.queue.now().await?.saturating_sub(millis(self.age));
        let mut after: Option<LedgerKey> = None;
        loop {
            let page = self.worker.store.ledger_page(after.as_ref(), before, STEP_ROWS).await?;
            let is_full_page = page.keys.len() == STEP_ROWS;
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
            if !is_full_page
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
        self.deleted += rows;
        Ok(())
    }

    /// Returns the time before which rows of `platform` may be deleted. It is the earliest of the
    /// retention, the dedup time, the oldest dead letter, and the oldest unfinished event.
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
            let dead_letter = DeadLetter::decode(platform, entry);
            let arrived_at = dead_letter.received_at.unwrap_or(Millis::MAX);
            arrived_at
                .min(dead_letter.dead_lettered_at())
                .min(Millis::try_from(dead_letter.id.ms).unwrap_or(Millis::MAX))
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
