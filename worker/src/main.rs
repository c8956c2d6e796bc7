//! The worker's command line: configuration, telemetry, run until a signal, exit status.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::config::{EXIT_CONFIG, Env, report};
use shared::platform::registry::Registry;
use shared::{health_check, shutdown, telemetry};
use worker::app::{self, WorkerError};
use worker::config::WorkerConfig;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Applies queued webhooks to the session database.
///
/// Reads accepted events from Redis as a member of the consumer group `webhook-processors`, applies each exactly once to
/// the session database, retries what has to wait, and moves what cannot be applied to the dead letters
/// (see dlq-tool). Run as many as you like; with SQLite all of them on one machine.
#[derive(Parser)]
#[command(version, after_help = HELP, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Args {
    /// Make this session database the one that this Redis belongs to, and start. Only when it is meant to take over:
    /// events that took effect in the former database would take effect again here.
    #[arg(long)]
    adopt_database: bool,
    /// Instead of working.
    #[command(subcommand)]
    tool: Option<ToolCommand>,
}

#[derive(Subcommand)]
enum ToolCommand {
    /// Asks the worker on this host (at OPS_BIND) how it is, for containers; exit status 0: well
    Health {
        /// Whether it can do its work now (/ready), not only whether it runs (/live)
        #[arg(long)]
        ready: bool,
    },
}

const HELP: &str = "\
Configuration comes from the environment (NAME_FILE reads NAME from a file):
  REDIS_URL                redis://127.0.0.1:6379; of a cluster, some of its nodes, with commas between
  REDIS_CLUSTER            true for Redis Cluster
  DATABASE_URL             sqlite://tributary.db, or postgres://user:password@host/database
  PLATFORMS_FILE           platforms and destinations (TOML); only destinations' secrets in it must resolve here
  SECRETS_KEY              opens the secrets of registered platforms that have a url; without it their deliveries are kept
  ALLOW_PLAINTEXT_SECRETS  false; true: such secrets may stand in Redis unsealed
  OPS_BIND                 0.0.0.0:9101: /metrics, /live, /ready, GET /api/v1/sessions/{room_id},
                           GET /api/v1/webhooks/{platform}/events/{event_id}
  ADMIN_TOKEN              for these two routes; without it they answer 403
  WORKER_NAME              host name; a slot number is added
  MAX_ATTEMPTS             5 executions in all
  RETRY_BASE_MS            1000, doubling up to RETRY_MAX_MS (30000), with jitter
  MISSING_SESSION_WAIT_MS  60000: how long an event waits for its session
  CLAIM_IDLE_MS            30000: when a dead worker's events are taken over
  DLQ_MAX_LEN              1000000 dead letters per platform
  DLQ_RETENTION_DAYS       for ever; older dead letters are written to DLQ_ARCHIVE_DIR, then removed
  DLQ_ARCHIVE_DIR          none: dead letters stay, however old; how many are overdue is reported
  EVENTS_RETENTION_DAYS    for ever; older rows of webhook_events are deleted, unless a dead letter needs them
  DEDUP_TTL_HOURS          24, as for ingress: no row is deleted before its duplicates are forgotten
  WEBHOOK_URLS             none; destinations of processed events: webhook_1, webhook_2, … (commas between)
  DISCORD_WEBHOOK_URL      none; one more, discord
  WEBHOOK_EVENTS           all; types, with commas between; * stands for any text
  WEBHOOK_SECRET_KEY       none: deliveries are not signed
  WEBHOOK_SECRET_KEY_PREVIOUS  none; the secret before it, which signs as well
  WEBHOOK_SOURCE           Tributary: X-Tributary-Signature and so on
  WEBHOOK_HEADERS          none; Name:Value,Name:Value
  WEBHOOK_TIMEOUT          10000 ms per attempt
  WEBHOOK_MAX_RETRIES      3, so four attempts
  WEBHOOK_RETRY_DELAY      1000 ms, doubling up to WEBHOOK_MAX_RETRY_DELAY (30000), with jitter
  WEBHOOK_RATE_LIMIT_MAX   100 deliveries per destination in WEBHOOK_RATE_LIMIT_WINDOW (60000 ms)
  WEBHOOK_ALLOW_PRIVATE    false; true, or networks that may be sent to beside public addresses
  DURABILITY               warn, or strict: not ready unless Redis has appendfsync always and noeviction
  SHUTDOWN_GRACE_MS        25000, on SIGTERM and SIGINT
  LOG_FORMAT, RUST_LOG     text or json; info
  OTEL_EXPORTER_OTLP_ENDPOINT  none: nothing is traced; http://HOST:4318 of an OTLP collector, which gets traces, with
                           OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_TIMEOUT,
                           OTEL_EXPORTER_OTLP_PROTOCOL (http/protobuf only), OTEL_SERVICE_NAME,
                           OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG as usual
  SSL_CERT_FILE, SSL_CERT_DIR  none; CA certificates instead of the system's, for deliveries

