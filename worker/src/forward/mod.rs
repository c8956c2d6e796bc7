//! Forwarding: processed events on their way to destinations.
//!
//! Guarantee: no event waits for any of this. Settling moves a processed event that somebody subscribed to into its
//! platform's outbox, in the same script; the mover makes deliveries of it, one per destination; each destination has its
//! own queue, connection, tasks and bounds, so a slow or dead one delays no other. A delivery is sent at least once, under
//! one id; it is let go of only when the destination has confirmed it or it is a dead letter.

mod busy;
mod circuit;
mod decide;
mod deliver;
mod forwarding;
mod memory_quota;
mod outbox_relay;
pub mod parked;
mod sender;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use shared::outbound::address::AllowPrivate;
use shared::outbound::client::{ClientSetupError, OutboundClient};
use shared::outbound::{Destination, DestinationName};
use shared::queue::{RedisUrlError, StreamReader, blocking_connection};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use forwarding::{DestinationQueue, Forwarding};

use crate::context::WorkerContext;

/// Where blocking reads go.
#[derive(Clone)]
pub struct RedisTarget {
    /// `REDIS_URL`.
    pub url: SecretString,
    /// `REDIS_CLUSTER`.
    pub cluster: bool,
}

impl RedisTarget {
    fn reader(&self) -> Result<StreamReader, RedisUrlError> {
        blocking_connection(&self.url, self.cluster)
    }
}

/// Why forwarding cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The client cannot be set up.
    #[error(transparent)]
    Client(#[from] ClientSetupError),
    /// Redis can never be reached.
    #[error("REDIS_URL: {0}")]
    Redis(#[from] RedisUrlError),
    /// A task failed: the process must not go on without it.
    #[error("a task that forwards has failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Longest wait for CA certificates before `http://` goes on without them.
const CERTIFICATES_TIMEOUT: Duration = Duration::from_secs(2);

/// An outlet's tasks.
struct RunningSender {
    destination_queue: Arc<DestinationQueue>,
    stop: CancellationToken,
}

/// One client for all destinations that may have the same addresses: each has its own copy of the system's certificates.
#[derive(Default)]
struct ClientCache(Vec<(Arc<AllowPrivate>, OutboundClient)>);

impl ClientCache {
    fn of(&mut self, destination: &Destination) -> Result<OutboundClient, ClientSetupError> {
        let allowed = &destination.allow_private;
        if let Some((_, client)) = self.0.iter().find(|(known, _)| Arc::ptr_eq(known, allowed)) {
            return Ok(client.clone());
        }
        let client = OutboundClient::new(Arc::clone(allowed))?;
        self.0.push((Arc::clone(allowed), client.clone()));
        Ok(client)
    }
}

/// Moves and delivers until the worker is to stop; destinations come and go as [`Forwarding`] says. What is under way
/// then has `grace` to end.
///
/// # Errors
/// When it cannot begin, or one of its tasks fails; nothing is lost by that.
pub async fn run(
    worker: Arc<WorkerContext>,
    target: RedisTarget,
    grace: Duration,
) -> Result<(), ForwardError> {
    let mut changes = worker.forwarding.subscribe();
    let (mut clients, mut tasks) = (ClientCache::default(), JoinSet::new());
    // Cancelled when a queue's tasks have ended: those of its next definition share a consumer's name with them,
    // and must not take up what they still hold.
    let mut ends: HashMap<DestinationName, CancellationToken> = HashMap::new();
    tasks.spawn(outbox_relay::run(Arc::clone(&worker), target.reader()?));
    let mut running: Vec<RunningSender> = Vec::new();
    loop {
        let wanted = Arc::clone(&changes.borrow_and_update());
        running.retain(|one| {
            let stays = wanted.iter().any(|other| Arc::ptr_eq(other, &one.destination_queue));
            if !stays {
                one.stop.cancel();
            }
            stays
        });
        for destination_queue in wanted.iter() {
            if running.iter().any(|one| Arc::ptr_eq(destination_queue, &one.destination_queue)) {
                continue;
            }
            let (client, reader) = (clients.of(&destination_queue.destination)?, target.reader()?);
            // So that the start of every worker does not report https as off.
            let read = client.wait_for_certificates(CERTIFICATES_TIMEOUT);
            if worker.stop.run_until_cancelled(read).await.is_none() {
                break;
            }
            let stop = worker.stop.child_token();
            let sender = sender::DestinationSender::new(
                destination_queue,
                client,
                Arc::clone(&worker),
                stop.clone(),
            );
            let ended = CancellationToken::new();
            let before = ends.insert(destination_queue.queue.clone(), ended.clone());
            tasks.spawn(async move {
                let _ended = ended.drop_guard();
                if let Some(before) = before {
                    before.cancelled().await;
                }
                sender::run(Arc::new(sender), reader, grace).await;
            });
            running.push(RunningSender { destination_queue: Arc::clone(destination_queue), stop });
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
