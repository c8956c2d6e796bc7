//! Every metric, by typed function.
//!
//! Guarantee: label values come from closed sets; `platform` only from a [`PlatformName`](crate::platform::PlatformName) (or the one word `unknown`), so
//! that nobody outside can grow the number of series. Making one of the structs registers all its series at 0: a rate or
//! an alert over them works from the first scrape. Handles are kept: recording is an atomic addition, no lookup.
//!
//! [`COLUMN_WARNINGS`] is the exception: hundreds of series for each platform would stay at 0, so
//! each one begins when it is first counted.

use std::time::Duration;

use metrics::{describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

mod delivery;
mod dependencies;
mod labels;
mod platform;
mod retention;
#[cfg(test)]
mod tests;
mod waiters;

pub use delivery::{DeliveryMetrics, DeliveryOutcome, ParkedMetrics};
pub use dependencies::{DatabaseMetrics, DependencyMetrics, RegistrationMetrics};
pub use labels::{Action, EventOutcome, RequestOutcome};
pub use platform::{IngressMetrics, QueueMetrics, WorkerMetrics};
pub use retention::{LedgerMetrics, RetentionMetrics};
pub use waiters::WaiterMetrics;

/// Webhook requests, by how they were answered.
pub const REQUESTS: &str = "webhook_requests_total";
/// First byte of a request to its answer.
pub const REQUEST_DURATION: &str = "webhook_request_duration_seconds";
/// Waiting for a batch and for Redis.
pub const ENQUEUE_DURATION: &str = "webhook_enqueue_duration_seconds";
/// Executions of events, by how they ended.
pub const EVENTS: &str = "webhook_events_total";
/// Applied events, by what they did.
pub const SESSION_UPDATES: &str = "webhook_session_updates_total";
/// Columns that applied events did not set as sent, by why not.
pub const COLUMN_WARNINGS: &str = "webhook_column_warnings_total";
/// Reading an event to settling it.
pub const PROCESSING_DURATION: &str = "webhook_processing_duration_seconds";
/// Arrival at ingress to settlement.
pub const END_TO_END_DURATION: &str = "webhook_end_to_end_duration_seconds";
/// Events that nobody has taken yet.
pub const BACKLOG: &str = "webhook_backlog";
/// Events taken and not settled.
pub const PENDING: &str = "webhook_pending";
/// Events waiting for a retry.
pub const RETRYING: &str = "webhook_retrying";
/// Dead letters.
pub const DEAD_LETTERS: &str = "webhook_dead_letters";
/// Age of the oldest unfinished event that could be worked on.
pub const OLDEST_AGE: &str = "webhook_oldest_age_seconds";
/// 1 while the dead letters are at their bound.
pub const DEAD_LETTERS_FULL: &str = "webhook_dead_letters_full";
/// 1 while the platform's stream cannot be read for a reason that waiting does not cure.
pub const STREAM_BROKEN: &str = "webhook_stream_broken";
/// Events found outside every place and put back.
pub const ORPHANS: &str = "webhook_orphans_total";
/// Events whose time cannot be read.
pub const UNREADABLE_TIMES: &str = "webhook_unreadable_times_total";
/// Events whose time is too far ahead of their arrival, which counts instead.
pub const FUTURE_TIMES: &str = "webhook_future_times_total";
/// Requests that wait for what becomes of their event.
pub const WAITERS: &str = "webhook_waiters";
/// Dead letters that were archived and removed.
pub const DEAD_LETTERS_EXPIRED: &str = "webhook_dead_letters_expired_total";
/// Dead letters that would be, if there were an archive.
pub const DEAD_LETTERS_OVERDUE: &str = "webhook_dead_letters_overdue";
/// 1 while the archive cannot be written.
pub const RETENTION_FAILING: &str = "webhook_retention_failing";
/// Rows of the ledger that were deleted.
pub const LEDGER_EXPIRED: &str = "webhook_ledger_rows_expired_total";
/// Attempts at deliveries to destinations, by how they ended.
pub const DELIVERIES: &str = "webhook_deliveries_total";
/// A request to a destination to its answer.
pub const DELIVERY_DURATION: &str = "webhook_delivery_duration_seconds";
/// 1 while nothing but probes is sent to a destination.
pub const CIRCUIT_OPEN: &str = "webhook_destination_circuit_open";
/// Deliveries that wait for a URL that is not configured.
pub const PARKED_DELIVERIES: &str = "webhook_parked_deliveries";
/// 1 while Redis answers.
pub const REDIS_UP: &str = "webhook_redis_up";
/// 1 while the database commits.
pub const DATABASE_UP: &str = "webhook_database_up";
/// 1 while Redis is known to keep what it confirmed (AOF always, noeviction).
pub const REDIS_DURABLE: &str = "webhook_redis_durable";
/// Redis's clock minus this host's.
pub const CLOCK_SKEW: &str = "webhook_clock_skew_seconds";
/// 1 from when Redis was found emptied.
pub const DATA_LOST: &str = "webhook_data_lost";
/// Platforms with unfinished events that this worker has no definition for.
pub const UNHANDLED_PLATFORMS: &str = "webhook_unhandled_platforms";
/// Size of SQLite's write-ahead log; 0 with PostgreSQL.
pub const SQLITE_WAL_BYTES: &str = "webhook_sqlite_wal_bytes";
/// Trace spans that the collector did not take.
pub const SPANS_DROPPED: &str = "webhook_trace_spans_dropped_total";
/// Registrations that this process cannot use, or not all of.
pub const UNUSABLE_REGISTRATIONS: &str = "webhook_unusable_registrations";

/// Bounds of an answer's time in seconds: from a batched write to a lost connection.
const REQUEST_BUCKETS: &[f64] = &[
    0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0,
];
/// Bounds of an event's whole way in seconds: from a millisecond to a day in the queue.
const END_TO_END_BUCKETS: &[f64] = &[
    0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
    1800.0, 7200.0, 86_400.0,
];
/// How often recorded samples are folded into buckets; they use memory until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(2);
/// Installs the process's recorder; once per process. Without [`spawn_upkeep`] its memory grows with every sample.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    Ok(handle)
}

