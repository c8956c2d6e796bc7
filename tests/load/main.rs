//! Load runs: measures how many events a second ingress accepts and a worker finishes, and the
//! cost.
//!
//! # Guarantees
//!
//! - Baselines run beside every measurement, so that a ratio is comparable between machines
//!   (`goal_value_is_the_median_of_ratios`).
//! - Every accepted event is accounted for. A lost event, or a status other than 202, fails the run
//!   (`lost_event_fails_every_run`).
//! - A missed target of [`targets`] is reported, and fails only a strict run
//!   (`missed_target_fails_only_a_strict_run`).
//!
//! # Design
//!
//! All servers are started here on free ports and in temporary folders. They end with this process,
//! also if it is killed.
//!
//! ```text
//! cargo run --release -p tests --bin load              # several rounds, some minutes
//! cargo run --release -p tests --bin load -- --quick   # about a minute
//! cargo run --release -p tests --bin load -- --all     # all sections, also memory, idle and start
//! cargo run --release -p tests --bin load -- micro     # nanoseconds per verify and identify
//! ```

// A command-line tool: its report goes to standard output, its progress to standard error.
#![allow(clippy::print_stderr)]

mod baselines;
mod cpu;
mod figures;
mod generator;
mod micro;
mod options;
mod report;
mod requests;
mod response;
mod run;
mod scenarios;
mod targets;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use options::{LoadCli, LoadCommand, LoadOptions, MicroOptions};

/// Longest duration of a run.
const RUN_TIMEOUT: Duration = Duration::from_secs(150 * 60);

/// Error that ends a run early.
type LoadError = Box<dyn Error>;

fn main() -> ExitCode {
    let cli = LoadCli::parse();
    let done = match cli.command {
        Some(LoadCommand::Bare { bind }) => {
            baselines::bare::serve(bind).map(|()| true).map_err(Into::into)
        }
        Some(LoadCommand::Pool { bind, url, lender, size }) => {
            baselines::pool::serve(bind, &url, lender, size).map(|()| true)
        }
        Some(LoadCommand::Micro(options)) => micro(&options),
        None => load(&cli.options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the requested sections on one thread. On a small machine, more threads would take CPU time
/// from the measured processes.
fn load(options: &LoadOptions) -> Result<bool, LoadError> {
    tests::binaries::build("load")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime
        .block_on(async { tokio::time::timeout(RUN_TIMEOUT, run::all(options)).await })??;
    let report = report::LoadReport::new(options, figures);
    print(&if options.json { serde_json::to_string(&report)? + "\n" } else { report.table() })?;
    Ok(report.is_good(options.strict))
}

fn micro(options: &MicroOptions) -> Result<bool, LoadError> {
    let timings = micro::all(options)?;
    print(&if options.json { serde_json::to_string(&timings)? + "\n" } else { timings.table() })?;
    Ok(true)
}

/// Writes `text` to standard output. A closed pipe is not an error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
