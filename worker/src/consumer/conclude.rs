//! Turns the verdicts of a batch into transitions of its entries.
//!
//! # Guarantees
//! - Each entry of the batch gets exactly one transition. Copies with one origin get the same one
//!   (`duplicate_entries_in_one_batch_take_effect_once`).
//!
//! # Design
//! Nothing here waits for Redis or the database after the second check for missing sessions. So
//! this work runs beside the next transaction.

use std::sync::Arc;

use shared::event::Envelope;
use shared::queue::{OutboxEntry, SettleOutcome};
use shared::trace::trace_id;

use super::outcome::{DecisionContext, EntryTransition, ExecutionVerdict, decide};
use super::settle::Settlement;
use super::{ConsumerInterruptedError, PlannedBatch, column_warnings, execute};
use crate::context::{PlatformQueue, WorkerContext};
use crate::effects::EventResult;

/// A batch whose transaction has ended.
pub(super) struct ExecutedBatch {
    planned: PlannedBatch,
    /// One verdict for each planned event.
    verdicts: Vec<ExecutionVerdict>,
    context: DecisionContext,
}

impl ExecutedBatch {
    /// Wraps a batch in which no session is missing.
    pub(super) fn without_missing_sessions(
        worker: &WorkerContext,
        planned: PlannedBatch,
        verdicts: Vec<ExecutionVerdict>,
    ) -> Self {
        Self { planned, verdicts, context: DecisionContext::at(worker) }
    }

    /// Applies events whose session was missing once more.
    pub(super) async fn recheck_missing_sessions(
        worker: &WorkerContext,
        planned: PlannedBatch,
        mut verdicts: Vec<ExecutionVerdict>,
    ) -> Result<Self, ConsumerInterruptedError> {
        if !verdicts.iter().any(ExecutionVerdict::is_missing_session) {
            return Ok(Self::without_missing_sessions(worker, planned, verdicts));
        }
        // The context is read before the second attempt. An announcement that settles after it was
        // read is found by that attempt.
        let context = execute::missing_session_context(worker).await;
        execute::retry_missing_sessions(
            worker,
            &planned.platform_queue,
            &planned.deduped.plans,
            &mut verdicts,
        )
        .await?;
        Ok(Self { planned, verdicts, context })
    }

    /// Decides the transition of each entry.
    pub(super) fn conclude(self, worker: &WorkerContext) -> (Arc<PlatformQueue>, Settlement) {
        let Self {
            planned: PlannedBatch { platform_queue, deduped, mut settlement, .. },
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
                // The ledger has the event under the origin of another entry, which may be one of
                // these copies. That copy still has to settle in full, so the others are retried.
                let (same_origin, others): (Vec<&Envelope>, Vec<&Envelope>) =
                    copies.iter().partition(|copy| copy.origin == first.origin);
                settlement.add(&platform_queue, same_origin, &next, results.as_deref(), None);
                for copy in others {
                    let retry = EntryTransition::after_duplicate_entry(
                        &worker.policy,
                        copy.attempt,
                        &mut rand::rng(),
                    );
                    settlement.add(&platform_queue, [copy], &retry, None, None);
                }
            } else {
                settlement.add(&platform_queue, copies.iter(), &next, results.as_deref(), forward);
            }
        }
        (platform_queue, settlement)
    }
}

/// Returns what the destinations get, if any of them wants the event and it has taken effect.
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
