//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::schedule::FaultKind;

/// Runs a whole system under load, makes everything that can fail do so, and proves that nothing was lost, done twice or
/// turned backwards.
///
/// Several ingress replicas and workers, a Redis and a session database are started on free ports and in temporary
/// folders. Signed events of seven platforms are sent (out of order, repeated, some forged, sessions announced late) and
/// sent again until they are answered 2xx, as a provider would. Meanwhile faults follow each other, some two at a time.
/// At the end every event that was answered 2xx must be in exactly one place, and every row must be what a sequential
/// model computes. Exit status: 0 if so, 1 if not.
#[derive(Clone, Debug, Parser)]
#[command(name = "chaos", after_help = HELP)]
pub(crate) struct ChaosOptions {
    /// How long faults follow each other.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// What decides events and faults; drawn and printed when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// The session database.
    #[arg(long, value_enum, default_value_t = DatabaseChoice::Sqlite)]
    pub(crate) database: DatabaseChoice,
    /// Redis's appendfsync. With everysec a power cut may lose the last second: it is counted and stated.
    #[arg(long, value_enum, default_value_t = Fsync::Always)]
    pub(crate) fsync: Fsync,
    /// Ingress replicas.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) ingress: u8,
    /// Workers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(crate) workers: u8,
    /// Events a second.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rate: u32,
    /// One event in this many carries an odd but genuine value; 0: none.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub(crate) odd: u32,
    /// Only these faults, separated by commas; default: all that are possible here.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub(crate) faults: Vec<FaultKind>,
    /// The report as one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Keeps the logs of all processes in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) logs: Option<PathBuf>,
}

const HELP: &str = "\
Faults that are not possible here are left out, and why is printed: a full disk and a power cut need root (a small file
system is mounted, in a mount namespace of its own), stepped clocks need Debian's libfaketime. Runs of less than two
minutes hold each fault more briefly: processes are then not frozen for longer than every timeout.";

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DatabaseChoice {
    /// A file that all workers share.
    Sqlite,
    /// A server of its own, with fsync on.
    Postgres,
}

/// When Redis syncs its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fsync {
    /// Before it answers.
    Always,
    /// Once a second.
    Everysec,
}

impl ChaosOptions {
    /// How long faults follow each other.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The seed that was given, or a new one.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| rand::random::<u64>() >> 32)
    }

    /// Whether there is no time for long freezes.
    pub(crate) fn is_short(&self) -> bool {
        self.seconds < 120
    }
}
