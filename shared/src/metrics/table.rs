//! All metrics in one table: kind, labels and help of each.
//!
//! The recorder takes their help texts from it, and `docs/reference/metrics.md` is generated from
//! it.
//!
//! # Guarantees
//!
//! - Every series that a process registers is here, with its kind and labels
//!   (`table_lists_every_series_with_kind_and_labels`).

use metrics::{describe_counter, describe_gauge, describe_histogram};

use self::MetricGroup::{Dependencies, Destinations, Ingress, Queues, Retention, Worker};
use self::MetricKind::{Counter, Gauge, Histogram};

/// Kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only increases, from 0 at the start of the process.
    Counter,
    /// Takes any value.
    Gauge,
    /// Counts samples in buckets.
    Histogram,
}

impl MetricKind {
    /// Name of the kind in the Prometheus format.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Heading that a metric is documented under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricGroup {
    /// Metrics of ingress.
    Ingress,
    /// Metrics of workers.
    Worker,
    /// Depth of queues, which every worker reports.
    Queues,
    /// State of dependencies.
    Dependencies,
    /// Deliveries to destinations.
    Destinations,
    /// Removal of old data.
    Retention,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: MetricKind,
    /// Heading that it is documented under.
    pub group: MetricGroup,
    /// Labels.
    pub labels: &'static [&'static str],
    /// Meaning, without a full stop.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: MetricKind,
    group: MetricGroup,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, group, labels, help }
}

const PLATFORM: &[&str] = &["platform"];
const DESTINATION: &[&str] = &["destination"];
const NONE: &[&str] = &[];

/// All metrics, in the order of the documentation.
pub const METRICS: &[Metric] = &[
    metric(
        super::REQUESTS,
        Counter,
        Ingress,
        &["platform", "outcome"],
        "Webhook requests by outcome",
    ),
    metric(
        super::REQUEST_DURATION,
        Histogram,
        Ingress,
        PLATFORM,
        "Time from the first byte of a webhook request to its response",
    ),
    metric(
        super::ENQUEUE_DURATION,
        Histogram,
        Ingress,
        PLATFORM,
        "Time that a request waits for its batch and for Redis",
    ),
    metric(
        super::UNREADABLE_TIMES,
        Counter,
        Ingress,
        PLATFORM,
        "Verified events with an unreadable time",
    ),
    metric(
        super::FUTURE_TIMES,
        Counter,
        Ingress,
        PLATFORM,
        "Verified events whose time is too far ahead of their arrival",
    ),
    metric(
        super::WAITERS,
        Gauge,
        Ingress,
        NONE,
        "Requests that wait for the result of their event",
    ),
    metric(
        super::EVENTS,
        Counter,
        Worker,
        &["platform", "outcome"],
        "Executions of events by outcome",
    ),
    metric(
        super::SESSION_UPDATES,
        Counter,
        Worker,
        &["platform", "action"],
        "Applied events by action",
    ),
    metric(
        super::COLUMN_WARNINGS,
        Counter,
        Worker,
        &["platform", "column", "reason"],
        "Columns that applied events did not set as sent",
    ),
    metric(
        super::PROCESSING_DURATION,
        Histogram,
        Worker,
        PLATFORM,
        "Time from reading an event to settling it",
    ),
    metric(
        super::END_TO_END_DURATION,
        Histogram,
        Worker,
        PLATFORM,
        "Time from arrival at ingress to settlement",
    ),
    metric(
        super::ORPHANS,
        Counter,
        Worker,
        PLATFORM,
        "Events that were in no queue and were requeued",
    ),
    metric(super::DATABASE_UP, Gauge, Worker, NONE, "1 while the database commits"),
    metric(
        super::UNHANDLED_PLATFORMS,
        Gauge,
        Worker,
        NONE,
        "Platforms with unfinished events but no definition",
    ),
    metric(
        super::SQLITE_WAL_BYTES,
        Gauge,
        Worker,
        NONE,
        "Size of SQLite's write-ahead log; 0 with PostgreSQL",
    ),
    metric(super::BACKLOG, Gauge, Queues, PLATFORM, "Events that no worker has read yet"),
    metric(
        super::PENDING,
        Gauge,
        Queues,
        PLATFORM,
        "Events that a worker has read but not settled",
    ),
    metric(super::RETRYING, Gauge, Queues, PLATFORM, "Events waiting for a retry"),
    metric(super::DEAD_LETTERS, Gauge, Queues, PLATFORM, "Dead letters"),
    metric(
        super::OLDEST_AGE,
        Gauge,
        Queues,
        PLATFORM,
        "Age of the oldest unfinished event that is ready to be processed",
    ),
    metric(
        super::DEAD_LETTERS_FULL,
        Gauge,
        Queues,
        PLATFORM,
        "1 while the dead letters are at their limit",
    ),
    metric(
        super::STREAM_BROKEN,
        Gauge,
        Queues,
        PLATFORM,
        "1 while the stream cannot be read, and waiting does not help",
    ),
    metric(super::REDIS_UP, Gauge, Dependencies, NONE, "1 while Redis answers and takes writes"),
    metric(
        super::REDIS_DURABLE,
        Gauge,
        Dependencies,
        NONE,
        "1 while Redis is known to keep confirmed writes",
    ),
    metric(super::CLOCK_SKEW, Gauge, Dependencies, NONE, "Redis's clock minus this host's"),
    metric(super::DATA_LOST, Gauge, Dependencies, NONE, "1 after Redis was found emptied"),
    metric(
        super::SPANS_DROPPED,
        Counter,
        Dependencies,
        NONE,
        "Trace spans that the collector did not accept",
    ),
    metric(
        super::UNUSABLE_REGISTRATIONS,
        Gauge,
        Dependencies,
        NONE,
        "Registrations that this process cannot use in full",
    ),
    metric(
        super::DELIVERIES,
        Counter,
        Destinations,
        &["destination", "outcome"],
        "Delivery attempts by outcome",
    ),
    metric(
        super::DELIVERY_DURATION,
        Histogram,
        Destinations,
        DESTINATION,
        "Time from the request of a delivery to its response",
    ),
    metric(
        super::CIRCUIT_OPEN,
        Gauge,
        Destinations,
        DESTINATION,
        "1 while the circuit is open, so that only probes are sent",
    ),
    metric(
        super::PARKED_DELIVERIES,
        Gauge,
        Destinations,
        NONE,
        "Deliveries that wait for a URL that is not configured",
    ),
    metric(
        super::DEAD_LETTERS_EXPIRED,
        Counter,
        Retention,
        PLATFORM,
        "Dead letters that were archived and removed",
    ),
    metric(
        super::DEAD_LETTERS_OVERDUE,
        Gauge,
        Retention,
        PLATFORM,
        "Dead letters past their retention that stay because no archive is configured",
    ),
    metric(
        super::RETENTION_FAILING,
        Gauge,
        Retention,
        PLATFORM,
        "1 while the archive of dead letters cannot be written",
    ),
    metric(super::LEDGER_EXPIRED, Counter, Retention, NONE, "Ledger rows that were deleted"),
];

/// Registers the help text of every metric.
pub(super) fn describe() {
    for one in METRICS {
        match one.kind {
            Counter => describe_counter!(one.name, one.help),
            Gauge => describe_gauge!(one.name, one.help),
            Histogram => describe_histogram!(one.name, one.help),
        }
    }
}
