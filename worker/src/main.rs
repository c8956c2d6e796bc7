//! Binary of the worker: command line, configuration, telemetry, exit status.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shared::config::variables::{Binary, WORKER_OPS_BIND};
use shared::config::{EXIT_CONFIG, Env, environment_help, report};
use shared::platform::registry::Registry;
use shared::{health_check, shutdown, telemetry};
use worker::app::{self, WorkerError};
use worker::config::WorkerConfig;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Applies queued webhooks to the session database
///
/// A worker reads accepted events from Redis as a member of the consumer group
/// `webhook-processors`. It applies each event exactly once to the session database, retries what
/// can succeed later, and dead-letters what cannot (see dlq-tool). Run as many workers as you like;
/// with SQLite all of them on one machine.
#[derive(Parser)]
#[command(
    version,
    after_help = after_help(),
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
struct Args {
    /// Binds this session database to this Redis in place of the former one, and starts
    ///
    /// Use it only if this database is meant to replace the former one. Events that took effect
    /// there would take effect again here.
    #[arg(long)]
    adopt_database: bool,
    /// Command to run instead of working.
    #[command(subcommand)]
    tool: Option<ToolCommand>,
}

#[derive(Subcommand)]
enum ToolCommand {
    /// Queries the health of the worker on this host, for containers; exit status 0: healthy
    Health {
        /// Queries /ready (can it work now) instead of /live (does it run)
        #[arg(long)]
        ready: bool,
    },
}

const ROUTES: &str = "\
Routes at OPS_BIND:
  GET  /metrics, /live, /ready
  GET  /api/v1/sessions/{room_id}                       shows a session *
  GET  /api/v1/webhooks/{platform}/events/{event_id}    shows the state of an event *
* needs ADMIN_TOKEN

Exit status: 0 stopped in order, 1 failed, 2 usage or configuration (all problems are listed)";

fn after_help() -> String {
    format!("{}\n\n{ROUTES}", environment_help(Binary::Worker))
}

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
    match health_check::query_health(env, &WORKER_OPS_BIND, ready) {
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
        let help = after_help();
        let words: Vec<&str> =
            help.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
        let unnamed: Vec<String> =
            env.names_read().into_iter().filter(|name| !words.contains(&name.as_str())).collect();
        assert_eq!(unnamed, Vec::<String>::new());
    }
}
