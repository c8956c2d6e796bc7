//! One queue of a destination: its tasks and what is in flight from it.
//!
//! Guarantee: at most [`IN_FLIGHT`] deliveries are held at a time, each renewed while it is, and none is read that could
//! not be sent: while the destination is paused or its circuit is open its queue stays where it is. What is held when the
//! worker stops is finished or handed back.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shared::backoff::Backoff;
use shared::event::StreamId;
use shared::metrics::{DeliveryMetrics, QueueMetrics};
use shared::outbound::Destination;
use shared::outbound::client::Client;
use shared::outbound::pause::MAX_PAUSE;
use shared::queue::{DestinationKeys, DestinationState, Entry, Fault, Reader};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::circuit::{Circuit, Gate};
use super::deliver::deliver;
use super::outlets::Outlet;
use crate::consumer::inflight::Weight;
use crate::lanes::FullDeadLetters;
use crate::worker::Worker;

/// Deliveries to one destination at a time, per process.
pub(super) const IN_FLIGHT: usize = 16;
/// About how many bytes of them are read at a time.
const READ_BYTES: usize = 4 * 1024 * 1024;
/// How long a read waits for something new.
const BLOCK: Duration = Duration::from_millis(1_000);
/// How often pause and due retries are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often the queue's depths are, in looks.
const DEPTHS_EVERY: u32 = 10;
/// How often a few entries are looked at for orphans, and consumers that are gone are forgotten, in looks.
const SWEEP_EVERY: u32 = 120;
const REAP_EVERY: u32 = 1_200;
/// From which idle time on a consumer with nothing pending is forgotten.
pub(super) const REAP_IDLE: Duration = Duration::from_secs(3600);
/// Due retries moved per look.
const PROMOTED: usize = 100;
/// How far beyond the longest delay a due time may lie before it counts as due: Redis's clock was set back since.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// Pauses after failures.
const FAILED_MIN: Duration = Duration::from_millis(50);
const FAILED_MAX: Duration = Duration::from_secs(1);

/// State that a queue's tasks share.
pub(super) struct Lane {
    pub(super) destination: Arc<Destination>,
    pub(super) keys: DestinationKeys,
    pub(super) client: Client,
    pub(super) metrics: DeliveryMetrics,
    pub(super) worker: Arc<Worker>,
    pub(super) stop: CancellationToken,
    depth: QueueMetrics,
    circuit: watch::Sender<Circuit>,
    pub(super) state: watch::Sender<Option<DestinationState>>,
    held: Mutex<HashSet<StreamId>>,
    room: Arc<Semaphore>,
    limit_told: Mutex<Option<Instant>>,
    dead_letters_full: FullDeadLetters,
    weight: Weight,
}

impl Lane {
    pub(super) fn new(outlet: &Outlet, client: Client, worker: Arc<Worker>, stop: CancellationToken) -> Self {
        let destination = Arc::clone(&outlet.destination);
        let layout = worker.queue.layout();
        Self {
            keys: layout.destination(&outlet.queue).of(&layout.destination(&outlet.state)),
            metrics: DeliveryMetrics::new(&destination.name),
            depth: QueueMetrics::new(outlet.queue.queue()),
            circuit: watch::Sender::new(Circuit::new()),
            state: watch::Sender::new(None),
            held: Mutex::default(),
            room: Arc::new(Semaphore::new(IN_FLIGHT)),
            limit_told: Mutex::default(),
            dead_letters_full: FullDeadLetters::default(),
            weight: Weight::default(),
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
            (true, false) => tracing::info!(%destination, "its dead letters are below DLQ_MAX_LEN again"),
            (false, _) => {}
        }
    }

    /// Whether it has answered 410.
    pub(super) fn is_gone(&self) -> bool {
        self.state.borrow().as_ref().is_some_and(|state| state.gone)
    }

