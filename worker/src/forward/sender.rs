//! One queue of a destination: its tasks and what is in flight from it.
//!
//! Guarantee: at most [`MAX_IN_FLIGHT`] deliveries are held at a time, each renewed while it is, and none is read that could
//! not be sent: while the destination is paused or its circuit is open its queue stays where it is. What is held when the
//! worker stops is finished or handed back.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::event::StreamId;
use shared::metrics::{DeliveryMetrics, QueueMetrics};
use shared::outbound::Destination;
use shared::outbound::client::OutboundClient;
use shared::outbound::pause::MAX_PAUSE;
use shared::queue::{CallError, DestinationKeys, DestinationState, StreamEntry, StreamReader};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::circuit::{Circuit, CircuitPermit};
use super::deliver::deliver;
use super::forwarding::DestinationQueue;
use crate::consumer::inflight::EntrySizeEstimate;
use crate::context::WorkerContext;
use crate::platforms::FullDeadLetters;

/// Deliveries to one destination at a time, per process.
pub(super) const MAX_IN_FLIGHT: usize = 16;
/// About how many bytes of them are read at a time.
const MAX_READ_BYTES: usize = 4 * 1024 * 1024;
/// How long a read waits for something new.
const READ_TIMEOUT: Duration = Duration::from_millis(1_000);
/// How often pause and due retries are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often the queue's depths are, in looks.
const DEPTHS_POLLS: u32 = 10;
/// How often a few entries are looked at for orphans, and consumers that are gone are forgotten, in looks.
const SWEEP_POLLS: u32 = 120;
const REAP_POLLS: u32 = 1_200;
/// From which idle time on a consumer with nothing pending is forgotten.
pub(super) const REAP_IDLE: Duration = Duration::from_secs(3600);
/// Due retries moved per look.
const MAX_PROMOTED: usize = 100;
/// How far beyond the longest delay a due time may lie before it counts as due: Redis's clock was set back since.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// Pauses after failures.
const FAILURE_PAUSE_MIN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// State that a queue's tasks share.
pub(super) struct DestinationSender {
    pub(super) destination: Arc<Destination>,
    pub(super) keys: DestinationKeys,
    pub(super) client: OutboundClient,
    pub(super) metrics: DeliveryMetrics,
    pub(super) worker: Arc<WorkerContext>,
    pub(super) stop: CancellationToken,
    depth: QueueMetrics,
    circuit: watch::Sender<Circuit>,
    pub(super) state: watch::Sender<Option<DestinationState>>,
    held: Mutex<HashSet<StreamId>>,
    room: Arc<Semaphore>,
    limit_logged_at: Mutex<Option<Instant>>,
    dead_letters_full: FullDeadLetters,
    weight: EntrySizeEstimate,
}

impl DestinationSender {
    pub(super) fn new(
        destination_queue: &DestinationQueue,
        client: OutboundClient,
        worker: Arc<WorkerContext>,
        stop: CancellationToken,
    ) -> Self {
        let destination = Arc::clone(&destination_queue.destination);
        let layout = worker.queue.layout();
        Self {
            keys: layout
                .destination(&destination_queue.queue)
                .of(&layout.destination(&destination_queue.state)),
            metrics: DeliveryMetrics::new(&destination.name),
            depth: QueueMetrics::new(destination_queue.queue.queue()),
            circuit: watch::Sender::new(Circuit::new()),
            state: watch::Sender::new(None),
            held: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            limit_logged_at: Mutex::default(),
            dead_letters_full: FullDeadLetters::default(),
            weight: EntrySizeEstimate::default(),
            destination,
            client,
            worker,
            stop,
        }
    }

    /// Logs whether its dead letters are at `DLQ_MAX_LEN`, where that has changed.
    pub(super) fn note_dead_letters(&self, full: bool) {
        let destination = &self.destination.name;
        match (self.dead_letters_full.note(full), full) {
            (true, true) => tracing::error!(%destination, "its dead letters are at DLQ_MAX_LEN"),
            (true, false) => {
                tracing::info!(%destination, "its dead letters are below DLQ_MAX_LEN again")
            }
            (false, _) => {}
        }
    }

