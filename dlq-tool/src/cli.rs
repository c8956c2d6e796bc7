//! The command line. It is the tool's only documentation that is always at hand, so every verb's help ends in examples.

use std::ops::RangeInclusive;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use shared::error_code::DeadLetterCode;
use shared::event::StreamId;
use shared::platform::PlatformName;

use crate::when::When;

const RATES: RangeInclusive<i64> = 1..=100_000;

/// Looks at dead letters, and puts them back to work.
///
/// A dead letter is an event that was accepted but could not be processed: it waits in the stream
/// webhooks:dlq:PLATFORM, with its body, its history and the reason, until somebody decides.
#[derive(Debug, Parser)]
#[command(name = "dlq-tool", version, disable_help_subcommand = true, after_help = TOUR)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

const TOUR: &str = "\
A tour:
  dlq-tool stats                                     what there is, and why
  dlq-tool list --platform mux --since 24h           one row per dead letter
  dlq-tool show 1767225600000-0                      everything about one of them
  dlq-tool replay --error-code session_not_found --dry-run
  dlq-tool replay --error-code session_not_found     once the cause is mended

Data goes to stdout, talk to stderr. Exit codes:
  0  done (also where a reader closes the pipe early)
  1  some entries failed, or the run was stopped; stderr names what was left
  2  wrong usage or configuration
  3  nothing matched
  4  Redis cannot be reached";

/// Flags that every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where Redis is. Default: REDIS_URL, or the file that REDIS_URL_FILE names (they keep a password out of the
    /// process list), else redis://127.0.0.1:6379
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// How data is printed; json: one object per line
    #[arg(long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Plain text, also on a terminal (so does the variable NO_COLOR)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for people.
    Table,
    /// One object per line, for programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Counts, per platform: dead letters by reason and type, and what is still on its way
    #[command(after_help = STATS)]
    Stats(StatsArgs),
    /// One row per dead letter, oldest first
    #[command(after_help = LIST)]
    List(ListArgs),
    /// Everything about one dead letter: envelope, failure history, body
    #[command(after_help = SHOW)]
    Show(ShowArgs),
    /// Puts dead letters back into their platform's queue
    #[command(after_help = REPLAY, long_about = "\
Puts dead letters back into their platform's queue.

Each one is moved by one atomic step: at every instant it is either a dead letter or queued. It keeps its event id and \
its place in the order of events, passes the duplicate check, and starts with a fresh count of attempts; `replays` goes \
up by one. Replaying is safe: an event takes effect once, however often it is replayed.")]
    Replay(ReplayArgs),
}

const STATS: &str = "\
Examples:
  dlq-tool stats
  dlq-tool stats --platform mux --output json | jq .by_error_code

DEAD counts the dead letters, BACKLOG what no worker has taken yet, PENDING what a worker
holds, RETRYING what waits for its next attempt.";

const LIST: &str = "\
Examples:
  dlq-tool list
  dlq-tool list --platform mux --error-code session_not_found --since 24h
  dlq-tool list --contains room-42 --limit 20
  dlq-tool list --output json | jq -r .event_id";

const SHOW: &str = "\
Examples:
  dlq-tool show 1767225600000-0
  dlq-tool show 1767225600000-0 --platform mux
  dlq-tool show 1767225600000-0 --output json | jq -r .body

The body is laid out for reading, its numbers and the order of its keys as they came;
--output json has it byte for byte.";

const REPLAY: &str = "\
Examples:
  dlq-tool replay --id 1767225600000-0
  dlq-tool replay --platform mux --error-code session_not_found --dry-run
  dlq-tool replay --platform mux --error-code session_not_found
  dlq-tool replay --since 2h --rate 50 --yes         from a script, at most 50 per second

Ctrl-C stops between two entries; what was not replayed stays a dead letter. While a platform's
queue holds half of MAX_BACKLOG (set it here as for ingress), the replay waits for workers.";

/// Which dead letters: an entry must meet every kind of condition given; several values of one kind are alternatives.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection (all conditions must hold)")]
pub(crate) struct SelectionArgs {
    /// Only this platform; may be repeated. Default: all
    #[arg(long, value_name = "P", value_parser = platform)]
    pub(crate) platform: Vec<PlatformName>,
    /// These dead letters, by the ID that `list` shows
    #[arg(long, value_name = "ID", num_args = 1.., value_parser = stream_id)]
    pub(crate) id: Vec<StreamId>,
    /// The provider's event id; may be repeated
    #[arg(long, value_name = "EVENT_ID")]
    pub(crate) event_id: Vec<String>,
    /// The event type; may be repeated
    #[arg(long, value_name = "TYPE")]
    pub(crate) event_type: Vec<String>,
    /// Why it died; may be repeated
    #[arg(long, value_name = "CODE", value_parser = codes())]
    pub(crate) error_code: Vec<DeadLetterCode>,
    /// Died at or after this time (2026-01-31T12:00:00Z), or this long ago (15m, 24h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<When>,
    /// Died before this time, or longer ago than this
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<When>,
    /// Was executed at least so often
    #[arg(long, value_name = "N")]
    pub(crate) min_attempts: Option<u32>,
    /// The body contains this text, as it is written there
    #[arg(long, value_name = "TEXT")]
    pub(crate) contains: Option<String>,
    /// At most so many, oldest first, platform by platform
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

/// `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only this platform; may be repeated. Default: all
    #[arg(long, value_name = "P", value_parser = platform)]
    pub(crate) platform: Vec<PlatformName>,
}

/// `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
}

/// `show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The ID that `list` shows
    #[arg(value_name = "ID", value_parser = stream_id)]
    pub(crate) id: StreamId,
    /// The platform, where several have a dead letter of that ID
    #[arg(long, value_name = "P", value_parser = platform)]
    pub(crate) platform: Option<PlatformName>,
}

/// `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Show what would be replayed, and change nothing
    #[arg(long, help_heading = "Replay")]
    pub(crate) dry_run: bool,
    /// Do not ask. Needed for more than one entry where nobody can answer (no terminal)
    #[arg(long, short = 'y', help_heading = "Replay")]
    pub(crate) yes: bool,
    /// At most so many per second
    #[arg(long, help_heading = "Replay", value_name = "N", value_parser = clap::value_parser!(u32).range(RATES))]
    pub(crate) rate: Option<u32>,
}

fn codes() -> impl TypedValueParser<Value = DeadLetterCode> {
    PossibleValuesParser::new(DeadLetterCode::ALL.iter().map(|code| code.as_str()))
        .try_map(|text| text.parse::<DeadLetterCode>())
}

fn platform(text: &str) -> Result<PlatformName, shared::platform::UnknownName> {
    PlatformName::new(text)
}

/// A bare number means sequence 0, as it does in Redis.
fn stream_id(text: &str) -> Result<StreamId, shared::event::InvalidStreamId> {
    text.parse().or_else(|error| format!("{text}-0").parse().map_err(|_| error))
}
