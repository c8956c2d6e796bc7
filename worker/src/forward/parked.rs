//! Reports parked deliveries, whose URL is no longer configured.
//!
//! # Guarantees
//! - Parked deliveries are counted and logged, and this worker sends none of them
//!   (`deliveries_of_a_removed_url_wait_for_it`).
//! - A queue that an operator hands over is sent from within [`CHECK_INTERVAL`]
//!   (`operator_hands_over_parked_deliveries`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shared::metrics::ParkedMetrics;
use shared::outbound::DestinationName;
use shared::queue::CallError;
use tokio::time::{MissedTickBehavior, interval};

use crate::consumer::error_chain;
use crate::context::WorkerContext;

/// Interval between two checks for parked deliveries and for queues that were handed over.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Reports parked deliveries until the worker is stopped. Starts after registrations have been
/// read, since the URLs of registered platforms are configured, too.
pub async fn watch(worker: Arc<WorkerContext>) {
    if worker.stop.run_until_cancelled(worker.platforms.changes().complete()).await.is_none() {
        return;
    }
    let (metrics, mut known) = (ParkedMetrics::default(), BTreeSet::new());
    let mut ticks = interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while worker.stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match count_parked(&worker, &mut known).await {
            Ok(parked) => metrics.parked(parked),
            Err(fault) => {
                tracing::debug!(
                    error = error_chain(&fault),
                    "cannot count parked deliveries; retrying"
                );
            }
        }
    }
}

/// Returns the number of parked deliveries. `known` holds the queues that were logged.
async fn count_parked(
    worker: &WorkerContext,
    known: &mut BTreeSet<DestinationName>,
) -> Result<u64, CallError> {
    let queue = &worker.queue;
    let bindings = worker.forwarding.bind(queue).await?;
    let mut all = 0;
    for name in queue.destination_queues().await? {
        let parked = if bindings.serves(&name) {
            0
        } else {
            queue.waiting(&queue.layout().destination(&name).queue).await?
        };
        all += parked;
        if parked == 0 {
            if known.remove(&name) {
                tracing::info!(queue = %name.queue(), "queue has no parked deliveries any more");
            }
        } else if !known.contains(&name) {
            let host = bindings.urls.get(&name).map_or("", |url| url.host.as_str());
            tracing::error!(queue = %name.queue(), deliveries = parked, host,
                "deliveries wait for a URL that is not configured; they are kept and sent nowhere \
                else");
            known.insert(name);
        }
    }
    Ok(all)
}
