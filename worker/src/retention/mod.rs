//! Expires dead letters and ledger rows after a configured time.
//!
//! # Guarantees
//! - Nothing expires unless it is configured (`retention_is_off_by_default`).
//! - A dead letter leaves Redis only after its line in the archive is synced. Without an archive it
//!   stays, and is counted and reported (`expired_dead_letters_are_archived_then_removed`,
//!   `expired_dead_letters_stay_and_are_reported_without_archive`).
//! - A ledger row is deleted only if nothing can bring its event back
//!   (`ledger_rows_expire_unless_something_needs_them`).

mod archive;
mod dead_letters;
mod ledger;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::config::Env;
use shared::config::variables::{
    DEDUP_TTL_HOURS, DLQ_ARCHIVE_DIR, DLQ_RETENTION_DAYS, EVENTS_RETENTION_DAYS,
};
use shared::platform::PlatformName;
use shared::queue::CallError;
use tokio::time::sleep;

use crate::context::WorkerContext;

/// Interval between two rounds over the dead letters.
const DEAD_LETTERS_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest interval between two scans of the ledger.
const LEDGER_SCAN_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Factor between the time of a scan and the pause after it. A scan takes at most 1/20 of the time.
const LEDGER_PAUSE_FACTOR: u32 = 20;
/// One day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Configured retention. By default nothing expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `EVENTS_RETENTION_DAYS`.
    pub events: Option<Duration>,
    /// `DLQ_RETENTION_DAYS`.
    pub dead_letters: Option<Duration>,
    /// `DLQ_ARCHIVE_DIR`.
    pub archive: Option<PathBuf>,
    /// `DEDUP_TTL_HOURS`, as in ingress: time that duplicates are remembered, unless the platform's
    /// definition sets another.
    pub dedup_ttl: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events: None, dead_letters: None, archive: None, dedup_ttl: DAY }
    }
}

impl Retention {
    /// Reads and validates the environment.
    pub fn read(env: &Env) -> Self {
        let retention = Self {
            events: env.optional_span(&EVENTS_RETENTION_DAYS),
            dead_letters: env.optional_span(&DLQ_RETENTION_DAYS),
            archive: env.opt(DLQ_ARCHIVE_DIR.name).map(PathBuf::from),
            dedup_ttl: env.span(&DEDUP_TTL_HOURS),
        };
        if let Some(folder) = &retention.archive {
            // A missing folder may be mounted later. Until then dead letters stay.
            if folder.exists() && !folder.is_dir() {
                env.problem(DLQ_ARCHIVE_DIR.name, "must be a folder");
            }
            if retention.dead_letters.is_none() {
                env.problem(DLQ_ARCHIVE_DIR.name, "has no effect without DLQ_RETENTION_DAYS");
            }
        }
        retention
    }
}

/// Expires dead letters and ledger rows until the worker is stopped. One worker does it at a time.
pub async fn run(worker: Arc<WorkerContext>) {
    let retention = &worker.retention;
    let dead_letters = async {
        match retention.dead_letters {
            Some(age) => dead_letters::run(&worker, age, retention.archive.as_deref()).await,
            None => worker.stop.cancelled().await,
        }
    };
    let events = async {
        match retention.events {
            Some(age) => ledger::run(&worker, age).await,
            None => worker.stop.cancelled().await,
        }
    };
    tokio::join!(dead_letters, events);
}

/// Lease on work that only one worker may do at a time.
struct LeaderLease<'w> {
    worker: &'w WorkerContext,
    what: &'static str,
    ttl: Duration,
}

impl<'w> LeaderLease<'w> {
    /// Acquires the lease for `ttl`, unless it is renewed. Returns `None` if another worker has it,
    /// or if Redis does not answer.
    async fn take(worker: &'w WorkerContext, what: &'static str, ttl: Duration) -> Option<Self> {
        let lease = Self { worker, what, ttl };
        lease.renew().await.then_some(lease)
    }

    /// Renews the lease. Returns false if another worker has it.
    async fn renew(&self) -> bool {
        self.worker.queue.lease(self.what, &self.worker.consumer, self.ttl).await.unwrap_or(false)
    }

    async fn end(self) {
        let _ = self.worker.queue.release_lease(self.what, &self.worker.consumer).await;
    }
}

/// Returns all platforms that have keys, with or without a definition here, and all destinations.
async fn platforms(worker: &WorkerContext) -> Result<Vec<PlatformName>, CallError> {
    worker.queue.queues().await
}

/// Sleeps. Returns false if the worker is stopped.
async fn sleep_unless_stopped(worker: &WorkerContext, time: Duration) -> bool {
    worker.stop.run_until_cancelled(sleep(time)).await.is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(pairs: &[(&'static str, &str)]) -> (Retention, String) {
        let env = Env::from_pairs(pairs.iter().copied());
        let retention = Retention::read(&env);
        (
            retention,
            env.finish()
                .err()
                .map(|problems| shared::config::report(&problems))
                .unwrap_or_default(),
        )
    }

    #[test]
    fn retention_is_off_by_default() {
        assert_eq!(read(&[]), (Retention::default(), String::new()));
    }

    #[test]
    fn retention_ages_are_read_in_days() {
        let (retention, problems) =
            read(&[("EVENTS_RETENTION_DAYS", "30"), ("DLQ_RETENTION_DAYS", "1")]);
        assert_eq!((retention.events, retention.dead_letters), (Some(30 * DAY), Some(DAY)));
        assert_eq!(problems, "");
    }

    #[test]
    fn missing_archive_folder_is_accepted() {
        let (retention, problems) =
            read(&[("DLQ_RETENTION_DAYS", "7"), ("DLQ_ARCHIVE_DIR", "/no/such/folder")]);
        assert_eq!((retention.archive.is_some(), problems.as_str()), (true, ""));
    }

    #[test]
    fn unusable_retention_settings_are_refused() {
        for (pairs, name) in [
            (&[("EVENTS_RETENTION_DAYS", "0")][..], "EVENTS_RETENTION_DAYS"),
            (&[("DLQ_RETENTION_DAYS", "a week")], "DLQ_RETENTION_DAYS"),
            (&[("DLQ_RETENTION_DAYS", "7"), ("DLQ_ARCHIVE_DIR", "/dev/null")], "DLQ_ARCHIVE_DIR"),
            (&[("DLQ_ARCHIVE_DIR", "/")], "DLQ_ARCHIVE_DIR"),
        ] {
            let (_, problems) = read(pairs);
            assert!(problems.contains(name), "{pairs:?}: {problems}");
        }
    }
}
