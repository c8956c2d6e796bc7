//! The `ingress` command; see `ingress --help`.

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ingress::cli::Cli;
use ingress::{Config, RunError};
use mimalloc::MiMalloc;
use shared::config::{EXIT_CONFIG, Env, report};
use shared::{shutdown, telemetry};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What only matters to those who ask for it: actix tells at length how it starts and stops, and calls every request that
/// is no HTTP an error. `RUST_LOG` overrides it by naming the same targets.
const QUIET: &str = "actix_server=warn,actix_http::h1::dispatcher=off";

fn main() -> ExitCode {
    let Cli {} = Cli::parse();
    let config = match Config::read(&Env::from_process()) {
        Ok(config) => config,
        Err(problems) => return fail(report(&problems), EXIT_CONFIG),
    };
    let filter = format!("{QUIET},{}", config.common.log_filter);
    if let Err(error) = telemetry::init(config.common.log_format, &filter) {
        return fail(error, EXIT_CONFIG);
    }
    // One thread drives Redis and the batcher; HTTP has threads of its own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, 1),
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err((text, code)) => fail(text, code),
    }
}

async fn run(config: Config) -> Result<(), (String, u8)> {
    let stop = shutdown::on_signals().map_err(|error| (error.to_string(), 1))?;
    ingress::run(config, stop).await.map_err(|error| (chain(&error), code(&error)))
}

fn code(error: &RunError) -> u8 {
    if error.is_configuration() { EXIT_CONFIG } else { 1 }
}

/// An error and what caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn fail(what: impl Display, code: u8) -> ExitCode {
    // Nobody is left to be told if even this fails.
    let _ = writeln!(std::io::stderr(), "ingress: {}", what.to_string().trim_end());
    ExitCode::from(code)
}
