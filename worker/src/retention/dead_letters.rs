//! Expires dead letters that are older than `DLQ_RETENTION_DAYS`.
//!
//! # Guarantees
//! - With an archive, a dead letter is on disk before it is removed. Its dedup marker is removed
//!   too, so that the provider may send the event again
//!   (`expired_dead_letters_are_archived_then_removed`).
//! - A dead letter that cannot be archived stays (`dead_letter_that_cannot_be_archived_stays`).
//! - Without an archive none is removed. Overdue ones are counted and logged
//!   (`expired_dead_letters_stay_and_are_reported_without_archive`).
//!
//! # Design
//! The age counts from the time at which a dead letter entered its stream. It starts again with an
//! import.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use shared::event::{Millis, StreamId, marker_digest};
use shared::metrics::RetentionMetrics;
use shared::platform::PlatformName;
use shared::queue::{CallError, DeadLetter, PlatformKeys, StreamEntry, record};

use super::archive::Archive;
use super::{DEAD_LETTERS_INTERVAL, LeaderLease, platforms, sleep_unless_stopped};
use crate::consumer::error_chain;
use crate::context::WorkerContext;

/// Entries per step, which bounds its memory at 32 bodies.
const STEP_ENTRIES: usize = 32;
/// Most steps per platform and round, so that one full platform does not delay the others.
const MAX_STEPS: usize = 200;
/// Interval between two counts of overdue dead letters, which read all of them.
const OVERDUE_INTERVAL: Duration = Duration::from_secs(600);
/// Time after which the lease expires unless it is renewed.
const LEASE_TTL: Duration = Duration::from_secs(180);

/// Reason why a step failed. Its dead letters stay in place.
#[derive(Debug, thiserror::Error)]
enum ExpiryError {
    #[error("Redis did not answer")]
    Queue(#[from] CallError),
    #[error("the archive cannot be written")]
    Archive(#[from] io::Error),
}

/// Expires dead letters in rounds until the worker is stopped.
pub(super) async fn run(worker: &WorkerContext, age: Duration, archive: Option<&Path>) {
    let mut expiry = DeadLetterExpiry {
        worker,
        age,
        archive: archive.map(|folder| Archive::new(folder, &worker.consumer)),
        metrics: BTreeMap::new(),
        reported: BTreeMap::new(),
    };
    if let Some(folder) = archive.filter(|folder| !folder.is_dir()) {
        let folder = folder.display();
        tracing::error!(%folder, "DLQ_ARCHIVE_DIR does not exist; expired dead letters are kept");
    }
    loop {
        let mut again = false;
        if let Some(lease) = LeaderLease::take(worker, "retention-dead-letters", LEASE_TTL).await {
            again = expiry.round(&lease).await;
            lease.end().await;
        }
        let rest = if expiry.archive.is_some() { DEAD_LETTERS_INTERVAL } else { OVERDUE_INTERVAL };
        if !again && !sleep_unless_stopped(worker, rest).await || worker.stop.is_cancelled() {
            return;
        }
    }
}

struct DeadLetterExpiry<'w> {
    worker: &'w WorkerContext,
    age: Duration,
    archive: Option<Archive>,
    metrics: BTreeMap<PlatformName, RetentionMetrics>,
    /// Number of overdue dead letters in the last log line.
    reported: BTreeMap<PlatformName, u64>,
}

impl DeadLetterExpiry<'_> {
    /// Expires dead letters of all platforms once. Returns true if more can be expired at once.
    async fn round(&mut self, lease: &LeaderLease<'_>) -> bool {
        let Ok(platforms) = platforms(self.worker).await else { return false };
        let mut more = false;
        for platform in platforms {
            if self.worker.stop.is_cancelled() || !lease.renew().await {
                return false;
            }
            let done = match &self.archive {
                Some(archive) => self.expire(&platform, archive).await,
                None => self.overdue(&platform).await.map(|()| (0, false)),
            };
            let metrics = self
                .metrics
                .entry(platform.clone())
                .or_insert_with(|| RetentionMetrics::new(&platform));
            metrics.failing(matches!(done, Err(ExpiryError::Archive(_))));
            match done {
                Ok((expired, unfinished)) => {
                    more |= unfinished;
                    if expired > 0 {
                        tracing::warn!(platform = %platform, dead_letters = expired,
                            "dead letters expired into the archive");
                    }
                }
                Err(error @ ExpiryError::Archive(_)) => {
                    tracing::error!(platform = %platform, error = error_chain(&error),
                        "expired dead letters are kept");
                }
                Err(error) => {
                    tracing::warn!(platform = %platform, error = error_chain(&error),
                        "cannot expire dead letters; retrying later")
                }
            }
        }
        more
    }

