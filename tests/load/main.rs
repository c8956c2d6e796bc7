//! Load runs: how many events a second one ingress accepts, how fast one worker finishes them, and what each costs.
//!
//! Guarantee: everything is measured in the same run as a bare actix handler that only reads the body and answers, so a
//! ratio means the same on any machine. All servers are started here, on free ports and in temporary folders, and ended
//! again, also when this process is killed. Every event counted as accepted is accounted for afterwards; if one is
//! missing, or an answer is not 202, the run fails.
//!
//! ```text
//! cargo run --release -p tests --bin load              # several rounds, some minutes
//! cargo run --release -p tests --bin load -- --quick   # about a minute
//! cargo run --release -p tests --bin load -- micro     # nanoseconds of verify and identify
//! ```

// A command-line tool: its report goes to standard output, its progress to standard error.
#![allow(clippy::print_stderr)]

mod bare;
mod binaries;
mod cpu;
mod generator;
mod measure;
mod micro;
mod report;
mod requests;
mod scenario;

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// A run that takes longer than this hangs.
const WHOLE_RUN: Duration = Duration::from_secs(45 * 60);

/// Measures ingress and worker against a bare actix handler.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Nanoseconds per event of verification and identification.
    Micro(MicroOptions),
    /// The bare handler that everything is compared with; started by the load run itself.
    #[command(hide = true)]
    Bare {
        /// Where to listen.
        bind: SocketAddr,
    },
}

/// How to run.
#[derive(Clone, Debug, Args)]
struct Options {
    /// One short round: about a minute.
    #[arg(long)]
    quick: bool,
    /// The report as one JSON object instead of a table.
    #[arg(long)]
    json: bool,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Seconds measured per round, after the warm-up.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=60))]
    seconds: Option<u8>,
    /// Rounds; the one with the median throughput is reported.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    rounds: Option<u8>,
    /// Events a second when ingress and worker run together; default: half of what the slower one can do alone.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Only the bare handler.
    #[arg(long)]
    bare_only: bool,
}

/// How to run the micro-benchmarks.
#[derive(Clone, Debug, Args)]
struct MicroOptions {
    /// Fewer iterations.
    #[arg(long)]
    quick: bool,
    /// One JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

impl Options {
    fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 3 } else { 8 }).into())
    }

    fn rounds(&self) -> u8 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Command::Bare { bind }) => bare::serve(bind).map(|()| true).map_err(Into::into),
        Some(Command::Micro(options)) => micro(&options),
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
fn load(options: &Options) -> Result<bool, Box<dyn Error>> {
    if !options.bare_only {
        binaries::build()?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async { tokio::time::timeout(WHOLE_RUN, measure::all(options)).await })??;
    print(&if options.json { serde_json::to_string(&report)? + "\n" } else { report.table() })?;
    Ok(report.is_good())
}

fn micro(options: &MicroOptions) -> Result<bool, Box<dyn Error>> {
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
