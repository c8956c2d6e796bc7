//! Consume loop: read, decode, plan, apply in one transaction, settle. Each stage works on another
//! batch ([`stages`]).
//!
//! # Guarantees
//! - Only [`settle`] acknowledges an entry. It does so after the commit, after a retry was
//!   scheduled, or after the event became a dead letter
//!   (`worker_killed_in_mid_batch_loses_nothing`).
//! - One event never fails another. Undecodable and invalid entries never reach a transaction
//!   (`invalid_event_is_dead_lettered_without_its_neighbours`).
//! - If a shared transaction fails, each batch runs separately, and a rejected event is found by
//!   halving its batch (`shared_transaction_isolates_a_refused_platform`).
//! - An event that may crash the worker runs alone
//!   (`event_that_kills_workers_is_dead_lettered_as_crash_loop`).
//! - An outage of Redis or the database pauses the loop. It spends no attempt and loses no event
//!   (`postgres_outage_of_half_a_minute_spends_no_attempt`,
//!   `redis_killed_under_load_loses_no_accepted_event`).

pub mod claimer;
pub mod column_warnings;
mod conclude;
mod execute;
pub mod inflight;
pub mod outcome;
pub mod reader;
mod scheduler;
mod settle;
mod spans;
mod stages;
pub mod suspects;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::time::Instant;

use shared::event::{Envelope, StreamId};
use shared::queue::{DecodeError, StreamEntry, decode};
use tokio::sync::mpsc;

use crate::context::{EntryBatch, PlatformQueue, WorkerContext};
use crate::effects::{self, PlannedEvent};
use conclude::ExecutedBatch;
pub use execute::error_chain;
use outcome::{DecisionContext, EntryTransition, ExecutionVerdict, decide};
use scheduler::{BatchScheduler, ScheduledWork};
use settle::Settlement;
use stages::{BackgroundSettler, NextBatchPlanner};

/// The worker is stopping. Held entries stay pending and are handed back.
#[derive(Debug)]
pub struct ConsumerInterruptedError;

/// Consumes batches until all senders of `batches` are gone, or until an outage outlasts the stop.
pub async fn run(worker: Arc<WorkerContext>, batches: mpsc::Receiver<EntryBatch>) {
    if let Err(ConsumerInterruptedError) = work(&worker, batches).await {
        tracing::info!("stopping with unfinished entries; they stay in the queue");
    }
}

async fn work(
    worker: &Arc<WorkerContext>,
    batches: mpsc::Receiver<EntryBatch>,
) -> Result<(), ConsumerInterruptedError> {
    let mut scheduler = BatchScheduler::new(batches, worker.store.transaction_scope());
    let (mut planner, mut settler) = (NextBatchPlanner::default(), BackgroundSettler::default());
    loop {
        let planned = match planner.take().await {
            Some(planned) => planned?,
            None => {
                let next = tokio::select! {
                    settled = settler.next() => {
                        settled?;
                        continue;
                    }
                    next = scheduler.next() => next,
                };
                match next {
                    Some(ScheduledWork::Shared(batches)) => prepare_all(worker, batches),
                    Some(ScheduledWork::Suspects(batch)) => {
                        // A crash must end no other batch.
                        settler.finish().await?;
                        suspects::consume_alone(worker, batch).await?;
                        continue;
                    }
                    None => return settler.finish().await,
                }
            }
        };
        planner.begin(worker, &mut scheduler);
        transact(worker, planned, &mut settler).await?;
    }
}

/// Applies batches of several platforms in one transaction, or each in its own if that fails. Then
/// passes the results to `settler`.
async fn transact(
    worker: &Arc<WorkerContext>,
    batches: Vec<PlannedBatch>,
    settler: &mut BackgroundSettler,
) -> Result<(), ConsumerInterruptedError> {
    let batches = claimer::hand_back_paused(worker, batches).await;
    let Some(verdicts) = execute::apply_shared(worker, &batches).await else {
        for planned in batches {
            // Applying a batch may take as long as an outage.
            let Some(planned) = claimer::hand_back_paused(worker, vec![planned]).await.pop() else {
                continue;
            };
            let verdicts =
                execute::apply_events(worker, &planned.platform_queue, &planned.deduped.plans)
                    .await?;
            let executed =
                ExecutedBatch::recheck_missing_sessions(worker, planned, verdicts).await?;
            settler.settle(worker, vec![executed]).await?;
        }
        return Ok(());
    };
    let missing = |(_, verdicts): &(PlannedBatch, Vec<ExecutionVerdict>)| {
        verdicts.iter().any(ExecutionVerdict::is_missing_session)
    };
    let (missing, others): (Vec<_>, Vec<_>) = batches.into_iter().zip(verdicts).partition(missing);
    let others = others.into_iter().map(|(planned, verdicts)| {
        ExecutedBatch::without_missing_sessions(worker, planned, verdicts)
    });
    settler.settle(worker, others.collect()).await?;
    for (planned, verdicts) in missing {
        let executed = ExecutedBatch::recheck_missing_sessions(worker, planned, verdicts).await?;
        settler.settle(worker, vec![executed]).await?;
    }
    Ok(())
}