    /// Returns the first id that has not expired.
    async fn bound(&self) -> Result<StreamId, CallError> {
        let age = Millis::try_from(self.age.as_millis()).unwrap_or(Millis::MAX);
        let before = self.worker.queue.now().await?.saturating_sub(age);
        Ok(StreamId { ms: u64::try_from(before).unwrap_or(0), seq: 0 })
    }

    /// Archives and removes expired dead letters. Returns their number, and whether more are left.
    async fn expire(
        &self,
        platform: &PlatformName,
        archive: &Archive,
    ) -> Result<(u64, bool), ExpiryError> {
        let keys = self.worker.queue.keys(platform);
        let bound = self.bound().await?;
        let mut expired = 0;
        for _ in 0..MAX_STEPS {
            let mut entries = self.worker.queue.dead_letters(&keys, None, STEP_ENTRIES).await?;
            entries.retain(|entry| entry.id < bound);
            if entries.is_empty() || self.worker.stop.is_cancelled() {
                return Ok((expired, false));
            }
            let removed = self.step(&keys, archive, entries).await?;
            if let Some(metrics) = self.metrics.get(platform) {
                metrics.expired(removed);
            } else {
                RetentionMetrics::new(platform).expired(removed);
            }
            expired += removed;
        }
        Ok((expired, true))
    }

    async fn step(
        &self,
        keys: &PlatformKeys,
        archive: &Archive,
        entries: Vec<StreamEntry>,
    ) -> Result<u64, ExpiryError> {
        let (mut lines, mut letters) = (Vec::new(), Vec::with_capacity(entries.len()));
        for entry in entries {
            record::write(&keys.platform, entry.clone(), &mut lines).map_err(io::Error::other)?;
            let dead_letter = DeadLetter::decode(&keys.platform, entry);
            let digest =
                dead_letter.event_id.as_deref().map(|id| marker_digest(keys.platform.as_str(), id));
            letters.push((dead_letter.id, digest));
        }
        let path = archive.path(&keys.platform, self.worker.now());
        let archive = archive.clone();
        tokio::task::spawn_blocking(move || archive.append(&path, &lines))
            .await
            .map_err(io::Error::other)??;
        let removed = self.worker.queue.purge(keys, &letters).await?;
        Ok(removed.into_iter().filter(|removed| *removed).count() as u64)
    }

    /// Counts the dead letters that would expire if there were an archive.
    async fn overdue(&mut self, platform: &PlatformName) -> Result<(), ExpiryError> {
        let keys = self.worker.queue.keys(platform);
        let (bound, mut after, mut overdue) = (self.bound().await?, None, 0);
        loop {
            let seen = self.worker.queue.dead_letter_stats(&keys, after, Some(bound), 200).await?;
            overdue += seen.counted;
            after = seen.next;
            if after.is_none() || !sleep_unless_stopped(self.worker, Duration::from_millis(5)).await
            {
                break;
            }
        }
        let metrics =
            self.metrics.entry(platform.clone()).or_insert_with(|| RetentionMetrics::new(platform));
        metrics.overdue(overdue);
        if overdue > 0 && self.reported.insert(platform.clone(), overdue) != Some(overdue) {
            tracing::warn!(platform = %platform, dead_letters = overdue,
                "dead letters are older than DLQ_RETENTION_DAYS and stay, since DLQ_ARCHIVE_DIR \
                is not set");
        }
        Ok(())
    }
}
