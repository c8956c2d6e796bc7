//! The environment variables of all programs, in one table.
//!
//! Readers take the name, default and bounds of a variable from here, and so do `--help`,
//! `env.local.example` and `docs/reference/configuration.md`.
//!
//! # Guarantees
//!
//! - Each variable that a program reads is in its `--help`, with the default that the program
//!   uses (`help_names_every_variable` of ingress and worker).
//! - The generated files agree with this table (`generated_reference_is_current` in `tests`).
//!
//! Secrets of bundled platforms are not here: their definitions name them.

use crate::queue::ReplicaAck;

use super::TimeUnit;
use super::Topic::{
    Connections, Database, Deduplication, Destinations, General, Limits, Listening, Platforms,
    Processing, Redis, Retention, Traces,
};

/// Program that reads a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// `ingress`.
    Ingress,
    /// `worker`.
    Worker,
    /// `dlq-tool`.
    DlqTool,
}

impl Binary {
    /// Name of the binary.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Worker => "worker",
            Self::DlqTool => "dlq-tool",
        }
    }
}

/// Values that a variable takes, and its default.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Any text of the form that the summary describes.
    Text {
        /// Default, or a description of it.
        default: Option<&'static str>,
    },
    /// `true` or `false`; the default is `false`.
    Flag,
    /// IP address and port to listen on.
    Address {
        /// Default.
        default: &'static str,
    },
    /// One of several words.
    Choice {
        /// The words; the first is the default.
        of: &'static [&'static str],
    },
    /// Whole number.
    Number {
        /// Default; `None` if it depends on the machine.
        default: Option<u64>,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// Number between 0 and 1; the default is 1.
    Fraction,
    /// Duration.
    Duration {
        /// Unit of a bare number, of the default and of the bounds.
        unit: TimeUnit,
        /// Default; `None` for ever.
        default: Option<u64>,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
    /// Size in bytes.
    Size {
        /// Default.
        default: u64,
        /// Least value.
        min: u64,
        /// Greatest value.
        max: u64,
    },
}

/// One environment variable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variable {
    /// Name.
    pub name: &'static str,
    /// Heading that it is documented under.
    pub topic: super::Topic,
    /// Programs that read it.
    pub programs: &'static [Binary],
    /// Values and default.
    pub values: Values,
    /// Meaning, for `--help` and the docs: a phrase without a full stop.
    pub summary: &'static str,
    /// Further sentences for the docs, or nothing.
    pub details: &'static str,
}

const ALL_PROGRAMS: &[Binary] = &[Binary::Ingress, Binary::Worker, Binary::DlqTool];
const SERVERS: &[Binary] = &[Binary::Ingress, Binary::Worker];
const INGRESS: &[Binary] = &[Binary::Ingress];
const WORKER: &[Binary] = &[Binary::Worker];

const fn variable(
    name: &'static str,
    topic: super::Topic,
    programs: &'static [Binary],
    values: Values,
    summary: &'static str,
) -> Variable {
    Variable { name, topic, programs, values, summary, details: "" }
}

impl Variable {
    const fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }
}

const fn number(default: u64, min: u64, max: u64) -> Values {
    Values::Number { default: Some(default), min, max }
}

const fn millis(default: u64, min: u64, max: u64) -> Values {
    Values::Duration { unit: TimeUnit::Milliseconds, default: Some(default), min, max }
}

const fn text(default: &'static str) -> Values {
    Values::Text { default: Some(default) }
}

const NOTHING: Values = Values::Text { default: None };
/// Greatest `MAX_BODY_BYTES`: the length of a field in Redis is bounded too.
pub const LARGEST_BODY: u64 = 64 * 1024 * 1024;
/// Default of `MAX_BODY_BYTES`.
pub const DEFAULT_BODY: u64 = 1024 * 1024;
const DAY_MS: u64 = 24 * 3600 * 1000;
const HOUR_MS: u64 = 3600 * 1000;
/// Greatest retention, in days.
const MAX_DAYS: u64 = 36_500;

