//! The consume–settle loop: read → decode → plan → one transaction → settle, each stage with another turn ([`stages`]).
//!
//! Guarantee: an entry is acked only by [`settle`], and only after its transaction has committed, it was scheduled
//! again, or it became a dead letter, each in one script. A fault of one event never fails another: undecodable and
//! invalid ones never reach the transaction; if the one that several batches share fails, each runs by itself; a refused
//! event is found there by halving the batch, and one that may end the process runs alone. An outage of the database or of
//! Redis holds the loop; it costs no attempt and loses nothing.

pub mod claimer;
mod conclude;
mod execute;
pub mod inflight;
pub mod outcome;
pub mod reader;
mod settle;
mod spans;
mod stages;
pub mod suspects;
mod turns;
pub mod warned;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::time::Instant;

use shared::event::{Envelope, StreamId};
use shared::queue::{Entry, Undecodable, decode};
use tokio::sync::mpsc;

use crate::effects::{self, Planned};
use crate::worker::{Batch, Lane, Worker};
use conclude::Executed;
pub use execute::chain;
use outcome::{Moment, Next, Verdict, decide};
use settle::Settlement;
use stages::{Ahead, Behind};
use turns::{Turn, Turns};

/// The worker is stopping; what is held stays pending and is handed back.
#[derive(Debug)]
pub struct Interrupted;

/// Works until every sender of `batches` is gone, or an outage outlasts the order to stop.
pub async fn run(worker: Arc<Worker>, batches: mpsc::Receiver<Batch>) {
    if let Err(Interrupted) = work(&worker, batches).await {
        tracing::info!("stopping with work in hand; it stays in the queue");
    }
}

async fn work(worker: &Arc<Worker>, batches: mpsc::Receiver<Batch>) -> Result<(), Interrupted> {
    let mut turns = Turns::new(batches, worker.store.sharing());
    let (mut ahead, mut behind) = (Ahead::default(), Behind::default());
    loop {
        let ready = match ahead.take().await {
            Some(planned) => planned?,
            None => {
                let next = tokio::select! {
                    settled = behind.next() => {
                        settled?;
                        continue;
                    }
                    next = turns.next() => next,
                };
                match next {
                    Some(Turn::Together(batches)) => prepare_all(worker, batches),
                    Some(Turn::Suspects(batch)) => {
                        // What ends the process is to end nothing but itself.
                        behind.finish().await?;
                        suspects::consume_alone(worker, batch).await?;
                        continue;
                    }
                    None => return behind.finish().await,
                }
            }
        };
        ahead.begin(worker, &mut turns);
        transact(worker, ready, &mut behind).await?;
    }
}

/// Takes batches of different lanes through one transaction, or each through its own if that is not to be had, and hands
/// on what came of them.
async fn transact(worker: &Arc<Worker>, turn: Vec<Ready>, behind: &mut Behind) -> Result<(), Interrupted> {
    let turn = claimer::unpaused(worker, turn).await;
    let Some(verdicts) = execute::together(worker, &turn).await else {
        for ready in turn {
            // This may take as long as an outage does.
            let Some(ready) = claimer::unpaused(worker, vec![ready]).await.pop() else { continue };
            let verdicts = execute::run(worker, &ready.lane, &ready.folded.plans).await?;
            let executed = Executed::after_second_look(worker, ready, verdicts).await?;
            behind.settle(worker, vec![executed]).await?;
        }
        return Ok(());
    };
    let missing = |(_, verdicts): &(Ready, Vec<Verdict>)| verdicts.iter().any(Verdict::is_missing_session);
    let (missing, others): (Vec<_>, Vec<_>) = turn.into_iter().zip(verdicts).partition(missing);
    let others = others.into_iter().map(|(ready, verdicts)| Executed::now(worker, ready, verdicts));
    behind.settle(worker, others.collect()).await?;
    for (ready, verdicts) in missing {
        let executed = Executed::after_second_look(worker, ready, verdicts).await?;
        behind.settle(worker, vec![executed]).await?;
    }
    Ok(())
}

