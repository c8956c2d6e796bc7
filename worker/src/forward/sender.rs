//! Sends the deliveries of one queue of a destination.
//!
//! # Guarantees
//! - At most [`MAX_IN_FLIGHT`] deliveries are held at a time, and their claims are extended
//!   (`slow_failing_and_dead_destinations_delay_no_other`).
//! - No delivery is read while the destination is paused or its circuit is open
//!   (`paused_destination_neither_sends_nor_loses_deliveries`).
//! - Deliveries that are held when the worker stops are finished or handed back
//!   (`stopping_worker_hands_its_delivery_back_within_its_grace`).

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

/// Most deliveries to one destination at a time, per process.
pub(super) const MAX_IN_FLIGHT: usize = 16;
/// Most bytes of deliveries per read, by estimate.
const MAX_READ_BYTES: usize = 4 * 1024 * 1024;
/// Time that a read waits for new deliveries.
const READ_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Interval between two polls of the destination's state and of due retries.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Polls between two reads of the queue's depths.
const DEPTHS_POLLS: u32 = 10;
/// Polls between two sweeps for orphans, and between two deletions of idle consumers.
const SWEEP_POLLS: u32 = 120;
const REAP_POLLS: u32 = 1_200;
/// Idle time after which a consumer without pending entries is deleted.
pub(super) const REAP_IDLE: Duration = Duration::from_secs(3600);
/// Most due retries moved per call.
const MAX_PROMOTED: usize = 100;
/// Tolerance beyond the longest delay. A due time that is later counts as due, because Redis's
/// clock was set back.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// Bounds of the pause after a failure.
const FAILURE_PAUSE_MIN: Duration = Duration::from_millis(50);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// State that the tasks of one queue share.
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
    slots: Arc<Semaphore>,
    limit_logged_at: Mutex<Option<Instant>>,
    dead_letters_full: FullDeadLetters,
    entry_size: EntrySizeEstimate,
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
            slots: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            limit_logged_at: Mutex::default(),
            dead_letters_full: FullDeadLetters::default(),
            entry_size: EntrySizeEstimate::default(),
            destination,
            client,
            worker,
            stop,
        }
    }

    /// Records whether the dead letters are at `DLQ_MAX_LEN`, and logs a change.
    pub(super) fn note_dead_letters(&self, full: bool) {
        let destination = &self.destination.name;
        match (self.dead_letters_full.note(full), full) {
            (true, true) => {
                tracing::error!(%destination,
                    "the destination's dead letters are at DLQ_MAX_LEN; deliveries stay in retry")
            }
            (true, false) => {
                tracing::info!(%destination,
                    "the destination's dead letters are below DLQ_MAX_LEN again")
            }
            (false, _) => {}
        }
    }

    /// Returns true if the destination has answered 410.
    pub(super) fn is_gone(&self) -> bool {
        self.state.borrow().as_ref().is_some_and(|state| state.gone)
    }

    /// Returns true if the destination is paused. It counts as paused until its state is known.
    fn is_paused(&self) -> bool {
        self.destination.secret_unreadable
            || self.client.https(&self.destination.url).is_err()
            || self
                .state
                .borrow()
                .as_ref()
                .is_none_or(|state| state.paused.unwrap_or(self.destination.paused))
    }

    /// Changes the circuit, and reports a new state.
    pub(super) async fn update_circuit(&self, change: impl FnOnce(&mut Circuit)) {
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
            // For display only. If Redis does not answer, it learns the next change.
            let _ = self.worker.queue.note_circuit(&self.keys, after).await;
        }
    }

    /// Returns true if the circuit is open.
    pub(super) fn circuit_is_open(&self) -> bool {
        self.circuit.borrow().is_open()
    }

    /// Waits until the destination is not paused. Returns `None` if the sender is stopped.
    pub(super) async fn wait_until_resumed(&self) -> Option<()> {
        let mut state = self.state.subscribe();
        while self.is_paused() {
            self.stop.run_until_cancelled(state.changed()).await?.ok()?;
        }
        Some(())
    }

    /// Holds deliveries back while there are no certificates to verify the destination with.
    /// Returns true if it does.
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
            // For display only.
            let _ = self
                .worker
                .queue
                .note_error(&self.keys, &format!("ECERT {reason}"), self.worker.now())
                .await;
        }
        off.is_some()
    }

    /// Records that an operator has paused the destination since its state was read.
    pub(super) fn note_paused(&self) {
        self.state.send_modify(|state| state.get_or_insert_default().paused = Some(true));
    }

    /// Records a 410 answer. Nothing is sent until an operator resumes the destination.
    pub(super) fn note_gone(&self) {
        self.state.send_modify(|state| state.get_or_insert_default().gone = true);
    }

    /// Waits until deliveries may be sent. Returns how many, and whether the first one is a probe.
    /// Returns `None` if the sender is stopped.
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

    /// Returns true if it is time to log the rate limit again, once per window.
    pub(super) fn should_log_limit(&self) -> bool {
        let mut logged = self.limit_logged_at.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.is_none_or(|at| at.elapsed() >= self.destination.limit.window);
        if due {
            *logged = Some(Instant::now());
        }
        due
    }

    pub(super) fn release(&self, id: StreamId) {
        self.held().remove(&id);
    }

    fn hold(&self, id: StreamId) -> bool {
        self.held().insert(id)
    }

    /// Reads up to `count` deliveries that are pending for this worker and that no task works on.
    async fn read_unfinished(&self, count: usize) -> Result<Vec<StreamEntry>, CallError> {
        let (queue, consumer) = (&self.worker.queue, &self.worker.consumer);
        // Copied before the read. A delivery that is finished meanwhile is in the reply, and must
        // not be sent again.
        let held = self.held().clone();
        let max_count = count + held.len();
        let mut own = queue
            .read_own_pending(&self.keys.queue, consumer, StreamId::default(), max_count)
            .await?;
        own.retain(|entry| !held.contains(&entry.id));
        own.truncate(count);
        Ok(own)
    }

    fn held(&self) -> std::sync::MutexGuard<'_, HashSet<StreamId>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the backoff between two attempts.
    pub(super) fn backoff(&self) -> Backoff {
        Backoff::new(self.destination.retry_delay, self.destination.max_retry_delay)
    }
}