/// `INGRESS_BIND`.
pub const INGRESS_BIND: Variable = variable(
    "INGRESS_BIND",
    Listening,
    INGRESS,
    Values::Address { default: "0.0.0.0:8000" },
    "address that receives webhooks",
);
/// `OPS_BIND` of ingress.
pub const INGRESS_OPS_BIND: Variable = variable(
    "OPS_BIND",
    Listening,
    INGRESS,
    Values::Address { default: "0.0.0.0:9100" },
    "address of /metrics, /live and /ready",
);
/// `OPS_BIND` of workers.
pub const WORKER_OPS_BIND: Variable = variable(
    "OPS_BIND",
    Listening,
    WORKER,
    Values::Address { default: "0.0.0.0:9101" },
    "address of /metrics, /live, /ready and the session and event lookups",
);
/// `INGRESS_WORKERS`.
pub const INGRESS_WORKERS: Variable = variable(
    "INGRESS_WORKERS",
    Listening,
    INGRESS,
    Values::Number { default: None, min: 1, max: 512 },
    "HTTP threads; default: one per core",
);
/// `ADMIN_TOKEN`.
pub const ADMIN_TOKEN: Variable = variable(
    "ADMIN_TOKEN",
    Listening,
    SERVERS,
    NOTHING,
    "bearer token of the admin routes; without it they answer 403",
)
.details("It consists of printable ASCII without spaces.");
/// `STATS_PUBLIC`.
pub const STATS_PUBLIC: Variable = variable(
    "STATS_PUBLIC",
    Listening,
    INGRESS,
    Values::Flag,
    "true: the statistics routes need no token",
);
/// `REDIS_URL`.
pub const REDIS_URL: Variable = variable(
    "REDIS_URL",
    Redis,
    ALL_PROGRAMS,
    text("redis://127.0.0.1:6379"),
    "redis://[user:password@]host[:port][/db]; several nodes of a cluster, separated by commas",
);
/// `REDIS_CLUSTER`.
pub const REDIS_CLUSTER: Variable =
    variable("REDIS_CLUSTER", Redis, ALL_PROGRAMS, Values::Flag, "true: Redis Cluster")
        .details("It must match the kind of Redis and the layout of its keys.");
