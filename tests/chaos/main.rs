//! Failure runs: a whole system under load while everything that can fail does, and a judgement at the end.
//!
//! Guarantee: every request that was answered 2xx is accounted for afterwards, and every row is compared with what a
//! sequential model makes of the events that took effect. Which events are sent, and which faults follow each other with
//! which targets and durations, is decided by the seed alone; when a fault begins depends on how long the one before it
//! was felt. All servers are started here, on free ports and in temporary folders, and ended again.
//!
//! ```text
//! cargo run --release -p tests --bin chaos                              # ten minutes on SQLite
//! cargo run --release -p tests --bin chaos -- --database postgres
//! cargo run --release -p tests --bin chaos -- --seconds 60 --seed 7 --faults kill-worker,cut-redis
//! ```

// A command-line tool: its report goes to standard output, its progress to standard error.
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
        eprintln!("chaos: no mounts of its own ({error}): disks will not run full");
    }
    if let Err(error) = tests::binaries::build("chaos") {
        eprintln!("chaos: {error}");
        return ExitCode::FAILURE;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let report = runtime.block_on(run::run(&options));
    let text = if options.json { report.json() + "\n" } else { report.table() };
    // A reader that has seen enough is no error.
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return ExitCode::FAILURE,
        _ => {}
    }
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