/// Folds recorded samples into buckets, and looks at what the process uses (`process_…`), until `stop`.
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

/// Counts trace spans that the collector did not take.
pub fn spans_dropped(spans: usize) {
    metrics::counter!(SPANS_DROPPED).increment(u64::try_from(spans).unwrap_or(u64::MAX));
}

fn describe() {
    describe_counter!(REQUESTS, "Webhook requests by outcome");
    describe_histogram!(REQUEST_DURATION, "First byte of a webhook request to its answer");
    describe_histogram!(ENQUEUE_DURATION, "Waiting for a batch and for Redis");
    describe_counter!(EVENTS, "Executions of events by outcome");
    describe_counter!(SESSION_UPDATES, "Applied events by what they did");
    describe_counter!(COLUMN_WARNINGS, "Columns that applied events did not set as sent");
    describe_histogram!(PROCESSING_DURATION, "Reading an event to settling it");
    describe_histogram!(END_TO_END_DURATION, "Arrival at ingress to settlement");
    describe_counter!(DELIVERIES, "Attempts at deliveries to destinations by outcome");
    describe_histogram!(DELIVERY_DURATION, "A request to a destination to its answer");
    describe_gauge!(CIRCUIT_OPEN, "1 while nothing but probes is sent to a destination");
    describe_gauge!(PARKED_DELIVERIES, "Deliveries that wait for a URL that is not configured");
    describe_gauge!(BACKLOG, "Events that nobody has taken yet");
    describe_gauge!(PENDING, "Events taken and not settled");
    describe_gauge!(RETRYING, "Events waiting for a retry");
    describe_gauge!(DEAD_LETTERS, "Dead letters");
    describe_gauge!(OLDEST_AGE, "Age of the oldest unfinished event that could be worked on");
    describe_gauge!(DEAD_LETTERS_FULL, "1 while the dead letters are at their bound");
    describe_gauge!(
        STREAM_BROKEN,
        "1 while the stream cannot be read for a reason that waiting does not cure"
    );
    describe_counter!(UNREADABLE_TIMES, "Verified events whose time is given and cannot be read");
    describe_counter!(FUTURE_TIMES, "Verified events whose time is too far ahead of their arrival");
    describe_counter!(ORPHANS, "Events found outside every place and put back");
    describe_gauge!(WAITERS, "Requests that wait for what becomes of their event");
    describe_counter!(DEAD_LETTERS_EXPIRED, "Dead letters that were archived and removed");
    describe_gauge!(
        DEAD_LETTERS_OVERDUE,
        "Dead letters past their retention that stay, since there is no archive"
    );
    describe_gauge!(RETENTION_FAILING, "1 while the archive of dead letters cannot be written");
    describe_counter!(SPANS_DROPPED, "Trace spans that the collector did not take");
    describe_counter!(LEDGER_EXPIRED, "Rows of the ledger that expired");
    describe_gauge!(REDIS_UP, "1 while Redis answers and takes writes");
    describe_gauge!(DATABASE_UP, "1 while the database commits");
    describe_gauge!(REDIS_DURABLE, "1 while Redis is known to keep what it confirmed");
    describe_gauge!(CLOCK_SKEW, "Redis's clock minus this host's");
    describe_gauge!(DATA_LOST, "1 from when Redis was found emptied");
    describe_gauge!(UNHANDLED_PLATFORMS, "Platforms with unfinished events and no definition here");
    describe_gauge!(SQLITE_WAL_BYTES, "Size of SQLite's write-ahead log; 0 with PostgreSQL");
    describe_gauge!(
        UNUSABLE_REGISTRATIONS,
        "Registered platforms that cannot be used here, or not all of their secrets"
    );
}

const fn switch(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

/// Gauges are floats: exact up to 2^32, and nothing that is counted here can be larger.
fn count(n: u64) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
