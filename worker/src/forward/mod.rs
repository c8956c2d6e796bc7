//! Forwards processed events to destinations.
//!
//! # Guarantees
//! - No event waits for a destination. A slow or dead destination delays no other one, since each
//!   has a queue, a connection, tasks and bounds of its own
//!   (`slow_failing_and_dead_destinations_delay_no_other`).
//! - A delivery is sent at least once, under one id. It is settled only after the destination
//!   confirmed it, or once it is a dead letter (`killed_workers_lose_no_delivery`).
//!
//! # Design
//! The settling script moves a processed event with subscribers into its platform's outbox. The
//! outbox relay then queues one delivery per destination.

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

/// Redis for blocking reads.
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

/// Reason why forwarding cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The HTTP client cannot be created.
    #[error(transparent)]
    Client(#[from] ClientSetupError),
    /// The Redis URL is unusable.
    #[error("REDIS_URL: {0}")]
    Redis(#[from] RedisUrlError),
    /// A task failed. The process must not go on without it.
    #[error("a forwarding task failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Longest wait for CA certificates before `http://` destinations start without them.
const CERTIFICATES_TIMEOUT: Duration = Duration::from_secs(2);

/// Running tasks of one queue.
struct RunningSender {
    destination_queue: Arc<DestinationQueue>,
    stop: CancellationToken,
}

/// One client for all destinations with the same allowed addresses, because each client has its own
/// copy of the system's certificates.
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

/// Relays and delivers until the worker is stopped. Destinations change as in [`Forwarding`].
/// Requests in flight then have `grace` to end.
///
/// # Errors
/// If forwarding cannot start, or if a task fails. No delivery is lost.
pub async fn run(
    worker: Arc<WorkerContext>,
    target: RedisTarget,
    grace: Duration,
) -> Result<(), ForwardError> {
    let mut changes = worker.forwarding.subscribe();
    let (mut clients, mut tasks) = (ClientCache::default(), JoinSet::new());
    // Cancelled when the tasks of a queue have ended. The tasks of its next definition use the same
    // consumer name, and must not read what the former ones still hold.
    let mut task_ends: HashMap<DestinationName, CancellationToken> = HashMap::new();
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
            // Otherwise each start of a worker would report https as off.
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
            let before = task_ends.insert(destination_queue.queue.clone(), ended.clone());
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
        task_ends.retain(|_, ended| !ended.is_cancelled());
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}
