//! Forwarding: processed events on their way to destinations.
//!
//! Guarantee: no event waits for any of this. Settling moves a processed event that somebody subscribed to into its
//! platform's outbox, in the same script; the mover makes deliveries of it, one per destination; each destination has its
//! own queue, connection, tasks and bounds, so a slow or dead one delays no other. A delivery is sent at least once, under
//! one id; it is let go of only when the destination has confirmed it or it is a dead letter.

mod busy;
mod circuit;
mod deliver;
mod judge;
mod lane;
mod mover;
mod outlets;
pub mod parked;
mod share;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use shared::outbound::address::AllowPrivate;
use shared::outbound::client::{Client, SetupError};
use shared::outbound::{Destination, DestinationName};
use shared::queue::{InvalidTarget, Reader, blocking_connection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use outlets::{Forwarding, Outlet};

use crate::worker::Worker;

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

/// Longest wait for CA certificates before `http://` goes on without them.
const CERTIFICATES: Duration = Duration::from_secs(2);

/// An outlet's tasks.
struct Running {
    outlet: Arc<Outlet>,
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
    let mut changes = worker.forwarding.subscribe();
    let (mut clients, mut tasks) = (Clients::default(), JoinSet::new());
    // Cancelled when a queue's tasks have ended: those of its next definition share a consumer's name with them,
    // and must not take up what they still hold.
    let mut ends: HashMap<DestinationName, CancellationToken> = HashMap::new();
    tasks.spawn(mover::run(Arc::clone(&worker), target.reader()?));
    let mut running: Vec<Running> = Vec::new();
    loop {
        let wanted = Arc::clone(&changes.borrow_and_update());
        running.retain(|one| {
            let stays = wanted.iter().any(|other| Arc::ptr_eq(other, &one.outlet));
            if !stays {
                one.stop.cancel();
            }
            stays
        });
        for outlet in wanted.iter() {
            if running.iter().any(|one| Arc::ptr_eq(outlet, &one.outlet)) {
                continue;
            }
            let (client, reader) = (clients.of(&outlet.destination)?, target.reader()?);
            // So that the start of every worker does not report https as off.
            let read = client.certificates_read(CERTIFICATES);
            if worker.stop.run_until_cancelled(read).await.is_none() {
                break;
            }
            let stop = worker.stop.child_token();
            let lane = lane::Lane::new(outlet, client, Arc::clone(&worker), stop.clone());
            let ended = CancellationToken::new();
            let before = ends.insert(outlet.queue.clone(), ended.clone());
            tasks.spawn(async move {
                let _ended = ended.drop_guard();
                if let Some(before) = before {
                    before.cancelled().await;
                }
                lane::run(Arc::new(lane), reader, grace).await;
            });
            running.push(Running { outlet: Arc::clone(outlet), stop });
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
