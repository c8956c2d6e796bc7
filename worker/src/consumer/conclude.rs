//! From what the database answered to what is to be done with each entry. Nothing is done here, so it costs no transaction
//! any time: it goes on beside the next one.
//!
//! Guarantee: every entry of the batch gets exactly one transition, and all copies of an event end as one.

use std::sync::Arc;

use shared::event::Envelope;
use shared::queue::{Forward, SettleOutcome};
use shared::trace::trace_id;

use super::outcome::{Moment, Next, Verdict, decide};
use super::settle::Settlement;
use super::{Interrupted, Ready, execute, warned};
use crate::effects::EventResult;
use crate::worker::{Lane, Worker};

/// A batch behind its transaction.
pub(super) struct Executed {
    ready: Ready,
    /// One for each planned event.
    verdicts: Vec<Verdict>,
    moment: Moment,
}

impl Executed {
    /// Of a batch whose events miss no session.
    pub(super) fn now(worker: &Worker, ready: Ready, verdicts: Vec<Verdict>) -> Self {
        Self { ready, verdicts, moment: Moment::at(worker) }
    }

    /// Looks again for sessions that were missing.
    pub(super) async fn after_second_look(
        worker: &Worker,
        ready: Ready,
        mut verdicts: Vec<Verdict>,
    ) -> Result<Self, Interrupted> {
        if !verdicts.iter().any(Verdict::is_missing_session) {
            return Ok(Self::now(worker, ready, verdicts));
        }
        // An announcement that settles between the look for the session and the look for announcements is seen by the
        // second look for the session.
        let moment = execute::moment_of_missing(worker).await;
        execute::look_again(worker, &ready.lane, &ready.folded.plans, &mut verdicts).await?;
        Ok(Self { ready, verdicts, moment })
    }

    /// Decides about every event.
    pub(super) fn conclude(self, worker: &Worker) -> (Arc<Lane>, Settlement) {
        let Self { ready: Ready { lane, folded, mut settlement, .. }, verdicts, moment } = self;
        for ((plan, copies), verdict) in folded.plans.iter().zip(&folded.copies).zip(verdicts) {
            let traced = trace_id(copies.first.traceparent.as_deref());
            execute::log(&lane, plan, traced, &verdict);
            warned::log(&lane, plan, traced, &verdict);
            settlement.count_result(&lane, &verdict);
            let first = &copies.first;
            let awaited = copies.iter().any(|copy| copy.reply_to.is_some());
            let results = if awaited { verdict.result().and_then(EventResult::to_results) } else { None };
            let forward = forward(worker, &lane, first, &verdict);
            let next = decide(&worker.policy, first, verdict, moment, &mut rand::rng());
            if let Next::Settle(SettleOutcome::Duplicate) = next {
                // The ledger has the event by another entry. One of these copies may be that one, and what remains to
                // be done for it is its own: it comes again by itself.
                let (twins, others): (Vec<&Envelope>, Vec<&Envelope>) =
                    copies.iter().partition(|copy| copy.origin == first.origin);
                settlement.add(&lane, twins, &next, results.as_deref(), None);
                for copy in others {
                    let again = Next::after_its_twin(&worker.policy, copy.attempt, &mut rand::rng());
                    settlement.add(&lane, [copy], &again, None, None);
                }
            } else {
                settlement.add(&lane, copies.iter(), &next, results.as_deref(), forward);
            }
        }
        (lane, settlement)
    }
}

/// What goes to destinations, if any wants it and the event has taken effect.
fn forward(worker: &Worker, lane: &Lane, event: &Envelope, verdict: &Verdict) -> Option<Forward> {
    let result = verdict.result()?;
    let destinations = worker.forwarding.wanted(lane.name(), &event.event_type)?;
    Some(Forward { destinations, result: result.to_json(), traceparent: None })
}
