//! Forwarding: processed events on their way to destinations.
//!
//! Guarantee: no event waits for any of this. Settling moves a processed event that somebody subscribed to into its
//! platform's outbox, in the same script; the mover makes deliveries of it, one per destination; each destination has its
//! own queue, connection, tasks and bounds, so a slow or dead one delays no other. A delivery is sent at least once, under
//! one id; it is let go of only when the destination has confirmed it or it is a dead letter.

mod circuit;
mod deliver;
mod lane;
mod mover;
mod share;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use shared::outbound::address::AllowPrivate;
use shared::outbound::client::{Client, SetupError};
use shared::outbound::config::{Configured, Defaults};
use shared::outbound::{Destination, DestinationName};
use shared::platform::PlatformName;
use shared::queue::{InvalidTarget, Reader, blocking_connection};
use shared::registration::{Sealer, Snapshot};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::worker::Worker;

/// All destinations now. Shared by the consume loop, which asks who wants an event, and those who deliver.
pub struct Forwarding {
    current: watch::Sender<Arc<[Arc<Destination>]>>,
    configured: Vec<Arc<Destination>>,
    defaults: Defaults,
    sealer: Sealer,
}

impl Forwarding {
    /// The destinations that were configured.
    #[must_use]
    pub fn new(configured: &Configured, sealer: Sealer) -> Self {
        let defaults = configured.defaults.clone();
        let configured: Vec<_> = configured.destinations.iter().cloned().map(Arc::new).collect();
        Self { current: watch::Sender::new(configured.clone().into()), configured, defaults, sealer }
    }

    /// Delivers to those that are registered, too, from now on.
    pub fn follow(&self, snapshot: &Snapshot) {
        let known = self.all();
        let registered = snapshot.destinations(&self.defaults, &self.sealer);
        let all = self.configured.iter().cloned().chain(registered.into_iter().map(|one| {
            if one.sealed {
                tracing::error!(destination = %one.name,
                    "its secret cannot be opened with this process's SECRETS_KEY; its deliveries are kept");
            }
            known.iter().find(|known| known.is_same_as(&one)).cloned().unwrap_or_else(|| Arc::new(one))
        }));
        let all: Arc<[Arc<Destination>]> = all.collect();
        self.current.send_if_modified(|current| {
            let changed =
                current.len() != all.len() || !current.iter().zip(all.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
            if changed {
                *current = Arc::clone(&all);
            }
            changed
        });
    }

    /// The names of the destinations that want this event, separated by commas; `None`: none does.
    pub fn wanted(&self, platform: &PlatformName, event: &str) -> Option<Arc<str>> {
        let destinations = self.current.borrow();
        // What applications announce is no event of a provider.
        if destinations.is_empty() || platform.as_str() == PlatformName::SESSIONS {
            return None;
        }
        let names: Vec<&str> = destinations
            .iter()
            .filter(|one| one.subscription.wants(platform, event))
            .map(|one| one.name.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(",").into())
    }

    /// All of them.
    pub fn all(&self) -> Arc<[Arc<Destination>]> {
        Arc::clone(&self.current.borrow())
    }

    fn find(&self, name: &str) -> Option<Arc<Destination>> {
        self.current.borrow().iter().find(|one| one.name.as_str() == name).cloned()
    }
}

/// Where blocking reads go.
#[derive(Clone)]
pub struct Target {
    /// `REDIS_URL`.
    pub url: SecretString,
    /// `REDIS_CLUSTER`.
    pub cluster: bool,
}

impl Target {
    fn reader(&self) -> Result<Reader, InvalidTarget> {
        blocking_connection(&self.url, self.cluster)
    }
}

/// Why forwarding cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum CannotForward {
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] SetupError),
    /// Redis can never be reached.
    #[error("REDIS_URL: {0}")]
    Redis(#[from] InvalidTarget),
    /// A task failed: the process must not go on without it.
    #[error("a task that forwards has failed")]
    Task(#[from] tokio::task::JoinError),
}

/// A destination's tasks.
struct Running {
    destination: Arc<Destination>,
    stop: CancellationToken,
}

/// One client for all destinations that may have the same addresses: each has its own copy of the system's certificates.
#[derive(Default)]
struct Clients(Vec<(Arc<AllowPrivate>, Client)>);

impl Clients {
    fn of(&mut self, destination: &Destination) -> Result<Client, SetupError> {
        let allowed = &destination.allow_private;
        if let Some((_, client)) = self.0.iter().find(|(known, _)| Arc::ptr_eq(known, allowed)) {
            return Ok(client.clone());
        }
        let client = Client::new(Arc::clone(allowed))?;
        self.0.push((Arc::clone(allowed), client.clone()));
        Ok(client)
    }
}

/// Moves and delivers until the worker is to stop; destinations come and go as [`Forwarding`] says. What is under way
/// then has `grace` to end.
///
/// # Errors
/// When it cannot begin, or one of its tasks fails; nothing is lost by that.
pub async fn run(worker: Arc<Worker>, target: Target, grace: Duration) -> Result<(), CannotForward> {
    let mut changes = worker.forwarding.current.subscribe();
    let (mut clients, mut tasks) = (Clients::default(), JoinSet::new());
    // Cancelled when a destination's tasks have ended: those of its next definition share a consumer's name with them,
    // and must not take up what they still hold.
    let mut ends: HashMap<DestinationName, CancellationToken> = HashMap::new();
    tasks.spawn(mover::run(Arc::clone(&worker), target.reader()?));
    let mut running: Vec<Running> = Vec::new();
    loop {
        let wanted = Arc::clone(&changes.borrow_and_update());
        running.retain(|one| {
            let stays = wanted.iter().any(|other| Arc::ptr_eq(other, &one.destination));
            if !stays {
                one.stop.cancel();
            }
            stays
        });
        for destination in wanted.iter() {
            if running.iter().any(|one| Arc::ptr_eq(destination, &one.destination)) {
                continue;
            }
            let (client, reader) = (clients.of(destination)?, target.reader()?);
            let stop = worker.stop.child_token();
            let lane = lane::Lane::new(Arc::clone(destination), client, Arc::clone(&worker), stop.clone());
            let ended = CancellationToken::new();
            let before = ends.insert(destination.name.clone(), ended.clone());
            tasks.spawn(async move {
                let _ended = ended.drop_guard();
                if let Some(before) = before {
                    before.cancelled().await;
                }
                lane::run(Arc::new(lane), reader, grace).await;
            });
            running.push(Running { destination: Arc::clone(destination), stop });
        }
        tokio::select! {
            () = worker.stop.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next() => ended?,
        }
        ends.retain(|_, ended| !ended.is_cancelled());
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}
