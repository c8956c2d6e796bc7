//! The platforms that a worker serves, and how they change while it runs.
//!
//! Guarantee: what is read, claimed or promoted next follows the newest list, so a platform that was registered is read,
//! a changed definition holds from the next batch on, and a paused one is left alone. What belongs to a platform and not
//! to its definition (its series, what its entries weigh, whether it is paused) is one and the same in every lane it ever
//! had. Until registrations have been read once, the list is what this process was started with, and says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::metrics::{QueueMetrics, WorkerMetrics};
use shared::platform::registry::Registry;
use shared::platform::{Platform, PlatformName};
use shared::queue::{PlatformKeys, Queue};
use tokio::sync::watch;

use crate::consumer::column_warnings::ThrottledLog;
use crate::consumer::inflight::EntrySizeEstimate;

/// One platform, as a worker serves it. A changed definition makes a new lane.
pub struct PlatformQueue {
    /// Its definition.
    pub platform: Arc<Platform>,
    /// Its keys.
    pub keys: PlatformKeys,
    /// What is counted for it.
    pub metrics: WorkerMetrics,
    /// How full it is.
    pub depth: QueueMetrics,
    /// What its entries weigh.
    pub weight: Arc<EntrySizeEstimate>,
    /// Its retry set is to be looked at: this worker has put something into it, or may go on with it.
    pub rescheduled: Arc<AtomicBool>,
    /// Bounds the log lines about columns that its events do not set as sent.
    pub column_warnings: Arc<ThrottledLog>,
    dead_letters_full: Arc<FullDeadLetters>,
    paused: Arc<AtomicBool>,
}

/// State of a queue's dead letters: at `DLQ_MAX_LEN`, or not.
#[derive(Debug, Default)]
pub struct FullDeadLetters(AtomicBool);

impl FullDeadLetters {
    /// Returns true if `full` is not the state that was noted last.
    pub fn note(&self, full: bool) -> bool {
        self.0.swap(full, Ordering::Relaxed) != full
    }
}

impl PlatformQueue {
    /// A lane for `platform`.
    pub fn new(platform: Arc<Platform>, queue: &Queue) -> Self {
        Self {
            keys: queue.keys(&platform.name),
            metrics: WorkerMetrics::new(&platform.name),
            depth: QueueMetrics::new(&platform.name),
            weight: Arc::default(),
            rescheduled: Arc::new(AtomicBool::new(true)),
            column_warnings: Arc::default(),
            dead_letters_full: Arc::default(),
            paused: Arc::new(AtomicBool::new(platform.paused)),
            platform,
        }
    }

    /// The lane of the same platform by another definition. It is paused, or not, as before until [`Self::apply_pause`].
    fn redefined(&self, platform: Arc<Platform>) -> Self {
        Self {
            platform,
            keys: self.keys.clone(),
            metrics: self.metrics.clone(),
            depth: self.depth.clone(),
            weight: Arc::clone(&self.weight),
            rescheduled: Arc::clone(&self.rescheduled),
            column_warnings: Arc::clone(&self.column_warnings),
            dead_letters_full: Arc::clone(&self.dead_letters_full),
            paused: Arc::clone(&self.paused),
        }
    }

    /// Shows whether the dead letters are at `DLQ_MAX_LEN`, and logs it where that has changed.
    pub fn note_dead_letters_full(&self, full: bool) {
        self.depth.dead_letters_full(full);
        if !self.dead_letters_full.note(full) {
            return;
        }
        if full {
            tracing::error!(platform = %self.name(),
                "the dead letters are at DLQ_MAX_LEN; replay or purge some, until then events stay in retry");
        } else {
            tracing::info!(platform = %self.name(), "dead letters are below DLQ_MAX_LEN again");
        }
    }

    /// Lets this definition decide whether the platform is paused: for batches that a former one brought, too.
    fn apply_pause(&self) {
        let now = self.platform.paused;
        if self.paused.swap(now, Ordering::Relaxed) != now {
            tracing::info!(platform = %self.name(), "{}", if now { "paused" } else { "resumed" });
            self.rescheduled.store(true, Ordering::Relaxed);
        }
    }