    /// Whether an operator holds it back; until that is known nothing is sent.
    fn is_paused(&self) -> bool {
        self.destination.sealed
            || self.client.https(&self.destination.url).is_err()
            || self.state.borrow().as_ref().is_none_or(|state| state.paused.unwrap_or(self.destination.paused))
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
    pub(super) async fn resumed(&self) -> Option<()> {
        let mut state = self.state.subscribe();
        while self.is_paused() {
            self.stop.run_until_cancelled(state.changed()).await?.ok()?;
        }
        Some(())
    }

    /// Holds deliveries back, visibly, while there are no certificates to verify the destination
    /// with. Returns true if it does.
    async fn check_certificates(&self, was_off: bool) -> bool {
        self.client.search_certificates();
        let off = self.client.https(&self.destination.url).err();
        if off.is_some() != was_off {
            self.metrics.circuit_open(off.is_some());
            self.state.send_modify(|_| ());
        }
        if let Some(none) = off.as_ref().filter(|_| !was_off) {
            let (destination, reason) = (&self.destination.name, none.to_string());
            tracing::error!(%destination, reason, "its deliveries are kept");
            // For showing only, as in `circuit`.
            let _ = self.worker.queue.note_error(&self.keys, &format!("ECERT {reason}"), self.worker.now()).await;
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
    async fn may_send(&self) -> Option<(usize, bool)> {
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
                let gate = self.circuit.borrow().gate(Instant::now());
                match gate {
                    Gate::Closed => return Some((IN_FLIGHT, false)),
                    Gate::Probe => return Some((1, true)),
                    Gate::Shut(until) => until,
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
    pub(super) fn tell_of_limit(&self) -> bool {
        let mut told = self.limit_told.lock().unwrap_or_else(PoisonError::into_inner);
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
    async fn own(&self, count: usize) -> Result<Vec<Entry>, Fault> {
        let (queue, consumer) = (&self.worker.queue, &self.worker.consumer);
        // Looked at before Redis is asked: what is finished meanwhile is in the answer, and must not be sent again.
        let held = self.held().clone();
        let most = count + held.len();
        let mut own = queue.read_own_pending(&self.keys.queue, consumer, StreamId::default(), most).await?;
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
pub(super) async fn run(lane: Arc<Lane>, reader: Reader, grace: Duration) {
    let side = CancellationToken::new();
    let mut tasks = JoinSet::new();
    lane.metrics.circuit_open(false);
    // What an earlier process noted is not so any more.
    let _ = lane.worker.queue.note_circuit(&lane.keys, Circuit::new().name()).await;
    tasks.spawn(look(Arc::clone(&lane), side.clone()));
    tasks.spawn(renew(Arc::clone(&lane), side.clone()));
    let mut deliveries = JoinSet::new();
    // A destination that was changed or removed takes its time; a worker that stops has no more than its grace period.
    let too_late = async {
        lane.worker.stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    let work = async {
        read(&lane, reader, &mut deliveries).await;
        while deliveries.join_next().await.is_some() {}
    };
    let late = tokio::select! {
        () = work => false,
        () = too_late => true,
    };
    if late {
        tracing::warn!(destination = %lane.destination.name, "deliveries are cut off; others will repeat them");
        deliveries.shutdown().await;
    }
    side.cancel();
    while tasks.join_next().await.is_some() {}
    hand_back(&lane).await;
    lane.depth.clear();
}

/// Reads and sends.
async fn read(lane: &Arc<Lane>, mut reader: Reader, deliveries: &mut JoinSet<()>) {
    let (worker, queue) = (&lane.worker, &lane.keys.queue);
    let backoff = Backoff::new(FAILED_MIN, FAILED_MAX);
    let (mut failures, mut own_done, mut claimed_at, mut cursor) =
        (0_u32, false, Instant::now(), StreamId::default());
    while let Some((most, probe)) = lane.may_send().await {
        let Ok(permit) = Arc::clone(&lane.room).acquire_owned().await else { break };
        let count = most.min(lane.room.available_permits() + 1).min(lane.weight.fit(READ_BYTES));
        drop(permit);
        let found: Result<Vec<Entry>, Fault> = async {
            if !own_done {
                let own = lane.own(count).await?;
                own_done = own.is_empty();
                if !own_done {
                    return Ok(own);
                }
            }
            if claimed_at.elapsed() >= worker.claim_idle / 4 {
                let claimed = worker.queue.claim(queue, &worker.consumer, worker.claim_idle, cursor, count).await?;
                cursor = claimed.cursor;
                if cursor == StreamId::default() {
                    claimed_at = Instant::now();
                }
                return Ok(claimed.entries.into_iter().map(|(entry, _)| entry).collect());
            }
            let read = worker.queue.read_new(&mut reader, &[queue], &worker.consumer, count, BLOCK).await?;
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
                let _ = lane.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
                continue;
            }
        };
        for (position, entry) in entries.into_iter().enumerate() {
            lane.weight.note(entry.weight());
            if !lane.hold(entry.id) {
                continue;
            }
            let probe = probe && position == 0;
            if probe {
                lane.circuit(Circuit::begin_probe).await;
            }
            let Ok(permit) = Arc::clone(&lane.room).acquire_owned().await else { break };
            let lane = Arc::clone(lane);
            deliveries.spawn(async move {
                deliver(&lane, entry, probe).await;
                drop(permit);
            });
        }
        while deliveries.try_join_next().is_some() {}
    }
}

/// What an operator has set, what is due again, and how full the queue is.
async fn look(lane: Arc<Lane>, done: CancellationToken) {
    let (worker, queue) = (&lane.worker, &lane.keys.queue);
    let longest = (lane.destination.max_retry_delay + CLOCK_SLACK).max(MAX_PAUSE);
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    let mut cursor = None;
    let mut was_off = false;
    for round in 0_u32.. {
        was_off = lane.check_certificates(was_off).await;
        if let Ok(state) = worker.queue.destination_state(&lane.keys).await {
            let before = (lane.is_paused(), lane.is_gone());
            let known = lane.state.borrow().is_some();
            lane.state.send_if_modified(|now| {
                let changed = now.as_ref() != Some(&state);
                *now = Some(state);
                changed
            });
            let after = (lane.is_paused(), lane.is_gone());
            if known && before.0 != after.0 {
                let word = if after.0 { "paused; its deliveries are kept" } else { "resumed" };
                tracing::info!(destination = %lane.destination.name, "destination {word}");
            }
        }
        // A promote that found a full round looks again at once.
        while let Ok(promoted) = worker.queue.promote_due(queue, longest_ms, PROMOTED).await {
            if promoted.moved < PROMOTED as u64 {
                break;
            }
        }
        if round % DEPTHS_EVERY == 0
            && let Ok(depth) = worker.queue.depth(queue).await
        {
            // Without its age: that is what alerts know sessions by that are out of date.
            lane.depth.depth(depth.backlog, depth.pending, depth.retrying, depth.dead_letters);
            if depth.dead_letters < worker.dlq_max_len {
                lane.note_dead_letters(false);
            }
        }
        if round % SWEEP_EVERY == SWEEP_EVERY - 1
            && let Ok(swept) = worker.queue.sweep_orphans(queue, cursor).await
        {
            cursor = swept.cursor;
            if swept.rescheduled > 0 {
                tracing::error!(destination = %lane.destination.name, entries = swept.rescheduled, "orphans were put back");
            }
        }
        if round % REAP_EVERY == REAP_EVERY - 1 {
            let _ = worker.queue.reap_consumers(queue, REAP_IDLE).await;
        }
        if done.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

/// Keeps what is held from being claimed.
async fn renew(lane: Arc<Lane>, done: CancellationToken) {
    while done.run_until_cancelled(tokio::time::sleep(lane.worker.claim_idle / 3)).await.is_some() {
        let held: Vec<StreamId> = lane.held().iter().copied().collect();
        if !held.is_empty() {
            let _ = lane.worker.queue.renew(&lane.keys.queue, &lane.worker.consumer, &held).await;
        }
    }
}

async fn hand_back(lane: &Lane) {
    let held: Vec<StreamId> = lane.held().drain().collect();
    if !held.is_empty() {
        let _ = lane.worker.queue.hand_back(&lane.keys.queue, &lane.worker.consumer, &held).await;
    }
}