/// Consumes entries of one platform until they are settled.
async fn consume(
    worker: &WorkerContext,
    platform_queue: &Arc<PlatformQueue>,
    entries: Vec<StreamEntry>,
    taken_at: Instant,
) -> Result<(), ConsumerInterruptedError> {
    let planned = prepare(worker, Arc::clone(platform_queue), entries, taken_at);
    let verdicts = execute::apply_events(worker, platform_queue, &planned.deduped.plans).await?;
    let executed = ExecutedBatch::recheck_missing_sessions(worker, planned, verdicts).await?;
    let (platform_queue, settlement) = executed.conclude(worker);
    settle::run(worker, &platform_queue, settlement).await
}

/// A batch that waits for its transaction.
struct PlannedBatch {
    platform_queue: Arc<PlatformQueue>,
    /// Ids of all entries of the batch.
    ids: Vec<StreamId>,
    deduped: DedupedBatch,
    /// Transitions of entries that need no transaction.
    settlement: Settlement,
}

fn prepare_all(worker: &WorkerContext, batches: Vec<EntryBatch>) -> Vec<PlannedBatch> {
    batches
        .into_iter()
        .map(|EntryBatch { platform_queue, entries, taken_at, .. }| {
            prepare(worker, platform_queue, entries, taken_at)
        })
        .collect()
}

fn prepare(
    worker: &WorkerContext,
    platform_queue: Arc<PlatformQueue>,
    entries: Vec<StreamEntry>,
    taken_at: Instant,
) -> PlannedBatch {
    let mut settlement = Settlement::new(taken_at, entries.len());
    let ids = entries.iter().map(|entry| entry.id).collect();
    let deduped = decode_and_plan(worker, &platform_queue, entries, &mut settlement);
    PlannedBatch { platform_queue, ids, deduped, settlement }
}

/// Distinct events in the order of their first entries, each with all its entries. The copies of an
/// event end with one outcome.
struct DedupedBatch {
    plans: Vec<PlannedEvent>,
    copies: Vec<EventCopies>,
}

/// Entries of one event.
struct EventCopies {
    first: Envelope,
    /// Nearly always empty.
    others: Vec<Envelope>,
}

impl EventCopies {
    fn iter(&self) -> impl Iterator<Item = &Envelope> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// Decodes and plans entries. Decides about those that need no database.
fn decode_and_plan(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    entries: Vec<StreamEntry>,
    settlement: &mut Settlement,
) -> DedupedBatch {
    let capacity = entries.len();
    let mut deduped =
        DedupedBatch { plans: Vec::with_capacity(capacity), copies: Vec::with_capacity(capacity) };
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(capacity);
    let now = worker.now();
    for entry in entries {
        let id = entry.id;
        match decode(entry) {
            Ok(envelope) => match seen.entry(envelope.event_id.clone()) {
                // Copies share an outcome only if their bodies are the same.
                Slot::Occupied(first) if deduped.plans[*first.get()].edited != envelope.edited => {
                    let next = EntryTransition::after_duplicate_entry(
                        &worker.policy,
                        envelope.attempt,
                        &mut rand::rng(),
                    );
                    settlement.add(platform_queue, [&envelope], &next, None, None);
                }
                Slot::Occupied(first) => deduped.copies[*first.get()].others.push(envelope),
                Slot::Vacant(slot) => match effects::plan(&platform_queue.platform, &envelope) {
                    Ok(plan) => {
                        slot.insert(deduped.plans.len());
                        deduped.plans.push(plan);
                        deduped.copies.push(EventCopies { first: envelope, others: Vec::new() });
                    }
                    Err(invalid) => {
                        let context = DecisionContext::at(worker);
                        let verdict = ExecutionVerdict::Invalid(invalid.to_string());
                        let next =
                            decide(&worker.policy, &envelope, verdict, context, &mut rand::rng());
                        settlement.add(platform_queue, [&envelope], &next, None, None);
                    }
                },
            },
            Err(DecodeError::Gone) => settlement.deleted(id),
            Err(DecodeError::UnsupportedVersion { version, received_at, attempt, .. }) => {
                let since = received_at.unwrap_or_else(|| i64::try_from(id.ms).unwrap_or(now));
                let next =
                    EntryTransition::unknown_version(&worker.policy, version, attempt, since, now);
                settlement.add_raw(id, attempt, &next);
            }
            Err(reason) => settlement.add_raw(id, 1, &EntryTransition::undecodable(&reason)),
        }
    }
    deduped
}