/// `REDIS_WAIT_REPLICAS`.
pub const REDIS_WAIT_REPLICAS: Variable = variable(
    "REDIS_WAIT_REPLICAS",
    Redis,
    INGRESS,
    number(0, 0, 16),
    "replicas that must acknowledge an event before ingress accepts it",
);
/// `REDIS_WAIT_TIMEOUT_MS`.
pub const REDIS_WAIT_TIMEOUT_MS: Variable = variable(
    "REDIS_WAIT_TIMEOUT_MS",
    Redis,
    INGRESS,
    millis(1000, 1, ReplicaAck::MAX_TIMEOUT.as_millis() as u64),
    "time for these acknowledgements; then ingress answers 503",
);
/// `DURABILITY`.
pub const DURABILITY: Variable = variable(
    "DURABILITY",
    Redis,
    SERVERS,
    Values::Choice { of: &["warn", "strict"] },
    "warn: report a Redis that may forget confirmed writes; strict: refuse to work with it",
)
.details(
    "`strict` requires `appendonly yes`, `appendfsync always` and `maxmemory-policy noeviction`.",
);
/// `DATABASE_URL`.
pub const DATABASE_URL: Variable = variable(
    "DATABASE_URL",
    Database,
    WORKER,
    text("sqlite://tributary.db"),
    "sqlite://path or postgres://user:password@host/database",
);
/// `PLATFORMS_FILE`.
pub const PLATFORMS_FILE: Variable = variable(
    "PLATFORMS_FILE",
    Platforms,
    ALL_PROGRAMS,
    NOTHING,
    "TOML file with platforms, changes to bundled ones, and destinations",
)
.details(
    "Ingress needs the secrets of platforms, workers those of destinations. `dlq-tool` derives \
     type and time of an edited replay (`--set`) by these definitions.",
);
/// `SECRETS_KEY`.
pub const SECRETS_KEY: Variable = variable(
    "SECRETS_KEY",
    Platforms,
    SERVERS,
    NOTHING,
    "base64 of 32 bytes; encrypts the secrets of registered platforms in Redis",
)
.details(
    "Several keys are separated by commas: the first encrypts, any decrypts. Without a key no \
     platform can be registered. Workers need it if a registration has a `url`; without it they \
     keep its deliveries. `openssl rand -base64 32` makes one.",
);
/// `ALLOW_PLAINTEXT_SECRETS`.
pub const ALLOW_PLAINTEXT_SECRETS: Variable = variable(
    "ALLOW_PLAINTEXT_SECRETS",
    Platforms,
    SERVERS,
    Values::Flag,
    "true: without a key, registered secrets are stored in Redis as plain text",
);
/// `MAX_BODY_BYTES`.
pub const MAX_BODY_BYTES: Variable = variable(
    "MAX_BODY_BYTES",
    Limits,
    INGRESS,
    Values::Size { default: DEFAULT_BODY, min: 1, max: LARGEST_BODY },
    "largest body of a request, as sent and after decoding",
);
/// `BODY_TIMEOUT_MS`.
pub const BODY_TIMEOUT_MS: Variable = variable(
    "BODY_TIMEOUT_MS",
    Limits,
    INGRESS,
    millis(10_000, 1, 600_000),
    "time for a body to arrive; then ingress answers 408",
);
/// `MAX_IN_FLIGHT_BYTES`.
pub const MAX_IN_FLIGHT_BYTES: Variable = variable(
    "MAX_IN_FLIGHT_BYTES",
    Limits,
    INGRESS,
    Values::Size { default: LARGEST_BODY, min: 1, max: (usize::MAX >> 4) as u64 },
    "bodies of all open requests together; then ingress answers 503",
)
.details("It is at least `MAX_BODY_BYTES`.");
/// `MAX_BACKLOG`.
pub const MAX_BACKLOG: Variable = variable(
    "MAX_BACKLOG",
    Limits,
    &[Binary::Ingress, Binary::DlqTool],
    number(1_000_000, 1, 1_000_000_000),
    "entries in the stream of a platform; then ingress answers 503",
)
.details("A replay of `dlq-tool` waits while a platform's queue holds half of it.");
/// `DLQ_MAX_LEN`.
pub const DLQ_MAX_LEN: Variable = variable(
    "DLQ_MAX_LEN",
    Limits,
    ALL_PROGRAMS,
    number(1_000_000, 1, u32::MAX as u64),
    "dead letters per platform",
)
.details(
    "Beyond it, ingress answers 503 to unusable requests that it would keep. Workers leave failed \
     events in the queue. An import of `dlq-tool` stops. Set it alike for all programs.",
);
/// `MAX_WAITERS`.
pub const MAX_WAITERS: Variable = variable(
    "MAX_WAITERS",
    Limits,
    INGRESS,
    number(10_000, 0, 1_000_000),
    "requests that wait for a result at the same time; further ones get 202",
);
/// `MAX_CONNECTIONS`.
pub const MAX_CONNECTIONS: Variable = variable(
    "MAX_CONNECTIONS",
    Connections,
    INGRESS,
    number(10_000, MIN_CONNECTIONS, 1_000_000),
    "open connections; beyond it the longest idle ones are closed",
)
.details("It is reduced if the limit of open files does not allow it: each connection takes two.");
/// Least `MAX_CONNECTIONS`.
pub const MIN_CONNECTIONS: u64 = 16;
/// `KEEP_ALIVE_MS`.
pub const KEEP_ALIVE_MS: Variable = variable(
    "KEEP_ALIVE_MS",
    Connections,
    INGRESS,
    millis(75_000, 1_000, HOUR_MS),
    "time that a connection stays open without a request",
)
.details(
    "It should be longer than the idle timeout of a load balancer (AWS: 60 s), so that none sends \
     into a connection that is being closed.",
);
/// `DEDUP_TTL_HOURS`.
pub const DEDUP_TTL_HOURS: Variable = variable(
    "DEDUP_TTL_HOURS",
    Deduplication,
    SERVERS,
    Values::Duration { unit: TimeUnit::Hours, default: Some(24), min: 1, max: 24 * 366 },
    "lifetime of dedup markers in Redis",
)
.details("Workers delete no younger ledger row. Set it alike for ingress and workers.");
/// `WORKER_NAME`.
pub const WORKER_NAME: Variable = variable(
    "WORKER_NAME",
    Processing,
    WORKER,
    NOTHING,
    "name in the consumer group; default: host name, to which a slot number is added",
)
.details("It has at most 100 printable ASCII characters without spaces.");
/// `MAX_ATTEMPTS`.
pub const MAX_ATTEMPTS: Variable = variable(
    "MAX_ATTEMPTS",
    Processing,
    WORKER,
    number(5, 1, 100),
    "executions of an event that the database rejects; then it is dead-lettered",
)
.details(
    "All executions of the event count, but `MISSING_SESSION_WAIT_MS` alone bounds the wait for a \
     missing session.",
);
/// `RETRY_BASE_MS`.
pub const RETRY_BASE_MS: Variable = variable(
    "RETRY_BASE_MS",
    Processing,
    WORKER,
    millis(1_000, 1, HOUR_MS),
    "delay before the second attempt; it doubles for each further one, with jitter",
);
/// `RETRY_MAX_MS`.
pub const RETRY_MAX_MS: Variable = variable(
    "RETRY_MAX_MS",
    Processing,
    WORKER,
    millis(30_000, 1, DAY_MS),
    "longest delay between two attempts; at least RETRY_BASE_MS",
);
/// `MISSING_SESSION_WAIT_MS`.
pub const MISSING_SESSION_WAIT_MS: Variable = variable(
    "MISSING_SESSION_WAIT_MS",
    Processing,
    WORKER,
    millis(60_000, 0, DAY_MS),
    "time that an event waits for its session before it is dead-lettered",
);
/// `CLAIM_IDLE_MS`.
pub const CLAIM_IDLE_MS: Variable = variable(
    "CLAIM_IDLE_MS",
    Processing,
    WORKER,
    millis(30_000, 1_000, HOUR_MS),
    "idle time after which another worker claims an entry",
);
/// `DLQ_RETENTION_DAYS`.
pub const DLQ_RETENTION_DAYS: Variable = variable(
    "DLQ_RETENTION_DAYS",
    Retention,
    WORKER,
    Values::Duration { unit: TimeUnit::Days, default: None, min: 1, max: MAX_DAYS },
    "age at which dead letters are written to DLQ_ARCHIVE_DIR and removed",
);
/// `DLQ_ARCHIVE_DIR`.
pub const DLQ_ARCHIVE_DIR: Variable = variable(
    "DLQ_ARCHIVE_DIR",
    Retention,
    WORKER,
    NOTHING,
    "folder of the archive; needs DLQ_RETENTION_DAYS",
)
.details(
    "Without it, or while it is missing, dead letters stay; workers log how many are overdue.",
);
/// `EVENTS_RETENTION_DAYS`.
pub const EVENTS_RETENTION_DAYS: Variable = variable(
    "EVENTS_RETENTION_DAYS",
    Retention,
    WORKER,
    Values::Duration { unit: TimeUnit::Days, default: None, min: 1, max: MAX_DAYS },
    "age at which rows of webhook_events are deleted",
)
.details("Rows that a dead letter needs stay.");
/// `WEBHOOK_URLS`.
pub const WEBHOOK_URLS: Variable = variable(
    "WEBHOOK_URLS",
    Destinations,
    SERVERS,
    NOTHING,
    "destinations of processed events, separated by commas; the n-th is named webhook_<n>",
)
.details("A URL with a blank or a line break inside is refused.");
/// `DISCORD_WEBHOOK_URL`.
pub const DISCORD_WEBHOOK_URL: Variable = variable(
    "DISCORD_WEBHOOK_URL",
    Destinations,
    SERVERS,
    NOTHING,
    "one more destination, named discord",
);
/// `WEBHOOK_EVENTS`.
pub const WEBHOOK_EVENTS: Variable = variable(
    "WEBHOOK_EVENTS",
    Destinations,
    SERVERS,
    text("*"),
    "event types to forward, separated by commas; * stands for any text",
);
/// `WEBHOOK_SECRET_KEY`.
pub const WEBHOOK_SECRET_KEY: Variable = variable(
    "WEBHOOK_SECRET_KEY",
    Destinations,
    SERVERS,
    NOTHING,
    "secret that signs deliveries; without it they are not signed",
)
.details("After `whsec_` it is base64.");
/// `WEBHOOK_SECRET_KEY_PREVIOUS`.
pub const WEBHOOK_SECRET_KEY_PREVIOUS: Variable = variable(
    "WEBHOOK_SECRET_KEY_PREVIOUS",
    Destinations,
    SERVERS,
    NOTHING,
    "secret that WEBHOOK_SECRET_KEY replaced; it signs as well during a rotation",
);
/// `WEBHOOK_SOURCE`.
pub const WEBHOOK_SOURCE: Variable = variable(
    "WEBHOOK_SOURCE",
    Destinations,
    SERVERS,
    text("Tributary"),
    "middle part of header names, as in X-Tributary-Signature",
);
/// `WEBHOOK_HEADERS`.
pub const WEBHOOK_HEADERS: Variable = variable(
    "WEBHOOK_HEADERS",
    Destinations,
    SERVERS,
    NOTHING,
    "further headers: Name:Value,Name:Value",
)
.details("They cannot replace headers that Tributary sets.");
/// `WEBHOOK_TIMEOUT`.
pub const WEBHOOK_TIMEOUT: Variable = variable(
    "WEBHOOK_TIMEOUT",
    Destinations,
    SERVERS,
    millis(10_000, 100, 600_000),
    "time for one delivery attempt",
)
.details("Connecting takes at most 5 s of it.");
/// `WEBHOOK_MAX_RETRIES`.
pub const WEBHOOK_MAX_RETRIES: Variable = variable(
    "WEBHOOK_MAX_RETRIES",
    Destinations,
    SERVERS,
    number(3, 0, 1_000),
    "retries after the first delivery attempt",
);
/// `WEBHOOK_RETRY_DELAY`.
pub const WEBHOOK_RETRY_DELAY: Variable = variable(
    "WEBHOOK_RETRY_DELAY",
    Destinations,
    SERVERS,
    millis(1_000, 1, DAY_MS),
    "delay before the first retry; it doubles for each further one, with jitter",
);
/// `WEBHOOK_MAX_RETRY_DELAY`.
pub const WEBHOOK_MAX_RETRY_DELAY: Variable = variable(
    "WEBHOOK_MAX_RETRY_DELAY",
    Destinations,
    SERVERS,
    millis(30_000, 1, DAY_MS),
    "longest delay between two delivery attempts",
);
/// `WEBHOOK_RATE_LIMIT_MAX`.
pub const WEBHOOK_RATE_LIMIT_MAX: Variable = variable(
    "WEBHOOK_RATE_LIMIT_MAX",
    Destinations,
    SERVERS,
    number(100, 1, 1_000_000),
    "deliveries per destination in one window",
);
/// `WEBHOOK_RATE_LIMIT_WINDOW`.
pub const WEBHOOK_RATE_LIMIT_WINDOW: Variable = variable(
    "WEBHOOK_RATE_LIMIT_WINDOW",
    Destinations,
    SERVERS,
    millis(60_000, 1, DAY_MS),
    "length of that window",
);
/// `WEBHOOK_ALLOW_PRIVATE`.
pub const WEBHOOK_ALLOW_PRIVATE: Variable = variable(
    "WEBHOOK_ALLOW_PRIVATE",
    Destinations,
    SERVERS,
    text("false"),
    "true, or networks that are allowed beside public addresses: 10.0.0.0/8,fd00::/8",
)
.details(
    "[Security](../operate/security.md#destinations) lists the addresses that stay refused unless \
     you name each by itself.",
);
/// `OTEL_EXPORTER_OTLP_ENDPOINT`.
pub const OTEL_EXPORTER_OTLP_ENDPOINT: Variable = variable(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    Traces,
    SERVERS,
    NOTHING,
    "http://HOST:4318 of an OTLP collector; without it nothing is traced",
);
/// `OTEL_EXPORTER_OTLP_HEADERS`.
pub const OTEL_EXPORTER_OTLP_HEADERS: Variable = variable(
    "OTEL_EXPORTER_OTLP_HEADERS",
    Traces,
    SERVERS,
    NOTHING,
    "headers of export requests: name=value,name=value",
);
/// `OTEL_EXPORTER_OTLP_TIMEOUT`.
pub const OTEL_EXPORTER_OTLP_TIMEOUT: Variable = variable(
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    Traces,
    SERVERS,
    millis(10_000, 1, 60_000),
    "time for one export request",
);
/// `OTEL_EXPORTER_OTLP_PROTOCOL`.
pub const OTEL_EXPORTER_OTLP_PROTOCOL: Variable = variable(
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    Traces,
    SERVERS,
    Values::Choice { of: &["http/protobuf"] },
    "the only supported protocol",
);
/// `OTEL_SERVICE_NAME`.
pub const OTEL_SERVICE_NAME: Variable = variable(
    "OTEL_SERVICE_NAME",
    Traces,
    SERVERS,
    NOTHING,
    "name in traces; default: tributary-ingress or tributary-worker",
);
/// `OTEL_TRACES_SAMPLER`.
pub const OTEL_TRACES_SAMPLER: Variable = variable(
    "OTEL_TRACES_SAMPLER",
    Traces,
    SERVERS,
    text("parentbased_always_on"),
    "always_on, always_off or traceidratio, alone or after parentbased_",
);
/// `OTEL_TRACES_SAMPLER_ARG`.
pub const OTEL_TRACES_SAMPLER_ARG: Variable = variable(
    "OTEL_TRACES_SAMPLER_ARG",
    Traces,
    SERVERS,
    Values::Fraction,
    "share of traces that traceidratio keeps",
)
.details("`OTEL_BSP_*` configures the span queue, as OpenTelemetry defines it.");
/// `LOG_FORMAT`.
pub const LOG_FORMAT: Variable = variable(
    "LOG_FORMAT",
    General,
    SERVERS,
    Values::Choice { of: &["text", "json"] },
    "format of log lines",
);
/// `RUST_LOG`.
pub const RUST_LOG: Variable =
    variable("RUST_LOG", General, SERVERS, text("info"), "log filter, such as info,ingress=debug");
