//! End-to-end tests, one file per behaviour.
//!
//! They run real ingress, worker and `dlq-tool` processes with a real Redis and real databases.
//! They sign requests independently of the product and check only what is visible from outside.
//!
//! The binaries must be built first (`cargo build --bins`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

/// Definition of a platform `own` with its own signature header and the secret `OWN_SECRET`. The
/// TOML text in the argument continues its table `event`.
macro_rules! own_platform {
    ($more:literal) => {
        concat!(
            "[platforms.own]\nsecrets = [\"env:OWN_SECRET\"]\nrate_limit = 6000\n",
            "[platforms.own.signature]\nheader = [\"X-Own-Signature\"]\nprefix = \"sha256=\"\n",
            "[platforms.own.event]\nid = \"/id\"\ntype = \"/type\"\n",
            $more
        )
    };
}

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

mod adversarial;
mod alerts;
mod batch_requests;
mod body_limits;
mod certificates;
mod check_platform;
mod cluster;
mod compression;
mod connections;
mod crash;
mod database_file;
mod database_outage;
mod dead_letters;
mod dlq_edit;
mod dlq_export;
mod dlq_memory;
mod dlq_purge;
mod dlq_tool;
mod dlq_watch;
mod documentation;
mod draining;
mod duplicates;
mod error_answers;
mod event_times;
mod forgeries;
mod happy_path;
mod health;
mod lenient_json;
mod load_balancer;
mod malformed;
mod missing_session;
mod openapi;
mod ordering;
mod outbound;
mod outbound_bulkheads;
mod outbound_receivers;
mod outbound_routes;
mod outbound_urls;
mod pipelining;
mod poison;
mod prefer_wait;
mod provider_probes;
mod providers;
mod rate_limit_bursts;
mod rate_limits;
mod realcast;
mod redelivery;
mod redis_outage;
mod redis_refusals;
mod registration;
mod registration_versions;
mod resource_limits;
mod retention;
mod schema;
mod secret_leaks;
mod secret_rotation;
mod sessions;
mod shared_transactions;
mod shutdown;
mod signature_formats;
mod startup;
mod startup_signals;
mod statistics;
mod streamgank;
mod strict_durability;
mod tracing;
mod unstorable_values;
mod unusable_requests;
mod unusual_requests;
mod worker_lease;

use std::time::Duration;

/// Longest wait for a prompt result on a machine that is busy with other tests.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
