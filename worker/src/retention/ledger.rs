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
use shared::queue::{DeadLetter, Fault};
use tokio::time::Instant;

use super::{LEDGER_EVERY, LEDGER_SHARE, Turn, pause};
use crate::consumer::chain;
use crate::store::{LedgerKey, StoreError};
use crate::worker::Worker;

/// Rows looked at in one step, and deleted in one transaction.
const STEP: usize = 500;
/// Between two steps.
const REST: Duration = Duration::from_millis(20);
/// How long the turn is held without a sign of life.
const TURN: Duration = Duration::from_secs(120);
/// Before the first round: a worker that has just been started has something better to do.
const FIRST: Duration = Duration::from_secs(2);

/// Why a round did not come to its end; the next one begins anew.
#[derive(Debug, thiserror::Error)]
enum Held {
    #[error("Redis did not answer")]
    Queue(#[from] Fault),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Goes through the ledger again and again until the worker is to stop.
pub(super) async fn run(worker: &Worker, age: Duration) {
    let metrics = LedgerMetrics::new();
    let mut next = FIRST;
    while pause(worker, next).await {
        let begun = Instant::now();
        if let Some(turn) = Turn::take(worker, "retention-ledger", TURN).await {
            let mut round = Round { worker, age, metrics: &metrics, cutoffs: BTreeMap::new(), forgotten: 0 };
            let result = round.run(&turn).await;
            turn.end().await;
            if round.forgotten > 0 {
                tracing::info!(rows = round.forgotten, "rows of the ledger expired");
            }
            if let Err(held) = result {
                tracing::warn!(error = chain(&held), "the ledger is gone through later");
            }
        }
        next = LEDGER_EVERY.max(begun.elapsed() * LEDGER_SHARE);
    }
}

struct Round<'w> {
    worker: &'w Worker,
    age: Duration,
    metrics: &'w LedgerMetrics,
    /// Per platform of the ledger: rows before this may go.
    cutoffs: BTreeMap<String, Millis>,
    forgotten: u64,
}

impl Round<'_> {
    /// From the first row to the last, by key.
    async fn run(&mut self, turn: &Turn<'_>) -> Result<(), Held> {
        let before = self.worker.queue.now().await?.saturating_sub(millis(self.age));
        let mut after: Option<LedgerKey> = None;
        loop {
            let page = self.worker.store.ledger_page(after.as_ref(), before, STEP).await?;
            let whole = page.keys.len() == STEP;
            after = page.keys.last().cloned();
            let mut old: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (key, is_old) in page.keys.into_iter().zip(page.old) {
                if is_old {
                    old.entry(key.platform).or_default().push(key.event_id);
                }
            }
            for (platform, event_ids) in old {
                self.forget(&platform, event_ids, before).await?;
            }
            if !whole || !pause(self.worker, REST).await || !turn.renew().await {
                return Ok(());
            }
        }
    }

    async fn forget(&mut self, platform: &str, event_ids: Vec<String>, before: Millis) -> Result<(), Held> {
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
        let free: Vec<String> =
            event_ids.into_iter().zip(unfinished).filter(|(_, held)| !held).map(|(id, _)| id).collect();
        if free.is_empty() {
            return Ok(());
        }
        let rows = self.worker.store.forget(platform, &free, cutoff).await?;
        self.metrics.expired(rows);
        self.forgotten += rows;
        Ok(())
    }

    /// Rows of `platform` before this may go: not younger than retention, than what duplicates are remembered for, than
    /// the oldest dead letter, than the oldest unfinished event.
    async fn cutoff(&self, platform: &PlatformName, before: Millis) -> Result<Millis, Held> {
        let keys = self.worker.queue.keys(platform);
        let depth = self.worker.queue.depth(&keys).await?;
        let lanes = self.worker.lanes.all();
        let own = lanes.iter().find(|lane| lane.name() == platform).and_then(|lane| lane.platform.dedup_ttl);
        let ttl = own.unwrap_or(self.worker.retention.dedup_ttl);
        let oldest = self.worker.queue.dead_letters(&keys, None, 1).await?.into_iter().next();
        let oldest = oldest.map(|entry| {
            let letter = DeadLetter::decode(platform, entry);
            let came = letter.received_at.unwrap_or(Millis::MAX);
            came.min(letter.died_at()).min(Millis::try_from(letter.id.ms).unwrap_or(Millis::MAX))
        });
        let bounds = [Some(before), Some(depth.now.saturating_sub(millis(ttl))), oldest, depth.head_received_at];
        Ok(bounds.into_iter().flatten().min().unwrap_or(before))
    }
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}
