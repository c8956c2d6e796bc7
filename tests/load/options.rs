//! Command line of a load run.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::baselines::pool::PoolKind;

/// Measures ingress and worker against baselines that run beside them.
#[derive(Debug, Parser)]
#[command(name = "load", after_help = EXAMPLES)]
pub(crate) struct LoadCli {
    #[command(subcommand)]
    pub(crate) command: Option<LoadCommand>,
    #[command(flatten)]
    pub(crate) options: LoadOptions,
}

const EXAMPLES: &str = "Examples (cargo run --release -p tests --bin load -- …):
  load                              speed and worker, three rounds: about ten minutes
  load --quick                      the same in one short round: a minute or two, rough figures
  load --all --with-node            everything: about an hour, 12 GB of disk and 6 GB of memory
  load --sections idle,start        two sections only
  load --all --quick                every section, with a tenth of the queue and of the ids
  load --json --strict > run.json   for scripts: one object; status 1 also if a target is missed

The report goes to standard output, the progress to standard error. The status is 1 if an event was
lost, refused or dead-lettered. A missed target is reported, and fails the run only with --strict.";

#[derive(Debug, Subcommand)]
pub(crate) enum LoadCommand {
    /// Measure nanoseconds per event of verification and identification.
    Micro(MicroOptions),
    /// Run the bare handler; started by the load run itself.
    #[command(hide = true)]
    Bare {
        /// Address to listen on.
        bind: SocketAddr,
    },
    /// Run one script per request over a pool; started by the load run itself.
    #[command(hide = true)]
    Pool {
        /// Address to listen on.
        bind: SocketAddr,
        /// Redis URL.
        url: String,
        /// Kind of pool.
        lender: PoolKind,
        /// Number of connections.
        size: usize,
    },
}

/// Section of a load run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadSection {
    /// Accepted/s and CPU of ingress at both kinds of fsync, beside the baselines; then a worker on
    /// that backlog, and the latency of both at half of their common rate
    Speed,
    /// A worker on a backlog, to SQLite and to PostgreSQL, beside raw batched writes of the same
    /// rows
    Worker,
    /// Cost per event and the worker's memory with 1,000,000 queued; Redis memory per queued event
    Queued,
    /// Cost per event with 5,000,000 remembered ids; Redis memory per id
    Remembered,
    /// Cost per event with 200 active platforms
    Platforms,
    /// CPU of an idle ingress and an idle worker with 200 platforms
    Idle,
    /// Time from start to ready
    Start,
}

const DEFAULT_SECTIONS: [LoadSection; 2] = [LoadSection::Speed, LoadSection::Worker];

/// Options of a load run.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadOptions {
    /// Run one short round, with a tenth of the queue and of the ids.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print the report as one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Run every section.
    #[arg(long, conflicts_with = "sections")]
    pub(crate) all: bool,
    /// Run only these sections, separated by commas [default: speed,worker].
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) sections: Vec<LoadSection>,
    /// Fail the run if a target is missed.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Compare with Fastify + ioredis too. Needs node and npm, and installs both packages into a
    /// temporary folder.
    #[arg(long)]
    pub(crate) with_node: bool,
    /// Number of keep-alive connections.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) connections: u16,
    /// Redis connections of the handler that runs a script per request. At `always` they share one
    /// fsync.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) pool: u16,
    /// Seconds measured per round, after the warm-up.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub(crate) seconds: Option<u8>,
    /// Number of rounds. The median of a figure counts.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) rounds: Option<u8>,
    /// Events per second while latency is measured [default: half the common rate of ingress and
    /// worker].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
}

/// Options of the micro-benchmarks.
#[derive(Clone, Debug, Args)]
pub(crate) struct MicroOptions {
    /// Run fewer iterations.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

impl LoadOptions {
    pub(crate) fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds.unwrap_or(if self.quick { 3 } else { 8 }).into())
    }

    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(if self.quick { 1000 } else { 2000 })
    }

    pub(crate) fn rounds(&self) -> u8 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// Returns `whole`, or a tenth of it in a quick run.
    pub(crate) fn sized(&self, whole: usize) -> usize {
        if self.quick { whole / 10 } else { whole }
    }

    /// Returns the sections to run, in order.
    pub(crate) fn sections(&self) -> Vec<LoadSection> {
        let asked = |section: &LoadSection| {
            self.all
                || self.sections.contains(section)
                || (self.sections.is_empty() && DEFAULT_SECTIONS.contains(section))
        };
        LoadSection::value_variants().iter().copied().filter(asked).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::CommandFactory as _;

    use super::*;

    fn sections(args: &[&str]) -> Vec<LoadSection> {
        LoadCli::try_parse_from([&["load"], args].concat()).unwrap().options.sections()
    }

    #[test]
    fn command_line_is_valid() {
        LoadCli::command().debug_assert();
    }

    #[test]
    fn sections_default_to_speed_and_worker() {
        assert_eq!(sections(&[]), DEFAULT_SECTIONS);
        assert_eq!(sections(&["--quick"]), DEFAULT_SECTIONS);
        assert_eq!(
            sections(&["--sections", "start,idle"]),
            [LoadSection::Idle, LoadSection::Start]
        );
        assert_eq!(sections(&["--all"]).len(), LoadSection::value_variants().len());
        assert!(LoadCli::try_parse_from(["load", "--all", "--sections", "idle"]).is_err());
    }
}