    /// Whether it has answered 410.
    pub(super) fn is_gone(&self) -> bool {
        self.state.borrow().as_ref().is_some_and(|state| state.gone)
    }

    /// Whether an operator holds it back; until that is known nothing is sent.
    fn is_paused(&self) -> bool {
        self.destination.secret_unreadable
            || self.client.https(&self.destination.url).is_err()
            || self
                .state
                .borrow()
                .as_ref()
                .is_none_or(|state| state.paused.unwrap_or(self.destination.paused))
    }

    /// Changes the circuit, and tells others if its name has changed.
    pub(super) async fn circuit(&self, change: impl FnOnce(&mut Circuit)) {
        let mut names = ("", "");
        self.circuit.send_modify(|circuit| {
            names.0 = circuit.name();
            change(circuit);
            names.1 = circuit.name();
        });
        let (before, after) = names;
        if before != after {
            self.metrics.circuit_open(after != "closed");
            tracing::info!(destination = %self.destination.name, "circuit {after}");
            // For showing only: a Redis that does not answer now is told the next time.
            let _ = self.worker.queue.note_circuit(&self.keys, after).await;
        }
    }

    /// Whether its circuit is open.
    pub(super) fn circuit_is_open(&self) -> bool {
        self.circuit.borrow().is_open()
    }

    /// Waits until nobody holds it back; `None`: the lane is to stop.
    pub(super) async fn wait_until_resumed(&self) -> Option<()> {
        let mut state = self.state.subscribe();
        while self.is_paused() {
            self.stop.run_until_cancelled(state.changed()).await?.ok()?;
        }
        Some(())
    }

    /// Holds deliveries back, visibly, while there are no certificates to verify the destination
    /// with. Returns true if it does.
    async fn check_certificates(&self, was_off: bool) -> bool {
        self.client.search_certificates_if_due();
        let off = self.client.https(&self.destination.url).err();
        if off.is_some() != was_off {
            self.metrics.circuit_open(off.is_some());
            self.state.send_modify(|_| ());
        }
        if let Some(none) = off.as_ref().filter(|_| !was_off) {
            let (destination, reason) = (&self.destination.name, none.to_string());
            tracing::error!(%destination, reason, "its deliveries are kept");
            // For showing only, as in `circuit`.
            let _ = self
                .worker
                .queue
                .note_error(&self.keys, &format!("ECERT {reason}"), self.worker.now())
                .await;
        }
        off.is_some()
    }

    /// An operator holds it back since the state was read.
    pub(super) fn note_paused(&self) {
        self.state.send_modify(|state| state.get_or_insert_default().paused = Some(true));
    }

    /// It answered 410: nothing more is sent until an operator resumes it.
    pub(super) fn note_gone(&self) {
        self.state.send_modify(|state| state.get_or_insert_default().gone = true);
    }

    /// Waits until something may be sent. How much, and whether it is a probe; `None`: the lane is to stop.
    async fn wait_until_may_send(&self) -> Option<(usize, bool)> {
        let (mut state, mut circuit) = (self.state.subscribe(), self.circuit.subscribe());
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            let wait_until = if self.is_paused() {
                None
            } else if let Some(busy) = self.busy_for() {
                Some(Instant::now() + busy)
            } else {
                let permit = self.circuit.borrow().permit(Instant::now());
                match permit {
                    CircuitPermit::Unlimited => return Some((MAX_IN_FLIGHT, false)),
                    CircuitPermit::Probe => return Some((1, true)),
                    CircuitPermit::Blocked(until) => until,
                }
            };
            let until = async {
                match wait_until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = until => {}
                changed = state.changed() => changed.ok()?,
                changed = circuit.changed() => changed.ok()?,
            }
        }
    }

    /// Whether it is time to say again that the rate limit holds deliveries back: once per window.
    pub(super) fn should_log_limit(&self) -> bool {
        let mut told = self.limit_logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|at| at.elapsed() >= self.destination.limit.window);
        if due {
            *told = Some(Instant::now());
        }
        due
    }

    pub(super) fn release(&self, id: StreamId) {
        self.held().remove(&id);
    }

    fn hold(&self, id: StreamId) -> bool {
        self.held().insert(id)
    }

    /// What this lane had taken before and is not working on; at most `count`.
    async fn read_unfinished(&self, count: usize) -> Result<Vec<StreamEntry>, CallError> {
        let (queue, consumer) = (&self.worker.queue, &self.worker.consumer);
        // Looked at before Redis is asked: what is finished meanwhile is in the answer, and must not be sent again.
        let held = self.held().clone();
        let most = count + held.len();
        let mut own =
            queue.read_own_pending(&self.keys.queue, consumer, StreamId::default(), most).await?;
        own.retain(|entry| !held.contains(&entry.id));
        own.truncate(count);
        Ok(own)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashSet<StreamId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long before the `attempt`-th attempt's successor.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.destination.retry_delay, self.destination.max_retry_delay)
    }
}

