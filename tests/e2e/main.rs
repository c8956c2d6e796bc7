//! End-to-end tests, one file per behaviour: real ingress, worker and dlq-tool processes, a real Redis and real databases,
//! an independent signer, and only what the outside can see.
//!
//! The binaries must be built before (`cargo build --bins`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

/// Runs `async fn NAME(kind: Kind)` as the tests `NAME::sqlite` and `NAME::postgres`.
macro_rules! on_both {
    ($name:ident) => {
        mod $name {
            use tests::stack::Kind;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name(Kind::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name(Kind::Postgres).await;
            }
        }
    };
}

mod accept;
mod alerts;
mod balancer;
mod body_limits;
mod cases;
mod certificates;
mod check_platform;
mod cluster;
mod compression;
mod connections;
mod crash;
mod crowded;
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
mod forgery;
mod health;
mod hostile;
mod limits;
mod limits_across;
mod malformed;
mod missing_session;
mod odd_json;
mod odd_values;
mod openapi;
mod ordering;
mod outbound;
mod outbound_bulkheads;
mod outbound_receivers;
mod outbound_routes;
mod outbound_urls;
mod own_provider;
mod pipelined;
mod poison;
mod probes;
mod providers;
mod realcast;
mod redelivery;
mod redis_outage;
mod refusals;
mod refusing_redis;
mod registration;
mod registration_rolling;
mod retention;
mod rotation;
mod rules;
mod schema;
mod secrets;
mod sessions;
mod shutdown;
mod spellings;
mod start;
mod statistics;
mod stopping;
mod streamgank;
mod times;
mod together;
mod tracing;
mod twitch_batch;
mod unusable;
mod wait;

use std::time::Duration;

/// Longest wait for what should happen at once, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(20);
