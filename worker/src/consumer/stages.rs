//! What goes on beside the transaction of a turn: the concluding and settling of the one before, and, while there is a
//! backlog, the planning of the one after. So Redis, the database and this process work at the same time.
//!
//! Guarantee: turns pass each stage one at a time and in their order; the batches of one, which are of different lanes, are
//! settled all at once, so that they share Redis's sync. A panic in any of them is that of the consume loop.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::task::{JoinHandle, JoinSet};

use super::conclude::ExecutedBatch;
use super::scheduler::BatchScheduler;
use super::{ConsumerInterruptedError, PlannedBatch, prepare_all, settle};
use crate::context::WorkerContext;

/// The turn after, being planned.
#[derive(Default)]
pub(super) struct NextBatchPlanner(Option<JoinHandle<Vec<PlannedBatch>>>);

impl NextBatchPlanner {
    /// Begins with the next turn if it is as large as it can get: what is taken now can grow no more.
    pub(super) fn begin(&mut self, worker: &Arc<WorkerContext>, scheduler: &mut BatchScheduler) {
        if let Some(batches) = scheduler.take_full() {
            let worker = Arc::clone(worker);
            self.0 = Some(tokio::spawn(async move { prepare_all(&worker, batches) }));
        }
    }

    /// The turn that was begun with, if any.
    pub(super) async fn take(
        &mut self,
    ) -> Option<Result<Vec<PlannedBatch>, ConsumerInterruptedError>> {
        let planning = self.0.take()?;
        Some(match planning.await {
            Ok(ready) => Ok(ready),
            Err(ended) => Err(resume(ended)),
        })
    }
}

/// The settling of the turn before. At most one.
#[derive(Default)]
pub(super) struct BackgroundSettler(JoinSet<Result<(), ConsumerInterruptedError>>);

impl BackgroundSettler {
    /// Begins to settle, once what came before is through.
    pub(super) async fn settle(
        &mut self,
        worker: &Arc<WorkerContext>,
        turn: Vec<ExecutedBatch>,
    ) -> Result<(), ConsumerInterruptedError> {
        if turn.is_empty() {
            return Ok(());
        }
        self.finish().await?;
        let worker = Arc::clone(worker);
        self.0.spawn(async move {
            let concluded: Vec<_> =
                turn.into_iter().map(|executed| executed.conclude(&worker)).collect();
            let worker = &worker;
            let settle = |(platform_queue, settlement)| async move {
                settle::run(worker, &platform_queue, settlement).await
            };
            // Each comes to its own end, whatever interrupts another.
            join_all(concluded.into_iter().map(settle)).await.into_iter().collect()
        });
        Ok(())
    }

    /// Waits until it is through; if there is nothing to wait for, for ever.
    pub(super) async fn next(&mut self) -> Result<(), ConsumerInterruptedError> {
        match self.0.join_next().await {
            Some(Ok(settled)) => settled,
            Some(Err(ended)) => Err(resume(ended)),
            None => std::future::pending().await,
        }
    }

    /// Waits until it is through, if there is anything.
    pub(super) async fn finish(&mut self) -> Result<(), ConsumerInterruptedError> {
        while !self.0.is_empty() {
            self.next().await?;
        }
        Ok(())
    }
}

/// Goes on with another task's panic. One that did not panic was cut short with the runtime.
fn resume(ended: tokio::task::JoinError) -> ConsumerInterruptedError {
    match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => ConsumerInterruptedError,
    }
}
