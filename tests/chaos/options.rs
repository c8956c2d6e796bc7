//! Command line of the failure run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::schedule::FaultKind;

/// Runs a whole system under load, injects faults, and checks that nothing was lost, applied twice
/// or overwritten by older events.
///
/// Several ingress replicas and workers, a Redis and a session database are started on free ports
/// and in temporary folders. Signed events of seven platforms are sent: out of order, repeated,
/// some forged, some before the announcement of their session. Each is retried until it is answered
/// with 2xx. Meanwhile faults are injected one after the other, some two at a time. At the end
/// every event answered with 2xx must be in exactly one place, and every row must equal the row
/// that a sequential model computes. Exit status: 0 if so, 1 if not.
#[derive(Clone, Debug, Parser)]
#[command(name = "chaos", after_help = HELP)]
pub(crate) struct ChaosOptions {
    /// Duration of the faults, in s.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Seed of events and faults; random and printed by default.
    #[arg(long)]
    seed: Option<u64>,
    /// Session database.
    #[arg(long, value_enum, default_value_t = DatabaseChoice::Sqlite)]
    pub(crate) database: DatabaseChoice,
    /// Redis's appendfsync. With everysec, a power cut may lose the last second; the report counts
    /// it.
    #[arg(long, value_enum, default_value_t = Fsync::Always)]
    pub(crate) fsync: Fsync,
    /// Ingress replicas.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) ingress: u8,
    /// Workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) workers: u8,
    /// Events per second.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// One event in N carries an unusual but valid value; 0: none.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) odd: u32,
    /// Only these faults, separated by commas; default: all that are possible here.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub(crate) faults: Vec<FaultKind>,
    /// Prints the report as one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Keeps the logs of all processes in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) logs: Option<PathBuf>,
}

const HELP: &str = "\
Faults that are impossible here are left out, and the reason is printed. A full disk and a power cut
need root: they mount a small file system in a private mount namespace. Stepped clocks need Debian's
libfaketime. Runs of less than two minutes hold each fault for less time, so that processes are not
frozen for longer than every timeout.";

/// Session database of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DatabaseChoice {
    /// A file shared by all workers.
    Sqlite,
    /// A server of its own, with fsync on.
    Postgres,
}

/// Redis's `appendfsync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fsync {
    /// Before each reply.
    Always,
    /// Once a second.
    Everysec,
}

impl ChaosOptions {
    /// Returns the duration of the faults.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// Returns the given seed, or a random one.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| rand::random::<u64>() >> 32)
    }

    /// Returns true if the run is too short for long freezes.
    pub(crate) fn is_short(&self) -> bool {
        self.seconds < 120
    }
}
