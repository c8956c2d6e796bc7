//! The consume–settle loop: read → decode → plan → one transaction → settle, each stage with another batch ([`stages`]).
//!
//! Guarantee: an entry is acked only by [`settle`], and only after its transaction has committed, it was scheduled
//! again, or it became a dead letter, each in one script. A fault of one event never fails another: undecodable and
//! invalid ones never reach the transaction, a refused one is found by halving the batch, and one that may end the
//! process runs alone. An outage of the database or of Redis holds the loop; it costs no attempt and loses nothing.

pub mod claimer;
mod execute;
pub mod inflight;
pub mod outcome;
pub mod reader;
mod settle;
mod spans;
mod stages;
pub mod suspects;
mod turns;

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::time::Instant;

use shared::event::{Envelope, StreamId};
use shared::queue::{Entry, Forward, SettleOutcome, Undecodable, decode};
use shared::trace::trace_id;
use tokio::sync::mpsc;

use crate::effects::{self, EventResult, Planned};
use crate::worker::{Batch, Lane, Worker};
pub use execute::chain;
use outcome::{Moment, Next, Verdict, decide};
use settle::Settlement;
use stages::{Ahead, Behind};
use turns::Turns;

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
    let mut turns = Turns::new(batches);
    let (mut ahead, mut behind) = (Ahead::default(), Behind::default());
    loop {
        let ready = match ahead.take().await {
            Some(planned) => {
                let ready = planned?;
                if ready.lane.is_paused() {
                    claimer::put_back(worker, &ready.lane, ready.ids).await;
                    continue;
                }
                ready
            }
            None => {
                let next = tokio::select! {
                    settled = behind.next() => {
                        settled?;
                        continue;
                    }
                    next = turns.next() => next,
                };
                let Some(Batch { lane, entries, suspect, taken }) = next else { return behind.finish().await };
                if lane.is_paused() {
                    claimer::put_back(worker, &lane, entries.iter().map(|entry| entry.id).collect()).await;
                    continue;
                }
                if suspect {
                    // What ends the process is to end nothing but itself.
                    behind.finish().await?;
                    suspects::consume_alone(worker, &lane, entries, taken).await?;
                    continue;
                }
                prepare(worker, lane, entries, taken)
            }
        };
        ahead.begin(worker, &mut turns);
        let (lane, settlement) = transact(worker, ready).await?;
        behind.finish().await?;
        behind.settle(worker, lane, settlement);
    }
}

/// Takes entries of one platform to their end.
async fn consume(
    worker: &Worker,
    lane: &Arc<Lane>,
    entries: Vec<Entry>,
    taken: Instant,
) -> Result<(), Interrupted> {
    let ready = prepare(worker, Arc::clone(lane), entries, taken);
    let (lane, settlement) = transact(worker, ready).await?;
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

fn prepare(worker: &Worker, lane: Arc<Lane>, entries: Vec<Entry>, taken: Instant) -> Ready {
    let mut settlement = Settlement::new(taken);
    let ids = entries.iter().map(|entry| entry.id).collect();
    let folded = decode_and_plan(worker, &lane, entries, &mut settlement);
    Ready { lane, ids, folded, settlement }
}

/// Takes a batch through its transaction. What is then to be done with each entry is decided, not done.
async fn transact(worker: &Worker, ready: Ready) -> Result<(Arc<Lane>, Settlement), Interrupted> {
    let Ready { lane, folded, mut settlement, .. } = ready;
    let mut verdicts = execute::run(worker, &lane, &folded.plans).await?;
    if verdicts.iter().any(Verdict::is_missing_session) {
        // An announcement that settles between the look for the session and the look for announcements is seen by the
        // second look for the session.
        let moment = execute::moment_of_missing(worker).await;
        execute::look_again(worker, &lane, &folded.plans, &mut verdicts).await?;
        conclude(worker, &lane, &folded, verdicts, moment, &mut settlement);
    } else {
        conclude(worker, &lane, &folded, verdicts, Moment::at(worker), &mut settlement);
    }
    Ok((lane, settlement))
}

/// Decides about every event of a batch.
fn conclude(
    worker: &Worker,
    lane: &Lane,
    folded: &Folded,
    verdicts: Vec<Verdict>,
    moment: Moment,
    settlement: &mut Settlement,
) {
    for ((plan, copies), verdict) in folded.plans.iter().zip(&folded.copies).zip(verdicts) {
        execute::log(lane, plan, trace_id(copies.first().and_then(|copy| copy.traceparent.as_deref())), &verdict);
        settlement.count_result(lane, &verdict);
        if let Some(first) = copies.first() {
            let awaited = copies.iter().any(|copy| copy.reply_to.is_some());
            let results = if awaited { verdict.result().and_then(EventResult::to_results) } else { None };
            let forward = forward(worker, lane, first, &verdict);
            let next = decide(&worker.policy, first, verdict, moment, &mut rand::rng());
            if let Next::Settle(SettleOutcome::Duplicate) = next {
                // The ledger has the event by another entry. One of these copies may be that one, and what remains to be
                // done for it is its own: it comes again by itself.
                let (twins, others): (Vec<Envelope>, Vec<Envelope>) =
                    copies.iter().cloned().partition(|copy| copy.origin == first.origin);
                settlement.add(lane, &twins, &next, results.as_deref(), None);
                for copy in others {
                    let again = Next::after_its_twin(&worker.policy, copy.attempt, &mut rand::rng());
                    settlement.add(lane, &[copy], &again, None, None);
                }
            } else {
                settlement.add(lane, copies, &next, results.as_deref(), forward);
            }
        }
    }
}

/// What goes to destinations, if any wants it and the event has taken effect.
fn forward(worker: &Worker, lane: &Lane, event: &Envelope, verdict: &Verdict) -> Option<Forward> {
    let result = verdict.result()?;
    let destinations = worker.forwarding.wanted(lane.name(), &event.event_type)?;
    Some(Forward { destinations, result: result.to_json(), traceparent: None })
}

/// Distinct events in the order of their first entries, and for each all its entries: they end as one.
#[derive(Default)]
struct Folded {
    plans: Vec<Planned>,
    copies: Vec<Vec<Envelope>>,
}

/// Sorts out what can be told without the database.
fn decode_and_plan(worker: &Worker, lane: &Lane, entries: Vec<Entry>, settlement: &mut Settlement) -> Folded {
    let mut folded = Folded::default();
    let mut seen: HashMap<String, usize> = HashMap::with_capacity(entries.len());
    let now = worker.now();
    for entry in entries {
        let id = entry.id;
        match decode(entry) {
            Ok(envelope) => match seen.entry(envelope.event_id.clone()) {
                // Copies end as one only where they say the same.
                Slot::Occupied(first) if folded.plans[*first.get()].edited != envelope.edited => {
                    let next = Next::after_its_twin(&worker.policy, envelope.attempt, &mut rand::rng());
                    settlement.add(lane, &[envelope], &next, None, None);
                }
                Slot::Occupied(first) => folded.copies[*first.get()].push(envelope),
                Slot::Vacant(slot) => match effects::plan(&lane.platform, &envelope) {
                    Ok(plan) => {
                        slot.insert(folded.plans.len());
                        folded.plans.push(plan);
                        folded.copies.push(vec![envelope]);
                    }
                    Err(invalid) => {
                        let moment = Moment::at(worker);
                        let verdict = Verdict::Invalid(invalid.to_string());
                        let next = decide(&worker.policy, &envelope, verdict, moment, &mut rand::rng());
                        settlement.add(lane, &[envelope], &next, None, None);
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