/// `SHUTDOWN_GRACE_MS`.
pub const SHUTDOWN_GRACE_MS: Variable = variable(
    "SHUTDOWN_GRACE_MS",
    General,
    SERVERS,
    millis(25_000, 0, HOUR_MS),
    "time for open work after SIGTERM or SIGINT",
);
/// `SSL_CERT_FILE`.
pub const SSL_CERT_FILE: Variable = variable(
    "SSL_CERT_FILE",
    General,
    SERVERS,
    NOTHING,
    "CA certificates for destinations and the collector, instead of the system's",
);
/// `SSL_CERT_DIR`.
pub const SSL_CERT_DIR: Variable =
    variable("SSL_CERT_DIR", General, SERVERS, NOTHING, "folder of such certificates");
/// `NO_COLOR`.
pub const NO_COLOR: Variable = variable(
    "NO_COLOR",
    General,
    &[Binary::DlqTool],
    NOTHING,
    "any value: plain text on a terminal",
);

/// All variables, in the order of the documentation.
pub const ALL: &[Variable] = &[
    INGRESS_BIND,
    INGRESS_OPS_BIND,
    WORKER_OPS_BIND,
    INGRESS_WORKERS,
    ADMIN_TOKEN,
    STATS_PUBLIC,
    REDIS_URL,
    REDIS_CLUSTER,
    REDIS_WAIT_REPLICAS,
    REDIS_WAIT_TIMEOUT_MS,
    DURABILITY,
    DATABASE_URL,
    PLATFORMS_FILE,
    SECRETS_KEY,
    ALLOW_PLAINTEXT_SECRETS,
    MAX_BODY_BYTES,
    BODY_TIMEOUT_MS,
    MAX_IN_FLIGHT_BYTES,
    MAX_BACKLOG,
    DLQ_MAX_LEN,
    MAX_WAITERS,
    MAX_CONNECTIONS,
    KEEP_ALIVE_MS,
    DEDUP_TTL_HOURS,
    WORKER_NAME,
    MAX_ATTEMPTS,
    RETRY_BASE_MS,
    RETRY_MAX_MS,
    MISSING_SESSION_WAIT_MS,
    CLAIM_IDLE_MS,
    DLQ_RETENTION_DAYS,
    DLQ_ARCHIVE_DIR,
    EVENTS_RETENTION_DAYS,
    WEBHOOK_URLS,
    DISCORD_WEBHOOK_URL,
    WEBHOOK_EVENTS,
    WEBHOOK_SECRET_KEY,
    WEBHOOK_SECRET_KEY_PREVIOUS,
    WEBHOOK_SOURCE,
    WEBHOOK_HEADERS,
    WEBHOOK_TIMEOUT,
    WEBHOOK_MAX_RETRIES,
    WEBHOOK_RETRY_DELAY,
    WEBHOOK_MAX_RETRY_DELAY,
    WEBHOOK_RATE_LIMIT_MAX,
    WEBHOOK_RATE_LIMIT_WINDOW,
    WEBHOOK_ALLOW_PRIVATE,
    OTEL_EXPORTER_OTLP_ENDPOINT,
    OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_EXPORTER_OTLP_TIMEOUT,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_SERVICE_NAME,
    OTEL_TRACES_SAMPLER,
    OTEL_TRACES_SAMPLER_ARG,
    LOG_FORMAT,
    RUST_LOG,
    SHUTDOWN_GRACE_MS,
    SSL_CERT_FILE,
    SSL_CERT_DIR,
    NO_COLOR,
];