    /// The platform's name.
    pub fn name(&self) -> &PlatformName {
        &self.platform.name
    }

    /// What log lines call it.
    pub fn label(&self) -> &str {
        self.platform.label.as_str()
    }

    /// Whether the platform is paused now, by its newest definition: its entries stay where they are.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }
}

/// One state of the list.
struct PlatformList {
    platforms: Arc<[Arc<PlatformQueue>]>,
    complete: bool,
}

/// The lanes, announcements first; see the module.
pub struct PlatformQueues {
    current: watch::Sender<PlatformList>,
}

impl PlatformQueues {
    /// The lanes of `registry`, which holds no registrations.
    pub fn new(registry: &Registry, queue: &Queue) -> Self {
        let platforms = registry
            .iter()
            .map(|platform| Arc::new(PlatformQueue::new(Arc::clone(platform), queue)))
            .collect();
        Self { current: watch::Sender::new(PlatformList { platforms, complete: false }) }
    }

    /// All of them now. Ask again for each round of work.
    pub fn all(&self) -> Arc<[Arc<PlatformQueue>]> {
        Arc::clone(&self.current.borrow().platforms)
    }

    /// The lane of the reserved platform on which sessions are announced.
    pub fn announcements(&self) -> Option<Arc<PlatformQueue>> {
        self.all()
            .iter()
            .find(|platform_queue| platform_queue.name().as_str() == PlatformName::SESSIONS)
            .cloned()
    }

    /// Whether registrations have been read: only then is a platform without a lane one that nobody defined.
    pub fn complete(&self) -> bool {
        self.current.borrow().complete
    }

    /// Tells when there is another list.
    pub fn changes(&self) -> PlatformChanges {
        PlatformChanges(self.current.subscribe())
    }

    /// The lanes of `registry`, registrations included: those there are where the definition is the same. Nothing
    /// changes yet.
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

    /// Serves these from now on.
    pub(crate) fn replace(&self, platforms: Vec<Arc<PlatformQueue>>) {
        for platform_queue in &platforms {
            platform_queue.apply_pause();
        }
        self.current.send_replace(PlatformList { platforms: platforms.into(), complete: true });
    }
}

/// See [`PlatformQueues::changes`].
pub struct PlatformChanges(watch::Receiver<PlatformList>);

impl PlatformChanges {
    /// Waits for a list that came after the one this was asked about before.
    pub async fn next(&mut self) {
        // The sender lives as long as the worker does, which is longer than anybody who waits here.
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

    /// The bundled platforms and `acme`, with these lines in its definition.
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
        assert!(!former.is_paused(), "nothing holds before it is served");
        platforms.replace(next);
        changes.next().await;
        let paused = acme(&platforms);
        assert!(former.is_paused() && paused.is_paused());
        assert_eq!((former.platform.ack_status, paused.platform.ack_status), (202, 200));
        former.weight.note(1_000_000);
        assert_eq!(
            paused.weight.estimate(),
            1_000_000,
            "what it weighs is no matter of its definition"
        );

        paused.rescheduled.store(false, Ordering::Relaxed);
        platforms.replace(platforms.of(&registry(""), &queue));
        assert!(!former.is_paused() && !paused.is_paused() && !acme(&platforms).is_paused());
        assert!(former.rescheduled.load(Ordering::Relaxed), "its retries may be due");
    }

    #[tokio::test]
    async fn platforms_are_added_and_removed() {
        let queue = queue();
        let platforms = PlatformQueues::new(&Registry::load(None).unwrap(), &queue);
        let count = platforms.all().len();
        platforms.replace(platforms.of(&registry(""), &queue));
        assert_eq!(platforms.all().len(), count + 1);
        assert!(acme(&platforms).rescheduled.load(Ordering::Relaxed), "its retries may be due");
        platforms.replace(platforms.of(&Registry::load(None).unwrap(), &queue));
        assert!(
            platforms.all().iter().all(|platform_queue| platform_queue.name().as_str() != "acme")
        );
        assert!(platforms.announcements().is_some());
    }
}
