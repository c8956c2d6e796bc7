//! Runs two stages beside the current transaction. One settles the batches before it, the other
//! plans the batches after it while there is a backlog. So Redis, the database and this process
//! work at the same time.
//!
//! # Guarantees
//! - Batches pass each stage in their order. Batches of several platforms settle at once, so that
//!   they share a sync of Redis (`shared_transaction_isolates_a_refused_platform`).
//! - A panic in a stage panics the consume loop
//!   (`event_that_kills_workers_is_dead_lettered_as_crash_loop`).

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::{JoinHandle, JoinSet};

use super::conclude::ExecutedBatch;
use super::scheduler::BatchScheduler;
use super::{ConsumerInterruptedError, PlannedBatch, prepare_all, settle};
use crate::context::WorkerContext;

/// Plans the next batches.
#[derive(Default)]
pub(super) struct NextBatchPlanner(Option<JoinHandle<Vec<PlannedBatch>>>);

impl NextBatchPlanner {
    /// Starts to plan the next batches if no further batch could join them.
    pub(super) fn begin(&mut self, worker: &Arc<WorkerContext>, scheduler: &mut BatchScheduler) {
        if let Some(batches) = scheduler.take_full() {
            let worker = Arc::clone(worker);
            self.0 = Some(tokio::spawn(async move { prepare_all(&worker, batches) }));
        }
    }

    /// Returns the batches that were planned, if any.
    pub(super) async fn take(
        &mut self,
    ) -> Option<Result<Vec<PlannedBatch>, ConsumerInterruptedError>> {
        let planning = self.0.take()?;
        Some(match planning.await {
            Ok(planned) => Ok(planned),
            Err(ended) => Err(resume(ended)),
        })
    }
}

/// Settles the previous batches. At most one settlement runs at a time.
#[derive(Default)]
pub(super) struct BackgroundSettler(JoinSet<Result<(), ConsumerInterruptedError>>);

impl BackgroundSettler {
    /// Starts to settle `batches` once the previous settlement has ended.
    pub(super) async fn settle(
        &mut self,
        worker: &Arc<WorkerContext>,
        batches: Vec<ExecutedBatch>,
    ) -> Result<(), ConsumerInterruptedError> {
        if batches.is_empty() {
            return Ok(());
        }
        self.finish().await?;
        let worker = Arc::clone(worker);
        self.0.spawn(async move {
            let concluded: Vec<_> =
                batches.into_iter().map(|executed| executed.conclude(&worker)).collect();
            let worker = &worker;
            let settle = |(platform_queue, settlement)| async move {
                settle::run(worker, &platform_queue, settlement).await
            };
            // Each settlement ends by itself, even if another one is interrupted.
            join_all(concluded.into_iter().map(settle)).await.into_iter().collect()
        });
        Ok(())
    }

    /// Waits until the settlement ends. Waits forever if there is none.
    pub(super) async fn next(&mut self) -> Result<(), ConsumerInterruptedError> {
        match self.0.join_next().await {
            Some(Ok(settled)) => settled,
            Some(Err(ended)) => Err(resume(ended)),
            None => std::future::pending().await,
        }
    }

    /// Waits until the settlement ends, if there is one.
    pub(super) async fn finish(&mut self) -> Result<(), ConsumerInterruptedError> {
        while !self.0.is_empty() {
            self.next().await?;
        }
        Ok(())
    }
}

/// Resumes the panic of a task. A task that did not panic was cancelled with the runtime.
fn resume(ended: tokio::task::JoinError) -> ConsumerInterruptedError {
    match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => ConsumerInterruptedError,
    }
}