/// Delivers until the lane is to stop. What is under way when the worker is to stop has `grace` to end.
pub(super) async fn run(sender: Arc<DestinationSender>, reader: StreamReader, grace: Duration) {
    let side = CancellationToken::new();
    let mut tasks = JoinSet::new();
    sender.metrics.circuit_open(false);
    // What an earlier process noted is not so any more.
    let _ = sender.worker.queue.note_circuit(&sender.keys, Circuit::new().name()).await;
    tasks.spawn(poll_state(Arc::clone(&sender), side.clone()));
    tasks.spawn(renew(Arc::clone(&sender), side.clone()));
    let mut deliveries = JoinSet::new();
    // A destination that was changed or removed takes its time; a worker that stops has no more than its grace period.
    let too_late = async {
        sender.worker.stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    let work = async {
        read(&sender, reader, &mut deliveries).await;
        while deliveries.join_next().await.is_some() {}
    };
    let late = tokio::select! {
        () = work => false,
        () = too_late => true,
    };
    if late {
        tracing::warn!(destination = %sender.destination.name, "deliveries are cut off; others will repeat them");
        deliveries.shutdown().await;
    }
    side.cancel();
    while tasks.join_next().await.is_some() {}
    hand_back(&sender).await;
    sender.depth.clear();
}

/// Reads and sends.
async fn read(
    sender: &Arc<DestinationSender>,
    mut reader: StreamReader,
    deliveries: &mut JoinSet<()>,
) {
    let (worker, queue) = (&sender.worker, &sender.keys.queue);
    let backoff = Backoff::new(FAILURE_PAUSE_MIN, FAILURE_PAUSE_MAX);
    let (mut failures, mut own_done, mut claimed_at, mut cursor) =
        (0_u32, false, Instant::now(), StreamId::default());
    while let Some((most, probe)) = sender.wait_until_may_send().await {
        let Ok(permit) = Arc::clone(&sender.room).acquire_owned().await else { break };
        let count = most
            .min(sender.room.available_permits() + 1)
            .min(sender.weight.entries_in(MAX_READ_BYTES));
        drop(permit);
        let found: Result<Vec<StreamEntry>, CallError> = async {
            if !own_done {
                let own = sender.read_unfinished(count).await?;
                own_done = own.is_empty();
                if !own_done {
                    return Ok(own);
                }
            }
            if claimed_at.elapsed() >= worker.claim_idle / 4 {
                let claimed = worker
                    .queue
                    .claim(queue, &worker.consumer, worker.claim_idle, cursor, count)
                    .await?;
                cursor = claimed.cursor;
                if cursor == StreamId::default() {
                    claimed_at = Instant::now();
                }
                return Ok(claimed.entries.into_iter().map(|(entry, _)| entry).collect());
            }
            let read = worker
                .queue
                .read_new(&mut reader, &[queue], &worker.consumer, count, READ_TIMEOUT)
                .await?;
            Ok(read.into_iter().flat_map(|(_, entries)| entries).collect())
        }
        .await;
        let entries = match found {
            Ok(entries) => {
                failures = 0;
                entries
            }
            Err(fault) => {
                failures = failures.saturating_add(1);
                if fault.is_no_group() {
                    let _ = worker.queue.create_group(queue).await;
                } else {
                    worker.queue.outage_log().failed("read deliveries", &fault);
                }
                own_done = false;
                let pause = backoff.delay(failures, &mut rand::rng());
                let _ = sender.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                continue;
            }
        };
        for (position, entry) in entries.into_iter().enumerate() {
            sender.weight.note(entry.weight());
            if !sender.hold(entry.id) {
                continue;
            }
            let probe = probe && position == 0;
            if probe {
                sender.circuit(Circuit::begin_probe).await;
            }
            let Ok(permit) = Arc::clone(&sender.room).acquire_owned().await else { break };
            let sender = Arc::clone(sender);
            deliveries.spawn(async move {
                deliver(&sender, entry, probe).await;
                drop(permit);
            });
        }
        while deliveries.try_join_next().is_some() {}
    }
}

/// What an operator has set, what is due again, and how full the queue is.
async fn poll_state(sender: Arc<DestinationSender>, done: CancellationToken) {
    let (worker, queue) = (&sender.worker, &sender.keys.queue);
    let longest = (sender.destination.max_retry_delay + CLOCK_SLACK).max(MAX_PAUSE);
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    let mut cursor = None;
    let mut was_off = false;
    for round in 0_u32.. {
        was_off = sender.check_certificates(was_off).await;
        if let Ok(state) = worker.queue.destination_state(&sender.keys).await {
            let before = (sender.is_paused(), sender.is_gone());
            let known = sender.state.borrow().is_some();
            sender.state.send_if_modified(|now| {
                let changed = now.as_ref() != Some(&state);
                *now = Some(state);
                changed
            });
            let after = (sender.is_paused(), sender.is_gone());
            if known && before.0 != after.0 {
                let word = if after.0 { "paused; its deliveries are kept" } else { "resumed" };
                tracing::info!(destination = %sender.destination.name, "destination {word}");
            }
        }
        // A promote that found a full round looks again at once.
        while let Ok(promoted) = worker.queue.promote_due(queue, longest_ms, MAX_PROMOTED).await {
            if promoted.moved < MAX_PROMOTED as u64 {
                break;
            }
        }
        if round % DEPTHS_POLLS == 0
            && let Ok(depth) = worker.queue.depth(queue).await
        {
            // Without its age: that is what alerts know sessions by that are out of date.
            sender.depth.depth(depth.backlog, depth.pending, depth.retrying, depth.dead_letters);
            if depth.dead_letters < worker.dlq_max_len {
                sender.note_dead_letters(false);
            }
        }
        if round % SWEEP_POLLS == SWEEP_POLLS - 1
            && let Ok(swept) = worker.queue.sweep_orphans(queue, cursor).await
        {
            cursor = swept.cursor;
            if swept.rescheduled > 0 {
                tracing::error!(destination = %sender.destination.name, entries = swept.rescheduled, "orphans were put back");
            }
        }
        if round % REAP_POLLS == REAP_POLLS - 1 {
            let _ = worker.queue.reap_consumers(queue, REAP_IDLE).await;
        }
        if done.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_none() {
            return;
        }
    }
}

/// Keeps what is held from being claimed.
async fn renew(sender: Arc<DestinationSender>, done: CancellationToken) {
    while done.run_until_cancelled(tokio::time::sleep(sender.worker.claim_idle / 3)).await.is_some()
    {
        let held: Vec<StreamId> = sender.held().iter().copied().collect();
        if !held.is_empty() {
            let _ = sender
                .worker
                .queue
                .extend_claims(&sender.keys.queue, &sender.worker.consumer, &held)
                .await;
        }
    }
}

async fn hand_back(sender: &DestinationSender) {
    let held: Vec<StreamId> = sender.held().drain().collect();
    if !held.is_empty() {
        let _ =
            sender.worker.queue.hand_back(&sender.keys.queue, &sender.worker.consumer, &held).await;
    }
}
