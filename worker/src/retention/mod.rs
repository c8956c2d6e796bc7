//! What is forgotten after a time, and only then: dead letters and rows of the ledger.
//!
//! Guarantee: nothing expires unless the operator says so, and nothing is forgotten silently. A dead letter leaves Redis
//! only when its line is in the archive and the archive is on disk; without an archive it stays, counted and reported. A
//! row of the ledger goes only when nothing can bring its event back that the ledger would have to recognise.

mod archive;
mod dead_letters;
mod ledger;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shared::config::{Env, TimeUnit};
use shared::platform::PlatformName;
use shared::queue::CallError;
use tokio::time::sleep;

use crate::context::WorkerContext;

/// How often expired dead letters are looked for.
const DEAD_LETTERS_INTERVAL: Duration = Duration::from_secs(60);
/// How often the ledger is gone through, at most.
const LEDGER_SCAN_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The ledger is gone through during no more than this part of the time.
const LEDGER_PAUSE_FACTOR: u32 = 20;
/// Longest retention, in days.
const MAX_DAYS: u64 = 36_500;
/// A day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What the operator wants forgotten; by default nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `EVENTS_RETENTION_DAYS`.
    pub events: Option<Duration>,
    /// `DLQ_RETENTION_DAYS`.
    pub dead_letters: Option<Duration>,
    /// `DLQ_ARCHIVE_DIR`.
    pub archive: Option<PathBuf>,
    /// `DEDUP_TTL_HOURS`, as ingress has it: how long duplicates are remembered where a definition does not say.
    pub dedup_ttl: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events: None, dead_letters: None, archive: None, dedup_ttl: DAY }
    }
}

impl Retention {
    /// Reads and checks the environment.
    pub fn read(env: &Env) -> Self {
        let days =
            |name| env.opt(name).map(|_| env.duration(name, TimeUnit::Days, 1, 1..=MAX_DAYS));
        let retention = Self {
            events: days("EVENTS_RETENTION_DAYS"),
            dead_letters: days("DLQ_RETENTION_DAYS"),
            archive: env.opt("DLQ_ARCHIVE_DIR").map(PathBuf::from),
            dedup_ttl: env.duration("DEDUP_TTL_HOURS", TimeUnit::Hours, 24, 1..=24 * 366),
        };
        if let Some(folder) = &retention.archive {
            // A folder that is not there may be mounted later; until then dead letters are kept.
            if folder.exists() && !folder.is_dir() {
                env.problem("DLQ_ARCHIVE_DIR", "must be a folder");
            }
            if retention.dead_letters.is_none() {
                env.problem("DLQ_ARCHIVE_DIR", "has no effect without DLQ_RETENTION_DAYS");
            }
        }
        retention
    }
}

/// Forgets what has expired until the worker is to stop. Of all workers, one at a time does it.
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

/// Holds what only one worker at a time may do.
struct LeaderLease<'w> {
    worker: &'w WorkerContext,
    what: &'static str,
    ttl: Duration,
}

impl<'w> LeaderLease<'w> {
    /// The turn, for `ttl` unless it is renewed. `None`: another worker has it, or Redis does not answer.
    async fn take(worker: &'w WorkerContext, what: &'static str, ttl: Duration) -> Option<Self> {
        let lease = Self { worker, what, ttl };
        lease.renew().await.then_some(lease)
    }

    /// Keeps it for another while; `false`: it is somebody else's now.
    async fn renew(&self) -> bool {
        self.worker.queue.lease(self.what, &self.worker.consumer, self.ttl).await.unwrap_or(false)
    }

    async fn end(self) {
        let _ = self.worker.queue.release_lease(self.what, &self.worker.consumer).await;
    }
}

/// Every platform that has keys, whether this worker has a definition for it or not, and every destination.
async fn platforms(worker: &WorkerContext) -> Result<Vec<PlatformName>, CallError> {
    worker.queue.queues().await
}

/// Waits; `false`: the worker is to stop.
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
