//! Holds the destinations that this worker knows, and the queues of each of them.
//!
//! # Guarantees
//! - A destination is known only together with its queue, so that no event is settled into the
//!   queue of another URL (`workers_with_different_lists_misdirect_nothing`).
//! - A registration's deliveries go to its own queue
//!   (`deliveries_of_a_registration_are_not_sent_by_the_list`).
//!
//! # Design
//! A change is published as a whole. What did not change keeps its `Arc`, so that receivers see the
//! difference by `Arc::ptr_eq`.

use std::sync::Arc;

use shared::outbound::config::{DestinationDefaults, OutboundConfig};
use shared::outbound::{Destination, DestinationName};
use shared::platform::PlatformName;
use shared::queue::{CallError, CompleteKinds, Queue, QueueBindings};
use shared::registration::{Sealer, Snapshot};
use tokio::sync::{Mutex, watch};

/// One queue of a destination. A destination has several after an operator handed a queue over to
/// it.
#[derive(Debug)]
pub struct DestinationQueue {
    /// The destination.
    pub destination: Arc<Destination>,
    /// The queue.
    pub queue: DestinationName,
    /// Queue for new deliveries to the destination.
    pub home: DestinationName,
    /// Queue whose state and rate limit hold for all queues of the receiver.
    pub state: DestinationName,
}

impl DestinationQueue {
    /// Returns true if new deliveries go to this queue.
    #[must_use]
    pub fn is_home(&self) -> bool {
        self.queue == self.home
    }

    fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.destination, &other.destination)
            && (&self.queue, &self.home, &self.state) == (&other.queue, &other.home, &other.state)
    }
}

/// All current destinations, for the consume loop and the tasks that deliver.
pub struct Forwarding {
    current: watch::Sender<Arc<[Arc<DestinationQueue>]>>,
    /// Destinations of registered platforms. Locked while queues are bound, so that an older
    /// binding never replaces a newer one.
    registered: Mutex<Vec<Arc<Destination>>>,
    configured: Vec<Arc<Destination>>,
    defaults: DestinationDefaults,
    sealer: Sealer,
}

impl Forwarding {
    /// Holds the configured destinations. They are used once [`Self::bind`] has succeeded.
    #[must_use]
    pub fn new(configured: &OutboundConfig, sealer: Sealer) -> Self {
        let defaults = configured.defaults.clone();
        let configured: Vec<_> = configured.destinations.iter().cloned().map(Arc::new).collect();
        let current = watch::Sender::new(Arc::from(Vec::new()));
        Self { current, registered: Mutex::default(), configured, defaults, sealer }
    }

    /// Finds the queues of all destinations, and uses them from now on.
    ///
    /// # Errors
    /// If Redis does not answer. The previous destinations stay in use.
    pub async fn bind(&self, queue: &Queue) -> Result<QueueBindings, CallError> {
        let registered = self.registered.lock().await;
        self.bind_all(queue, &registered, CompleteKinds::Configured).await
    }

    /// Adds the destinations of registered platforms in `snapshot`, from now on.
    ///
    /// # Errors
    /// If Redis does not answer. The previous destinations stay in use.
    pub async fn follow(&self, snapshot: &Snapshot, queue: &Queue) -> Result<(), CallError> {
        let mut registered = self.registered.lock().await;
        let found = snapshot.destinations(&self.defaults, &self.sealer);
        *registered = found
            .into_iter()
            .map(|one| {
                let known = registered.iter().find(|known| known.is_same_as(&one)).cloned();
                known.unwrap_or_else(|| {
                    if one.secret_unreadable {
                        tracing::error!(destination = %one.name,
                            "its secret cannot be opened with this process's SECRETS_KEY; its \
                            deliveries are kept");
                    }
                    Arc::new(one)
                })
            })
            .collect();
        self.bind_all(queue, &registered, CompleteKinds::All).await.map(drop)
    }

    async fn bind_all(
        &self,
        queue: &Queue,
        registered: &[Arc<Destination>],
        complete: CompleteKinds,
    ) -> Result<QueueBindings, CallError> {
        let all: Vec<&Arc<Destination>> = self.configured.iter().chain(registered).collect();
        let plain: Vec<&Destination> = all.iter().map(|one| &***one).collect();
        let bindings = queue.bind_queues(&plain, complete).await?;
        let destination_queue = |position: usize, queue: &DestinationName| {
            let (home, state) = (bindings.homes.get(position)?, bindings.states.get(position)?);
            let (queue, home, state) = (queue.clone(), home.clone(), state.clone());
            Some(DestinationQueue {
                destination: Arc::clone(all.get(position)?),
                queue,
                home,
                state,
            })
        };
        let homes = bindings.homes.iter().enumerate();
        let mut destination_queues: Vec<DestinationQueue> =
            homes.filter_map(|(position, home)| destination_queue(position, home)).collect();
        for (position, name) in &bindings.others {
            let keys = queue.layout().destination(name).queue;
            // An empty queue that gets no new deliveries needs no connection.
            if queue.waiting(&keys).await? > 0 {
                destination_queues.extend(destination_queue(*position, name));
            }
        }
        self.publish(destination_queues);
        Ok(bindings)
    }

    fn publish(&self, destination_queues: Vec<DestinationQueue>) {
        let known = self.all();
        let all: Arc<[Arc<DestinationQueue>]> = destination_queues
            .into_iter()
            .map(|one| {
                let same = known.iter().find(|known| known.is_same_as(&one)).cloned();
                same.unwrap_or_else(|| Arc::new(one))
            })
            .collect();
        self.current.send_if_modified(|current| {
            let changed = current.len() != all.len()
                || !current.iter().zip(all.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
            if changed {
                *current = Arc::clone(&all);
            }
            changed
        });
    }

    /// Returns the queues of the destinations that want this event, separated by commas. `None` if
    /// no destination wants it.
    pub fn wanted(&self, platform: &PlatformName, event: &str) -> Option<Arc<str>> {
        let destination_queues = self.current.borrow();
        // A session announcement is no event of a provider.
        if destination_queues.is_empty() || platform.as_str() == PlatformName::SESSIONS {
            return None;
        }
        let names: Vec<&str> = destination_queues
            .iter()
            .filter(|one| one.is_home() && one.destination.subscription.wants(platform, event))
            .map(|one| one.queue.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(",").into())
    }

    /// Returns all queues of all destinations.
    pub fn all(&self) -> Arc<[Arc<DestinationQueue>]> {
        Arc::clone(&self.current.borrow())
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<[Arc<DestinationQueue>]>> {
        self.current.subscribe()
    }

    pub(super) fn defaults(&self) -> &DestinationDefaults {
        &self.defaults
    }

    /// Returns the destination that receives the deliveries in `queue`.
    pub(super) fn find(&self, queue: &str) -> Option<Arc<Destination>> {
        let destination_queues = self.current.borrow();
        let found = destination_queues.iter().find(|one| one.queue.as_str() == queue);
        found.map(|one| Arc::clone(&one.destination))
    }
}