/// Delivers until the sender is stopped. When the worker stops, requests in flight have `grace` to
/// end.
pub(super) async fn run(sender: Arc<DestinationSender>, reader: StreamReader, grace: Duration) {
    let stop_side_tasks = CancellationToken::new();
    let mut tasks = JoinSet::new();
    sender.metrics.circuit_open(false);
    // Clears the state that an earlier process recorded.
    let _ = sender.worker.queue.note_circuit(&sender.keys, Circuit::new().name()).await;
    tasks.spawn(poll_state(Arc::clone(&sender), stop_side_tasks.clone()));
    tasks.spawn(extend_claims(Arc::clone(&sender), stop_side_tasks.clone()));
    let mut deliveries = JoinSet::new();
    // A changed or removed destination may take its time. A stopping worker has its grace period
    // only.
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
        tracing::warn!(destination = %sender.destination.name,
            "deliveries did not end in time; interrupting them, other workers will repeat them");
        deliveries.shutdown().await;
    }
    stop_side_tasks.cancel();
    while tasks.join_next().await.is_some() {}
    hand_back(&sender).await;
    sender.depth.clear();
}

/// Reads deliveries and starts an attempt at each.
async fn read(
    sender: &Arc<DestinationSender>,
    mut reader: StreamReader,
    deliveries: &mut JoinSet<()>,
) {
    let (worker, queue) = (&sender.worker, &sender.keys.queue);
    let backoff = Backoff::new(FAILURE_PAUSE_MIN, FAILURE_PAUSE_MAX);
    let (mut failures, mut own_done, mut claimed_at, mut cursor) =
        (0_u32, false, Instant::now(), StreamId::default());
    while let Some((max_count, probe)) = sender.wait_until_may_send().await {
        let Ok(permit) = Arc::clone(&sender.slots).acquire_owned().await else { break };
        let count = max_count
            .min(sender.slots.available_permits() + 1)
            .min(sender.entry_size.entries_in(MAX_READ_BYTES));
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
            sender.entry_size.note(entry.weight());
            if !sender.hold(entry.id) {
                continue;
            }
            let probe = probe && position == 0;
            if probe {
                sender.update_circuit(Circuit::begin_probe).await;
            }
            let Ok(permit) = Arc::clone(&sender.slots).acquire_owned().await else { break };
            let sender = Arc::clone(sender);
            deliveries.spawn(async move {
                deliver(&sender, entry, probe).await;
                drop(permit);
            });
        }
        while deliveries.try_join_next().is_some() {}
    }
}

/// Polls the state of the destination, promotes due retries, and reports the depths.
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
        // A full round is followed by another one at once.
        while let Ok(promoted) = worker.queue.promote_due(queue, longest_ms, MAX_PROMOTED).await {
            if promoted.moved < MAX_PROMOTED as u64 {
                break;
            }
        }
        if round % DEPTHS_POLLS == 0
            && let Ok(depth) = worker.queue.depth(queue).await
        {
            // Without the oldest age, because the alert on it is about sessions.
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
                tracing::error!(destination = %sender.destination.name,
                    entries = swept.rescheduled, "orphans found and rescheduled");
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

/// Extends the claims of held deliveries.
async fn extend_claims(sender: Arc<DestinationSender>, done: CancellationToken) {
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
