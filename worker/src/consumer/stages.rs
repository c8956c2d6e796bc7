//! What goes on beside the transaction of a batch: the settling of the one before, and, while there is a backlog, the
//! planning of the one after. So Redis, the database and this process work at the same time.
//!
//! Guarantee: batches pass each stage one at a time and in their order. A panic in any of them is that of the consume loop.

use std::sync::Arc;

use tokio::task::{JoinHandle, JoinSet};

use super::settle::{self, Settlement};
use super::turns::Turns;
use super::{Interrupted, Ready, prepare};
use crate::worker::{Batch, Lane, Worker};

/// The batch after, being planned.
#[derive(Default)]
pub(super) struct Ahead(Option<JoinHandle<Ready>>);

impl Ahead {
    /// Begins with the next batch if it is as large as it can get: what is taken now can grow no more.
    pub(super) fn begin(&mut self, worker: &Arc<Worker>, turns: &mut Turns) {
        if let Some(Batch { lane, entries, taken, .. }) = turns.full() {
            let worker = Arc::clone(worker);
            self.0 = Some(tokio::spawn(async move { prepare(&worker, lane, entries, taken) }));
        }
    }

    /// The batch that was begun with, if any.
    pub(super) async fn take(&mut self) -> Option<Result<Ready, Interrupted>> {
        let planning = self.0.take()?;
        Some(match planning.await {
            Ok(ready) => Ok(ready),
            Err(ended) => Err(resume(ended)),
        })
    }
}

/// The settling of the batch before. At most one.
#[derive(Default)]
pub(super) struct Behind(JoinSet<Result<(), Interrupted>>);

impl Behind {
    /// Begins to settle.
    pub(super) fn settle(&mut self, worker: &Arc<Worker>, lane: Arc<Lane>, settlement: Settlement) {
        let worker = Arc::clone(worker);
        self.0.spawn(async move { settle::run(&worker, &lane, settlement).await });
    }

    /// Waits until it is through; if there is nothing to wait for, for ever.
    pub(super) async fn next(&mut self) -> Result<(), Interrupted> {
        match self.0.join_next().await {
            Some(Ok(settled)) => settled,
            Some(Err(ended)) => Err(resume(ended)),
            None => std::future::pending().await,
        }
    }

    /// Waits until it is through, if there is anything.
    pub(super) async fn finish(&mut self) -> Result<(), Interrupted> {
        while !self.0.is_empty() {
            self.next().await?;
        }
        Ok(())
    }
}

/// Goes on with another task's panic. One that did not panic was cut short with the runtime.
fn resume(ended: tokio::task::JoinError) -> Interrupted {
    match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Interrupted,
    }
}
