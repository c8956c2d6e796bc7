//! Holds the platforms that a worker serves, and applies changes while it runs.
//!
//! # Guarantees
//! - A registered platform is read, and a changed definition holds, from the next batch on
//!   (`registered_platform_is_known_everywhere_in_two_seconds`,
//!   `changed_definition_applies_to_the_next_events`).
//! - A pause holds for batches that were read before it, too
//!   (`pause_holds_for_batches_of_the_former_definition`).
//! - State of the platform that is not part of its definition survives a new definition: metrics,
//!   sizes of entries, pause (`pause_holds_for_batches_of_the_former_definition`).
//!
//! # Design
//! Until registrations have been read, the list holds the platforms that the process was started
//! with, and [`PlatformQueues::complete`] returns false.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::metrics::{QueueMetrics, WorkerMetrics};
use shared::platform::registry::Registry;
use shared::platform::{Platform, PlatformName};
use shared::queue::{PlatformKeys, Queue};
use tokio::sync::watch;

use crate::consumer::column_warnings::ThrottledLog;
use crate::consumer::inflight::EntrySizeEstimate;

/// One platform as a worker serves it. A changed definition creates a new value.
pub struct PlatformQueue {
    /// Definition of the platform.
    pub platform: Arc<Platform>,
    /// Redis keys of the platform.
    pub keys: PlatformKeys,
    /// Counters of the platform.
    pub metrics: WorkerMetrics,
    /// Gauges of the queue's depth.
    pub depth: QueueMetrics,
    /// Estimate of the size of an entry.
    pub entry_size: Arc<EntrySizeEstimate>,
    /// Set when the retry set has to be read: this worker scheduled a retry, or the platform was
    /// resumed.
    pub rescheduled: Arc<AtomicBool>,
    /// Limits the log lines about columns that events do not set as sent.
    pub column_warnings: Arc<ThrottledLog>,
    dead_letters_full: Arc<FullDeadLetters>,
    paused: Arc<AtomicBool>,
}

/// Records whether a queue's dead letters are at `DLQ_MAX_LEN`.
#[derive(Debug, Default)]
pub struct FullDeadLetters(AtomicBool);

impl FullDeadLetters {
    /// Records `full`. Returns true if it has changed.
    pub fn note(&self, full: bool) -> bool {
        self.0.swap(full, Ordering::Relaxed) != full
    }
}

impl PlatformQueue {
    /// Creates the queue of `platform`.
    pub fn new(platform: Arc<Platform>, queue: &Queue) -> Self {
        Self {
            keys: queue.keys(&platform.name),
            metrics: WorkerMetrics::new(&platform.name),
            depth: QueueMetrics::new(&platform.name),
            entry_size: Arc::default(),
            rescheduled: Arc::new(AtomicBool::new(true)),
            column_warnings: Arc::default(),
            dead_letters_full: Arc::default(),
            paused: Arc::new(AtomicBool::new(platform.paused)),
            platform,
        }
    }

    /// Returns the queue of the same platform with another definition. The pause stays as it is
    /// until [`Self::apply_pause`].
    fn redefined(&self, platform: Arc<Platform>) -> Self {
        Self {
            platform,
            keys: self.keys.clone(),
            metrics: self.metrics.clone(),
            depth: self.depth.clone(),
            entry_size: Arc::clone(&self.entry_size),
            rescheduled: Arc::clone(&self.rescheduled),
            column_warnings: Arc::clone(&self.column_warnings),
            dead_letters_full: Arc::clone(&self.dead_letters_full),
            paused: Arc::clone(&self.paused),
        }
    }

    /// Reports whether the dead letters are at `DLQ_MAX_LEN`, and logs a change.
    pub fn note_dead_letters_full(&self, full: bool) {
        self.depth.dead_letters_full(full);
        if !self.dead_letters_full.note(full) {
            return;
        }
        if full {
            tracing::error!(platform = %self.name(),
                "the dead letters are at DLQ_MAX_LEN; events stay in retry until some are \
                replayed or purged");
        } else {
            tracing::info!(platform = %self.name(), "dead letters are below DLQ_MAX_LEN again");
        }
    }

    /// Applies the pause of this definition, also to batches of an earlier definition.
    fn apply_pause(&self) {
        let now = self.platform.paused;
        if self.paused.swap(now, Ordering::Relaxed) != now {
            tracing::info!(platform = %self.name(), "{}", if now { "paused" } else { "resumed" });
            self.rescheduled.store(true, Ordering::Relaxed);
        }
    }

    /// Name of the platform.
    pub fn name(&self) -> &PlatformName {
        &self.platform.name
    }

    /// Name of the platform in log lines.
    pub fn label(&self) -> &str {
        self.platform.label.as_str()
    }

    /// Returns true if the newest definition pauses the platform. Its entries then stay in place.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }
}

/// One version of the list.
struct PlatformList {
    platforms: Arc<[Arc<PlatformQueue>]>,
    complete: bool,
}

/// Queues of all served platforms, announcements first.
pub struct PlatformQueues {
    current: watch::Sender<PlatformList>,
}

impl PlatformQueues {
    /// Creates the queues of `registry`, which holds no registrations.
    pub fn new(registry: &Registry, queue: &Queue) -> Self {
        let platforms = registry
            .iter()
            .map(|platform| Arc::new(PlatformQueue::new(Arc::clone(platform), queue)))
            .collect();
        Self { current: watch::Sender::new(PlatformList { platforms, complete: false }) }
    }

    /// Returns all queues. Call it again for each round of work.
    pub fn all(&self) -> Arc<[Arc<PlatformQueue>]> {
        Arc::clone(&self.current.borrow().platforms)
    }