/// Takes entries of one platform to their end.
async fn consume(
    worker: &Worker,
    lane: &Arc<Lane>,
    entries: Vec<Entry>,
    taken: Instant,
) -> Result<(), Interrupted> {
    let ready = prepare(worker, Arc::clone(lane), entries, taken);
    let verdicts = execute::run(worker, lane, &ready.folded.plans).await?;
    let executed = Executed::after_second_look(worker, ready, verdicts).await?;
    let (lane, settlement) = executed.conclude(worker);
    settle::run(worker, &lane, settlement).await
}

/// A batch that waits for its transaction.
struct Ready {
    lane: Arc<Lane>,
    /// Of all its entries.
    ids: Vec<StreamId>,
    folded: Folded,
    /// Of what needs no transaction, so far.
    settlement: Settlement,
}

fn prepare_all(worker: &Worker, batches: Vec<Batch>) -> Vec<Ready> {
    batches.into_iter().map(|Batch { lane, entries, taken, .. }| prepare(worker, lane, entries, taken)).collect()
}

fn prepare(worker: &Worker, lane: Arc<Lane>, entries: Vec<Entry>, taken: Instant) -> Ready {
    let mut settlement = Settlement::new(taken, entries.len());
    let ids = entries.iter().map(|entry| entry.id).collect();
    let folded = decode_and_plan(worker, &lane, entries, &mut settlement);
    Ready { lane, ids, folded, settlement }
}

/// Distinct events in the order of their first entries, and for each all its entries: they end as one.
struct Folded {
    plans: Vec<Planned>,
    copies: Vec<Copies>,
}

/// The entries of one event.
struct Copies {
    first: Envelope,
    /// Practically always none.
    others: Vec<Envelope>,
}

impl Copies {
    fn iter(&self) -> impl Iterator<Item = &Envelope> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// Sorts out what can be told without the database.
fn decode_and_plan(worker: &Worker, lane: &Lane, entries: Vec<Entry>, settlement: &mut Settlement) -> Folded {
    let most = entries.len();
    let mut folded = Folded { plans: Vec::with_capacity(most), copies: Vec::with_capacity(most) };
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(most);
    let now = worker.now();
    for entry in entries {
        let id = entry.id;
        match decode(entry) {
            Ok(envelope) => match seen.entry(envelope.event_id.clone()) {
                // Copies end as one only where they say the same.
                Slot::Occupied(first) if folded.plans[*first.get()].edited != envelope.edited => {
                    let next = Next::after_its_twin(&worker.policy, envelope.attempt, &mut rand::rng());
                    settlement.add(lane, [&envelope], &next, None, None);
                }
                Slot::Occupied(first) => folded.copies[*first.get()].others.push(envelope),
                Slot::Vacant(slot) => match effects::plan(&lane.platform, &envelope) {
                    Ok(plan) => {
                        slot.insert(folded.plans.len());
                        folded.plans.push(plan);
                        folded.copies.push(Copies { first: envelope, others: Vec::new() });
                    }
                    Err(invalid) => {
                        let moment = Moment::at(worker);
                        let verdict = Verdict::Invalid(invalid.to_string());
                        let next = decide(&worker.policy, &envelope, verdict, moment, &mut rand::rng());
                        settlement.add(lane, [&envelope], &next, None, None);
                    }
                },
            },
            Err(Undecodable::Gone) => settlement.vanished(id),
            Err(Undecodable::UnsupportedVersion { version, received_at, attempt, .. }) => {
                let since = received_at.unwrap_or_else(|| i64::try_from(id.ms).unwrap_or(now));
                let next = Next::unknown_version(&worker.policy, version, attempt, since, now);
                settlement.add_raw(id, attempt, &next);
            }
            Err(reason) => settlement.add_raw(id, 1, &Next::undecodable(&reason)),
        }
    }
    folded
}
