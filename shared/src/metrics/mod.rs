//! Defines all metrics, as typed functions.
//!
//! # Guarantees
//!
//! - Label values come from closed sets, so no sender can increase the number of series. `platform`
//!   is a [`PlatformName`](crate::platform::PlatformName) or `unknown`.
//! - Each struct registers its series at 0, so rates and alerts work from the first scrape
//!   (`series_exist_at_zero_from_the_start`). [`COLUMN_WARNINGS`] is the exception: hundreds of
//!   series per platform would stay at 0, so each one begins with its first count.
//!
//! # Design
//!
//! The structs keep their handles, so recording is an atomic addition without a lookup.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod delivery;
mod dependencies;
mod labels;
mod platform;
mod retention;
pub mod table;
#[cfg(test)]
mod tests;
mod waiters;

pub use delivery::{DeliveryMetrics, DeliveryOutcome, ParkedMetrics};
pub use dependencies::{DatabaseMetrics, DependencyMetrics, RegistrationMetrics};
pub use labels::{Action, EventOutcome, RequestOutcome};
pub use platform::{IngressMetrics, QueueMetrics, WorkerMetrics};
pub use retention::{LedgerMetrics, RetentionMetrics};
pub use waiters::WaiterMetrics;

/// Webhook requests, by outcome.
pub const REQUESTS: &str = "webhook_requests_total";
/// Time from the first byte of a request to its response.
pub const REQUEST_DURATION: &str = "webhook_request_duration_seconds";
/// Time that a request waits for its batch and for Redis.
pub const ENQUEUE_DURATION: &str = "webhook_enqueue_duration_seconds";
/// Executions of events, by outcome.
pub const EVENTS: &str = "webhook_events_total";
/// Applied events, by action.
pub const SESSION_UPDATES: &str = "webhook_session_updates_total";
/// Columns that applied events did not set as sent, by reason.
pub const COLUMN_WARNINGS: &str = "webhook_column_warnings_total";
/// Time from reading an event to settling it.
pub const PROCESSING_DURATION: &str = "webhook_processing_duration_seconds";
/// Time from arrival at ingress to settlement.
pub const END_TO_END_DURATION: &str = "webhook_end_to_end_duration_seconds";
/// Events that no worker has read yet.
pub const BACKLOG: &str = "webhook_backlog";
/// Events that a worker has read but not settled.
pub const PENDING: &str = "webhook_pending";
/// Events in the retry set.
pub const RETRYING: &str = "webhook_retrying";
/// Dead letters.
pub const DEAD_LETTERS: &str = "webhook_dead_letters";
/// Age of the oldest unfinished event that is ready to be processed.
pub const OLDEST_AGE: &str = "webhook_oldest_age_seconds";
/// 1 while the platform's dead letters are at their limit.
pub const DEAD_LETTERS_FULL: &str = "webhook_dead_letters_full";
/// 1 while the platform's stream cannot be read, and waiting does not help.
pub const STREAM_BROKEN: &str = "webhook_stream_broken";
/// Events that were in no queue and were requeued.
pub const ORPHANS: &str = "webhook_orphans_total";
/// Events with an unreadable time.
pub const UNREADABLE_TIMES: &str = "webhook_unreadable_times_total";
/// Events whose time is too far ahead of arrival. The time of arrival counts instead.
pub const FUTURE_TIMES: &str = "webhook_future_times_total";
/// Requests that wait for the result of their event.
pub const WAITERS: &str = "webhook_waiters";
/// Dead letters that were archived and removed.
pub const DEAD_LETTERS_EXPIRED: &str = "webhook_dead_letters_expired_total";
/// Dead letters past their retention that stay because no archive is configured.
pub const DEAD_LETTERS_OVERDUE: &str = "webhook_dead_letters_overdue";
/// 1 while the archive of dead letters cannot be written.
pub const RETENTION_FAILING: &str = "webhook_retention_failing";
/// Ledger rows that were deleted.
pub const LEDGER_EXPIRED: &str = "webhook_ledger_rows_expired_total";
/// Delivery attempts, by outcome.
pub const DELIVERIES: &str = "webhook_deliveries_total";
/// Time from a delivery's request to its response.
pub const DELIVERY_DURATION: &str = "webhook_delivery_duration_seconds";
/// 1 while a destination's circuit is open, so that only probes are sent.
pub const CIRCUIT_OPEN: &str = "webhook_destination_circuit_open";
/// Deliveries that wait for a URL that is not configured.
pub const PARKED_DELIVERIES: &str = "webhook_parked_deliveries";
/// 1 while Redis answers and accepts writes.
pub const REDIS_UP: &str = "webhook_redis_up";
/// 1 while the database commits.
pub const DATABASE_UP: &str = "webhook_database_up";
/// 1 while Redis is known to keep confirmed writes (AOF always, noeviction).
pub const REDIS_DURABLE: &str = "webhook_redis_durable";
/// Redis's clock minus this host's.
pub const CLOCK_SKEW: &str = "webhook_clock_skew_seconds";
/// 1 after Redis was found emptied.
pub const DATA_LOST: &str = "webhook_data_lost";
/// Platforms with unfinished events that have no definition in this worker.
pub const UNHANDLED_PLATFORMS: &str = "webhook_unhandled_platforms";
/// Size of SQLite's write-ahead log; 0 with PostgreSQL.
pub const SQLITE_WAL_BYTES: &str = "webhook_sqlite_wal_bytes";
/// Trace spans that the collector did not accept.
pub const SPANS_DROPPED: &str = "webhook_trace_spans_dropped_total";
/// Registrations that this process cannot use in full.
pub const UNUSABLE_REGISTRATIONS: &str = "webhook_unusable_registrations";

/// Bucket bounds of request times in seconds: from a batched write to a lost connection.
const REQUEST_BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// Bucket bounds of end-to-end times in seconds: from a millisecond to a day in the queue.
const END_TO_END_BUCKETS: &[f64] = &[
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    1800.0, 7200.0, 86_400.0,
];
/// Interval at which recorded samples are folded into buckets. They use memory until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);

/// Installs the process's metrics recorder. Call it once.
///
/// Without [`spawn_upkeep`], each recorded sample adds to its memory.
///
/// # Errors
/// A recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    table::describe();
    Ok(handle)
}

/// Folds samples into buckets and collects the `process_…` metrics, until `stop`.
pub fn spawn_upkeep(handle: PrometheusHandle, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let process = metrics_process::Collector::default();
        process.describe();
        process.collect();
        while stop.run_until_cancelled(tokio::time::sleep(UPKEEP_INTERVAL)).await.is_some() {
            handle.run_upkeep();
            process.collect();
        }
    })
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(END_TO_END_DURATION.to_owned()), END_TO_END_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), REQUEST_BUCKETS)
}

/// Counts trace spans that the collector did not accept.
pub fn spans_dropped(spans: usize) {
    metrics::counter!(SPANS_DROPPED).increment(u64::try_from(spans).unwrap_or(u64::MAX));
}

const fn bool_value(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

/// Converts a count to a gauge value. Counts stay below 2^32, so it is exact.
fn gauge_value(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
