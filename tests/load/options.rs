//! What a load run is asked for.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::baselines::pool::PoolKind;

/// Measures ingress and worker against floors that run beside them.
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
  load --all --with-node            everything, for which about an hour, 12 GB of disk and 6 GB of memory should be there
  load --sections idle,start        two of the parts, alone
  load --all --quick                everything with a tenth of the queue and of the ids: does each part run?
  load --json --strict > run.json   for scripts: one object; status 1 also if a target is missed

Standard output is the report, standard error the progress. The status is 1 if an event was lost, refused or dead-lettered,
whatever the speed; a missed target is told, and fails the run only with --strict.";

#[derive(Debug, Subcommand)]
pub(crate) enum LoadCommand {
    /// Nanoseconds per event of verification and identification.
    Micro(MicroOptions),
    /// The bare handler that everything is compared with; started by the load run itself.
    #[command(hide = true)]
    Bare {
        /// Where to listen.
        bind: SocketAddr,
    },
    /// One script per request over a pool; started by the load run itself.
    #[command(hide = true)]
    Pool {
        /// Where to listen.
        bind: SocketAddr,
        /// Redis.
        url: String,
        /// Whose connections.
        lender: PoolKind,
        /// Connections.
        size: usize,
    },
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadSection {
    /// accepted/s and CPU of ingress at both kinds of fsync, beside a bare handler, a script per request over deadpool and
    /// (--with-node) Fastify; then a worker on that backlog, and the latency of both at half of what they do together
    Speed,
    /// A worker on a backlog, to SQLite and to PostgreSQL, beside the raw batched writes of the same rows
    Worker,
    /// What an event costs, and the worker's memory, with 1,000,000 queued; Redis memory per queued event
    Queued,
    /// What an event costs with 5,000,000 remembered ids; Redis memory per id
    Remembered,
    /// What an event costs with 200 active platforms
    Platforms,
    /// CPU of an ingress and a worker that have 200 platforms and nothing to do
    Idle,
    /// From start to ready
    Start,
}

const DEFAULT_SECTIONS: [LoadSection; 2] = [LoadSection::Speed, LoadSection::Worker];

/// How to run.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadOptions {
    /// One short round, and a tenth of the queue and of the ids where they are asked for.
    #[arg(long)]
    pub(crate) quick: bool,
    /// The report as one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Every section.
    #[arg(long, conflicts_with = "sections")]
    pub(crate) all: bool,
    /// Only these, with commas between; default: speed,worker.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) sections: Vec<LoadSection>,
    /// A missed target fails the run.
    #[arg(long)]
    pub(crate) strict: bool,
    /// Compare with Fastify + ioredis, too: needs node and npm, and installs both packages into a temporary folder.
    #[arg(long)]
    pub(crate) with_node: bool,
    /// Keep-alive connections.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) connections: u16,
    /// Connections to Redis of the handler that runs a script per request. At `always` they are what shares an fsync.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) pool: u16,
    /// Seconds measured per round, after the warm-up.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub(crate) seconds: Option<u8>,
    /// Rounds; what counts of a figure is its median.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9))]
    pub(crate) rounds: Option<u8>,
    /// Events a second when latency is measured; default: half of what ingress and worker can do together.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Option<u32>,
}

/// How to run the micro-benchmarks.
#[derive(Clone, Debug, Args)]
pub(crate) struct MicroOptions {
    /// Fewer iterations.
    #[arg(long)]
    pub(crate) quick: bool,
    /// One JSON object instead of a table.
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

    /// `whole`, or a tenth of it.
    pub(crate) fn sized(&self, whole: usize) -> usize {
        if self.quick { whole / 10 } else { whole }
    }

    /// What to run, in order.
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