    /// Returns the queue of the reserved platform for session announcements.
    pub fn announcements(&self) -> Option<Arc<PlatformQueue>> {
        self.all()
            .iter()
            .find(|platform_queue| platform_queue.name().as_str() == PlatformName::SESSIONS)
            .cloned()
    }

    /// Returns true once registrations have been read. Before that, a platform without a queue may
    /// be a registered one.
    pub fn complete(&self) -> bool {
        self.current.borrow().complete
    }

    /// Returns a receiver of changes.
    pub fn changes(&self) -> PlatformChanges {
        PlatformChanges(self.current.subscribe())
    }

    /// Returns the queues of `registry`, registrations included. Queues whose definition has not
    /// changed are reused. Changes nothing yet.
    pub(crate) fn of(&self, registry: &Registry, queue: &Queue) -> Vec<Arc<PlatformQueue>> {
        let known = self.all();
        let platform_queue = |platform: &Arc<Platform>| match known
            .iter()
            .find(|platform_queue| platform_queue.name() == &platform.name)
        {
            Some(platform_queue) if Arc::ptr_eq(&platform_queue.platform, platform) => {
                Arc::clone(platform_queue)
            }
            Some(platform_queue) => Arc::new(platform_queue.redefined(Arc::clone(platform))),
            None => Arc::new(PlatformQueue::new(Arc::clone(platform), queue)),
        };
        registry.iter().map(platform_queue).collect()
    }

    /// Serves these queues from now on.
    pub(crate) fn replace(&self, platforms: Vec<Arc<PlatformQueue>>) {
        for platform_queue in &platforms {
            platform_queue.apply_pause();
        }
        self.current.send_replace(PlatformList { platforms: platforms.into(), complete: true });
    }
}

/// Receiver of changes, from [`PlatformQueues::changes`].
pub struct PlatformChanges(watch::Receiver<PlatformList>);

impl PlatformChanges {
    /// Waits for a list that is newer than the last one seen here.
    pub async fn next(&mut self) {
        // The channel lives as long as the worker, and so longer than this wait.
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until registrations have been read.
    pub async fn complete(&mut self) {
        if self.0.wait_for(|current| current.complete).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::SecretString;
    use shared::queue::{KeyLayout, connect};

    use super::*;

    fn queue() -> Queue {
        let url = SecretString::from("redis://127.0.0.1:1".to_owned());
        Queue::new(KeyLayout::Single, connect(&url, false).unwrap())
    }

    /// Returns the bundled platforms and `acme`, with these lines in its definition.
    fn registry(lines: &str) -> Registry {
        Registry::from_text("file", &format!("[platforms.acme]\nsecrets = ['env:A']\n{lines}\n"))
            .unwrap()
    }

    fn acme(platforms: &PlatformQueues) -> Arc<PlatformQueue> {
        platforms
            .all()
            .iter()
            .find(|platform_queue| platform_queue.name().as_str() == "acme")
            .cloned()
            .unwrap()
    }

    #[tokio::test]
    async fn unchanged_definitions_keep_their_queue_and_order() {
        let (registry, queue) = (registry(""), queue());
        let platforms = PlatformQueues::new(&registry, &queue);
        assert_eq!(platforms.all()[0].name().as_str(), PlatformName::SESSIONS);
        assert!(!platforms.complete());
        let before = platforms.all();
        platforms.replace(platforms.of(&registry, &queue));
        assert!(platforms.complete());
        assert_eq!(before.len(), platforms.all().len());
        assert!(
            before
                .iter()
                .zip(platforms.all().iter())
                .all(|(before, after)| Arc::ptr_eq(before, after))
        );
    }

    #[tokio::test]
    async fn pause_holds_for_batches_of_the_former_definition() {
        let queue = queue();
        let platforms = PlatformQueues::new(&registry(""), &queue);
        let (former, mut changes) = (acme(&platforms), platforms.changes());
        former.rescheduled.store(false, Ordering::Relaxed);
        let next = platforms.of(&registry("paused = true\nack_status = 200"), &queue);
        assert!(!former.is_paused(), "a definition has no effect before it is served");
        platforms.replace(next);
        changes.next().await;
        let paused = acme(&platforms);
        assert!(former.is_paused() && paused.is_paused());
        assert_eq!((former.platform.ack_status, paused.platform.ack_status), (202, 200));
        former.entry_size.note(1_000_000);
        assert_eq!(
            paused.entry_size.estimate(),
            1_000_000,
            "the estimate survives a new definition"
        );

        paused.rescheduled.store(false, Ordering::Relaxed);
        platforms.replace(platforms.of(&registry(""), &queue));
        assert!(!former.is_paused() && !paused.is_paused() && !acme(&platforms).is_paused());
        assert!(former.rescheduled.load(Ordering::Relaxed), "retries may be due");
    }

    #[tokio::test]
    async fn platforms_are_added_and_removed() {
        let queue = queue();
        let platforms = PlatformQueues::new(&Registry::load(None).unwrap(), &queue);
        let count = platforms.all().len();
        platforms.replace(platforms.of(&registry(""), &queue));
        assert_eq!(platforms.all().len(), count + 1);
        assert!(acme(&platforms).rescheduled.load(Ordering::Relaxed), "retries may be due");
        platforms.replace(platforms.of(&Registry::load(None).unwrap(), &queue));
        assert!(
            platforms.all().iter().all(|platform_queue| platform_queue.name().as_str() != "acme")
        );
        assert!(platforms.announcements().is_some());
    }
}
