//! Dead letters that are older than `DLQ_RETENTION_DAYS`.
//!
//! Guarantee: with an archive each of them is on disk before it is removed, with its duplicate marker, so that a provider
//! who sends it again is heard. Without one none is removed: how many are overdue is shown, and said.
//!
//! Age counts from when a dead letter came into its stream; an imported one begins anew.

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
use crate::consumer::chain;
use crate::context::WorkerContext;

/// Entries per step; with bodies of a megabyte that is what a step weighs.
const STEP_ENTRIES: usize = 32;
/// Steps per platform and round, so that one full platform does not keep the others waiting.
const MAX_STEPS: usize = 200;
/// How often those that stay are counted, which looks at all of them.
const OVERDUE_INTERVAL: Duration = Duration::from_secs(600);
/// How long the turn is held without a sign of life.
const LEASE_TTL: Duration = Duration::from_secs(180);

/// Why a step was not made; everything stays where it is.
#[derive(Debug, thiserror::Error)]
enum ExpiryError {
    #[error("Redis did not answer")]
    Queue(#[from] CallError),
    #[error("the archive cannot be written")]
    Archive(#[from] io::Error),
}

/// Looks for expired ones, now and then every minute, until the worker is to stop.
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
    /// How many were overdue when that was last said.
    reported: BTreeMap<PlatformName, u64>,
}

impl DeadLetterExpiry<'_> {
    /// Goes through all platforms; whether there is more to do at once.
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
                            "dead letters expired; they are in the archive");
                    }
                }
                Err(held @ ExpiryError::Archive(_)) => {
                    tracing::error!(platform = %platform, error = chain(&held), "expired dead letters are kept");
                }
                Err(held) => {
                    tracing::warn!(platform = %platform, error = chain(&held), "retention goes on later")
                }
            }
        }
        more
    }

    /// The last id that has expired.
    async fn bound(&self) -> Result<StreamId, CallError> {
        let age = Millis::try_from(self.age.as_millis()).unwrap_or(Millis::MAX);
        let before = self.worker.queue.now().await?.saturating_sub(age);
        Ok(StreamId { ms: u64::try_from(before).unwrap_or(0), seq: 0 })
    }

    /// Archives and removes; how many, and whether there are more.
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
            let letter = DeadLetter::decode(&keys.platform, entry);
            let digest =
                letter.event_id.as_deref().map(|id| marker_digest(keys.platform.as_str(), id));
            letters.push((letter.id, digest));
        }
        let path = archive.path(&keys.platform, self.worker.now());
        let archive = archive.clone();
        tokio::task::spawn_blocking(move || archive.append(&path, &lines))
            .await
            .map_err(io::Error::other)??;
        let removed = self.worker.queue.purge(keys, &letters).await?;
        Ok(removed.into_iter().filter(|removed| *removed).count() as u64)
    }

    /// Counts those that would expire if there were an archive.
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
                "dead letters are older than DLQ_RETENTION_DAYS and stay, since there is no DLQ_ARCHIVE_DIR to write them to");
        }
        Ok(())
    }
}
