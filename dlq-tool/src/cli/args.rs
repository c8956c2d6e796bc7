//! Flags of each verb.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap_complete::Shell;
use shared::error_code::DeadLetterCode;
use shared::event::StreamId;
use shared::platform::{NameError, PlatformName};

use crate::edit::Edit;
use crate::time_arg::TimeArg;

const RATE_RANGE: RangeInclusive<i64> = 1..=100_000;

/// Conditions that select dead letters. All kinds of conditions given must hold; several values of
/// one kind are alternatives.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Selection (all conditions must hold)")]
pub(crate) struct SelectionArgs {
    /// Only this platform; repeatable. Default: all
    #[arg(long, value_name = "P", value_parser = platform)]
    pub(crate) platform: Vec<PlatformName>,
    /// Only these dead letters, by the ID that `list` shows
    #[arg(long, value_name = "ID", num_args = 1.., value_parser = stream_id)]
    pub(crate) id: Vec<StreamId>,
    /// Only this event id; repeatable
    #[arg(long, value_name = "EVENT_ID")]
    pub(crate) event_id: Vec<String>,
    /// Only this event type; repeatable
    #[arg(long, value_name = "TYPE")]
    pub(crate) event_type: Vec<String>,
    /// Only this error code; repeatable
    #[arg(long, value_name = "CODE", value_parser = codes())]
    pub(crate) error_code: Vec<DeadLetterCode>,
    /// Dead-lettered at or after this time (2026-01-31T12:00:00Z or an age: 15m, 24h, 7d)
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<TimeArg>,
    /// Dead-lettered before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<TimeArg>,
    /// At least this number of attempts
    #[arg(long, value_name = "N")]
    pub(crate) min_attempts: Option<u32>,
    /// The body contains this text, byte for byte
    #[arg(long, value_name = "TEXT")]
    pub(crate) contains: Option<String>,
    /// At most this number of dead letters, oldest first, platform by platform
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

/// Flags of `stats`.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only this platform; repeatable. Default: all
    #[arg(long, value_name = "P", value_parser = platform)]
    pub(crate) platform: Vec<PlatformName>,
}

/// Flags of `list`.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
}

/// Flags of `show`.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The ID that `list` shows
    #[arg(value_name = "ID", value_parser = stream_id)]
    pub(crate) id: StreamId,
    /// The platform; required if several have a dead letter of this ID
    #[arg(long, value_name = "P", value_parser = platform)]
    pub(crate) platform: Option<PlatformName>,
}

/// Flags of `replay`.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Show what would be replayed, and change nothing
    #[arg(long, help_heading = "Replay")]
    pub(crate) dry_run: bool,
    /// Do not ask for confirmation. Required for more than one entry without a terminal
    #[arg(long, short = 'y', help_heading = "Replay")]
    pub(crate) yes: bool,
    /// At most this number per second
    #[arg(
        long,
        help_heading = "Replay",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(RATE_RANGE)
    )]
    pub(crate) rate: Option<u32>,
    /// Edit the body first: a JSON pointer and a value; repeatable
    #[arg(long, help_heading = "Replay", value_name = "/POINTER=VALUE")]
    pub(crate) set: Vec<Edit>,
}

/// Flags of `purge`.
#[derive(Debug, Args)]
pub(crate) struct PurgeArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
    /// Show what would be removed, and change nothing
    #[arg(long, help_heading = "Purge")]
    pub(crate) dry_run: bool,
    /// Do not ask for confirmation. Required for more than one entry without a terminal
    #[arg(long, short = 'y', help_heading = "Purge")]
    pub(crate) yes: bool,
    /// First write the entries to this new file, as `export` does; `-` is standard output
    #[arg(long, help_heading = "Purge", value_name = "FILE")]
    pub(crate) export: Option<PathBuf>,
}

/// Flags of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
}

/// Flags of `import`.
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Do not ask for confirmation. Required for more than one entry without a terminal
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
}

/// Flags of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    pub(crate) selection: SelectionArgs,
}

/// Flags of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Only this platform; repeatable. Default: all
    #[arg(long, value_name = "P", value_parser = platform)]
    pub(crate) platform: Vec<PlatformName>,
    /// Interval between two readings, in ms
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(100..=60_000)
    )]
    pub(crate) every: u64,
}

/// Flags of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Name of the shell
    #[arg(value_name = "SHELL")]
    pub(crate) shell: Shell,
}

fn codes() -> impl TypedValueParser<Value = DeadLetterCode> {
    PossibleValuesParser::new(DeadLetterCode::ALL.iter().map(|code| code.as_str()))
        .try_map(|text| text.parse::<DeadLetterCode>())
}

fn platform(text: &str) -> Result<PlatformName, NameError> {
    PlatformName::queue(text)
}

/// Parses a stream id. A bare number means sequence 0, as in Redis.
fn stream_id(text: &str) -> Result<StreamId, shared::event::StreamIdError> {
    text.parse().or_else(|error| format!("{text}-0").parse().map_err(|_| error))
}
