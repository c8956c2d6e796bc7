//! Command line. Every verb's help ends in examples, since the help is always at hand.

mod args;
mod help;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use args::{
    CompletionsArgs, ExportArgs, ImportArgs, ListArgs, PurgeArgs, ReplayArgs, SelectionArgs,
    ShowArgs, StatsArgs, TopArgs, WatchArgs,
};
pub(crate) use help::TOP_KEYS;

/// Inspects dead letters, and replays or removes them.
///
/// A dead letter is an accepted event that could not be processed. It stays in the stream
/// webhooks:dlq:PLATFORM, with its body, its history and the reason, until you replay or purge it.
#[derive(Debug, Parser)]
#[command(name = "dlq-tool", version, disable_help_subcommand = true, after_help = help::TOUR)]
pub(crate) struct ToolArgs {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags common to all verbs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// URL of Redis. Default: REDIS_URL, or the content of the file REDIS_URL_FILE (both keep a
    /// password out of the process list), else redis://127.0.0.1:6379
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// Output format; json prints one object per line
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = OutputFormat::Table,
        value_name = "FORMAT"
    )]
    pub(crate) output: OutputFormat,
    /// Turns colours off, as the variable NO_COLOR does
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Aligned columns, for people.
    Table,
    /// One object per line, for programs.
    Json,
}

/// A verb of the command line, with its flags.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Counts dead letters by reason and type, and unfinished events, per platform
    #[command(after_help = help::STATS)]
    Stats(StatsArgs),
    /// Lists dead letters, one row each, oldest first
    #[command(after_help = help::LIST)]
    List(ListArgs),
    /// Shows one dead letter: envelope, failure history, body
    #[command(after_help = help::SHOW)]
    Show(ShowArgs),
    /// Puts dead letters back into their platform's queue
    #[command(after_help = help::REPLAY, long_about = "\
Puts dead letters back into their platform's queue.

Each dead letter is moved in one atomic step: at any time it is either a dead letter or queued. \
It keeps its event id and its place in the order of events, skips the duplicate check, and starts \
at attempt 1; `replays` increases by one. An event takes effect once, however often it is \
replayed.")]
    Replay(ReplayArgs),
    /// Removes dead letters for good
    #[command(after_help = help::PURGE, long_about = "\
Removes dead letters for good.

Their dedup markers are removed too, so that the same event is accepted if the provider sends it \
again.")]
    Purge(PurgeArgs),
    /// Writes dead letters to stdout, one JSON object per line, for `import`
    #[command(after_help = help::EXPORT)]
    Export(ExportArgs),
    /// Restores dead letters from stdin, as `export` wrote them
    #[command(after_help = help::IMPORT)]
    Import(ImportArgs),
    /// Prints new dead letters as they arrive
    #[command(after_help = help::WATCH)]
    Watch(WatchArgs),
    /// Shows backlog, rates and dead letters live in the terminal
    #[command(after_help = help::TOP)]
    Top(TopArgs),
    /// Prints a completion script for a shell
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Prints the manual page
    #[command(after_help = help::MAN)]
    Man,
}
