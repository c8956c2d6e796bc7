//! From what the database answered to what is to be done with each entry. Nothing is done here, so it costs no transaction
//! any time: it goes on beside the next one.
//!
//! Guarantee: every entry of the batch gets exactly one transition, and all copies of an event end as one.

use std::sync::Arc;

use shared::event::Envelope;
use shared::queue::{OutboxEntry, SettleOutcome};
use shared::trace::trace_id;

use super::outcome::{DecisionContext, EntryTransition, ExecutionVerdict, decide};
use super::settle::Settlement;
use super::{ConsumerInterruptedError, PlannedBatch, column_warnings, execute};
use crate::context::{PlatformQueue, WorkerContext};
use crate::effects::EventResult;

/// A batch behind its transaction.
pub(super) struct ExecutedBatch {
    ready: PlannedBatch,
    /// One for each planned event.
    verdicts: Vec<ExecutionVerdict>,
    context: DecisionContext,
}

impl ExecutedBatch {
    /// Of a batch whose events miss no session.
    pub(super) fn now(
        worker: &WorkerContext,
        ready: PlannedBatch,
        verdicts: Vec<ExecutionVerdict>,
    ) -> Self {
        Self { ready, verdicts, context: DecisionContext::at(worker) }
    }

    /// Looks again for sessions that were missing.
    pub(super) async fn recheck_missing_sessions(
        worker: &WorkerContext,
        ready: PlannedBatch,
        mut verdicts: Vec<ExecutionVerdict>,
    ) -> Result<Self, ConsumerInterruptedError> {
        if !verdicts.iter().any(ExecutionVerdict::is_missing_session) {
            return Ok(Self::now(worker, ready, verdicts));
        }
        // An announcement that settles between the look for the session and the look for announcements is seen by the
        // second look for the session.
        let context = execute::missing_session_context(worker).await;
        execute::retry_missing_sessions(
            worker,
            &ready.platform_queue,
            &ready.deduped.plans,
            &mut verdicts,
        )
        .await?;
        Ok(Self { ready, verdicts, context })
    }

    /// Decides about every event.
    pub(super) fn conclude(self, worker: &WorkerContext) -> (Arc<PlatformQueue>, Settlement) {
        let Self {
            ready: PlannedBatch { platform_queue, deduped, mut settlement, .. },
            verdicts,
            context,
        } = self;
        for ((plan, copies), verdict) in deduped.plans.iter().zip(&deduped.copies).zip(verdicts) {
            let traced = trace_id(copies.first.traceparent.as_deref());
            execute::log(&platform_queue, plan, traced, &verdict);
            column_warnings::log(&platform_queue, plan, traced, &verdict);
            settlement.count_result(&platform_queue, &verdict);
            let first = &copies.first;
            let awaited = copies.iter().any(|copy| copy.reply_to.is_some());
            let results =
                if awaited { verdict.result().and_then(EventResult::to_results) } else { None };
            let forward = forward(worker, &platform_queue, first, &verdict);
            let next = decide(&worker.policy, first, verdict, context, &mut rand::rng());
            if let EntryTransition::Settle(SettleOutcome::Duplicate) = next {
                // The ledger has the event by another entry. One of these copies may be that one, and what remains to
                // be done for it is its own: it comes again by itself.
                let (twins, others): (Vec<&Envelope>, Vec<&Envelope>) =
                    copies.iter().partition(|copy| copy.origin == first.origin);
                settlement.add(&platform_queue, twins, &next, results.as_deref(), None);
                for copy in others {
                    let again = EntryTransition::after_duplicate_entry(
                        &worker.policy,
                        copy.attempt,
                        &mut rand::rng(),
                    );
                    settlement.add(&platform_queue, [copy], &again, None, None);
                }
            } else {
                settlement.add(&platform_queue, copies.iter(), &next, results.as_deref(), forward);
            }
        }
        (platform_queue, settlement)
    }
}

/// What goes to destinations, if any wants it and the event has taken effect.
fn forward(
    worker: &WorkerContext,
    platform_queue: &PlatformQueue,
    event: &Envelope,
    verdict: &ExecutionVerdict,
) -> Option<OutboxEntry> {
    let result = verdict.result()?;
    let destinations = worker.forwarding.wanted(platform_queue.name(), &event.event_type)?;
    Some(OutboxEntry { destinations, result: result.to_json(), traceparent: None })
}