Exit status: 0 stopped in order, 1 failed, 2 configuration.";

fn main() -> ExitCode {
    let cli = Args::parse();
    let env = Env::from_process();
    if let Some(ToolCommand::Health { ready }) = cli.tool {
        return health(&env, ready);
    }
    if let Err(error) = shutdown::watch_signals(Some(0)) {
        return fail(&format!("signals cannot be watched: {error}\n"), 1);
    }
    let mut problems = Vec::new();
    let config =
        WorkerConfig::read(&env, cli.adopt_database).map_err(|found| problems.extend(found)).ok();
    let file = env.opt("PLATFORMS_FILE").map(std::path::PathBuf::from);
    let platforms = Registry::load(file.as_deref()).map_err(|found| problems.extend(found)).ok();
    let (Some(config), Some(platforms)) = (config, platforms) else {
        return refuse(&env.report(&problems));
    };
    if let Err(error) = telemetry::init(config.common.log_format, &config.common.log_filter) {
        return refuse(&format!("logging cannot start: {error}\n"));
    }
    env.log_warnings();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the runtime cannot start: {error}\n"), 1),
    };
    let status = runtime.block_on(run_worker(config, platforms));
    shutdown::shutdown_runtime(runtime);
    status
}

async fn run_worker(config: WorkerConfig, platforms: Registry) -> ExitCode {
    let stop = match shutdown::shutdown_token() {
        Ok(stop) => stop,
        Err(error) => {
            tracing::error!(%error, "signals cannot be watched");
            return ExitCode::FAILURE;
        }
    };
    match app::run(config, platforms, stop).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(WorkerError::Configuration(reason)) => {
            tracing::error!("{reason}");
            ExitCode::from(EXIT_CONFIG)
        }
        Err(error) => {
            tracing::error!(error = worker::consumer::error_chain(&error), "failed");
            ExitCode::FAILURE
        }
    }
}

fn health(env: &Env, ready: bool) -> ExitCode {
    use std::io::Write;
    match health_check::query_health(env, (Ipv4Addr::UNSPECIFIED, 9101).into(), ready) {
        Ok((good, said)) => {
            // A reader that has gone has seen what it wanted.
            let _ = writeln!(std::io::stdout(), "{said}");
            ExitCode::from(u8::from(!good))
        }
        Err(problems) => refuse(&report(&problems)),
    }
}

fn refuse(text: &str) -> ExitCode {
    fail(text, EXIT_CONFIG)
}

fn fail(text: &str, status: u8) -> ExitCode {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn help_names_every_variable() {
        let env = Env::from_pairs([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4318"),
            ("WEBHOOK_URLS", "https://h/"),
            ("WORKER_NAME", "w"),
        ]);
        WorkerConfig::read(&env, false).unwrap();
        let words: Vec<&str> =
            HELP.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let unnamed: Vec<String> =
            env.names_read().into_iter().filter(|name| !words.contains(&name.as_str())).collect();
        assert_eq!(unnamed, Vec::<String>::new());
    }
}
