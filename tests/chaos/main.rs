//! Failure run: a whole system under load, with injected faults, and a check of every event and row
//! at the end.
//!
//! # Guarantees
//!
//! - Every event answered with 2xx is accounted for at the end. Every row is compared with a
//!   sequential model of the events that took effect.
//! - The seed determines the events, the faults, their targets and their durations
//!   (`schedule_with_one_seed_repeats_its_steps`, `generator_with_one_seed_repeats_its_requests`).
//!   The time of a fault also depends on the recovery from the one before.
//! - All servers are started by the run, on free ports and in temporary folders, and ended with it.
//!
//! ```text
//! cargo run --release -p tests --bin chaos                     # ten minutes on SQLite
//! cargo run --release -p tests --bin chaos -- --database postgres
//! cargo run --release -p tests --bin chaos -- --seconds 60 --seed 7 --faults kill-worker,cut-redis
//! ```

// The report goes to standard output, the progress to standard error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod aof;
mod clocks;
mod disks;
mod engine;
mod faults;
mod follower;
mod load;
mod options;
mod report;
mod run;
mod schedule;
mod system;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use options::ChaosOptions;

fn main() -> ExitCode {
    let options = ChaosOptions::parse();
    if let Err(error) = disks::own_mounts() {
        eprintln!("chaos: cannot create a mount namespace ({error}); full disks are left out");
    }
    if let Err(error) = tests::binaries::build("chaos") {
        eprintln!("chaos: {error}");
        return ExitCode::FAILURE;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("start the Tokio runtime");
    let report = runtime.block_on(run::run(&options));
    let text = if options.json { report.json() + "\n" } else { report.table() };
    // A closed pipe is not an error.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return ExitCode::FAILURE,
        _ => {}
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
