//! End-to-end tests, one file per behaviour: real ingress, worker and dlq-tool processes, a real Redis and real databases,
//! an independent signer, and only what the outside can see.
//!
//! The binaries must be built before (`cargo build --bins`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

/// Runs `async fn NAME(kind: DatabaseKind)` as the tests `NAME::sqlite` and `NAME::postgres`.
macro_rules! on_both {
    ($name:ident) => {
        mod $name {
            use tests::stack::DatabaseKind;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name(DatabaseKind::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name(DatabaseKind::Postgres).await;
            }
        }
    };
}

mod happy_path;
mod alerts;
mod load_balancer;
mod body_limits;
mod unusual_requests;
mod certificates;
mod check_platform;
mod cluster;
mod compression;
mod connections;
mod crash;
mod resource_limits;
mod database_file;
mod database_outage;
mod dead_letters;
mod dlq_edit;
mod dlq_export;
mod dlq_memory;
mod dlq_purge;
mod dlq_tool;
mod dlq_watch;
mod draining;
mod duplicates;
mod forgeries;
mod health;
mod adversarial;
mod rate_limits;
mod rate_limit_bursts;
mod malformed;
mod missing_session;
mod lenient_json;
mod unstorable_values;
mod openapi;
mod ordering;
mod outbound;
mod outbound_bulkheads;
mod outbound_receivers;
mod outbound_routes;
mod outbound_urls;
mod readme_provider;
mod pipelining;
mod poison;
mod provider_probes;
mod providers;
mod realcast;
mod redelivery;
mod redis_outage;
mod error_answers;
mod redis_refusals;
mod registration;
mod registration_versions;
mod retention;
mod secret_rotation;
mod rules;
mod schema;
mod secret_leaks;
mod sessions;
mod shutdown;
mod signature_formats;
mod startup;
mod statistics;
mod startup_signals;
mod streamgank;
mod event_times;
mod shared_transactions;
mod tracing;
mod batch_requests;
mod unusable_requests;
mod prefer_wait;

use std::time::Duration;

/// Longest wait for what should happen at once, on a machine that is busy with other tests.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
