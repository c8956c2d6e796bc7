//! Load runs: how many events a second one ingress accepts, how fast one worker finishes them, and what each costs.
//!
//! Guarantee: everything is measured in the same run as floors built from the same sources (a handler that only reads the
//! body and answers; one script per request over a pool; raw batched writes of the same rows), so a ratio means the same
//! on any machine. All servers are started here, on free ports and in temporary folders, and ended again, also when this
//! process is killed. Every event counted as accepted is accounted for afterwards; if one is missing, or an answer is
//! not 202, the run fails. What is aimed at is in [`targets`]; the report says what is missed.
//!
//! ```text
//! cargo run --release -p tests --bin load              # several rounds, some minutes
//! cargo run --release -p tests --bin load -- --quick   # about a minute
//! cargo run --release -p tests --bin load -- --all     # memory, crowds, idle cost, start: everything
//! cargo run --release -p tests --bin load -- micro     # nanoseconds of verify and identify
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

/// A run that takes longer than this hangs.
const RUN_TIMEOUT: Duration = Duration::from_secs(150 * 60);

/// What ends a run early.
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

/// The generator shares one thread with everything else here: on a small machine more threads would only take time from
/// what is measured.
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

/// A reader that has seen enough is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}
