//! The command line. It is the tool's only documentation that is always at hand, so every verb's help ends in examples.

mod args;
mod help;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use args::{
    CompletionsArgs, ExportArgs, ImportArgs, ListArgs, PurgeArgs, ReplayArgs, SelectionArgs,
    ShowArgs, StatsArgs, TopArgs, WatchArgs,
};
pub(crate) use help::TOP_KEYS;

/// Looks at dead letters, and puts them back to work.
///
/// A dead letter is an event that was accepted but could not be processed: it waits in the stream
/// webhooks:dlq:PLATFORM, with its body, its history and the reason, until somebody decides.
#[derive(Debug, Parser)]
#[command(name = "dlq-tool", version, disable_help_subcommand = true, after_help = help::TOUR)]
pub(crate) struct ToolArgs {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags that every verb takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Where Redis is. Default: REDIS_URL, or the file that REDIS_URL_FILE names (they keep a password out of the
    /// process list), else redis://127.0.0.1:6379
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis_url: Option<String>,
    /// How data is printed; json: one object per line
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Table, value_name = "FORMAT")]
    pub(crate) output: OutputFormat,
    /// Plain text, also on a terminal (so does the variable NO_COLOR)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Aligned columns, for people.
    Table,
    /// One object per line, for programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Counts, per platform: dead letters by reason and type, and what is still on its way
    #[command(after_help = help::STATS)]
    Stats(StatsArgs),
    /// One row per dead letter, oldest first
    #[command(after_help = help::LIST)]
    List(ListArgs),
    /// Everything about one dead letter: envelope, failure history, body
    #[command(after_help = help::SHOW)]
    Show(ShowArgs),
    /// Puts dead letters back into their platform's queue
    #[command(after_help = help::REPLAY, long_about = "\
Puts dead letters back into their platform's queue.

Each one is moved by one atomic step: at every instant it is either a dead letter or queued. It keeps its event id and \
its place in the order of events, passes the duplicate check, and starts with a fresh count of attempts; `replays` goes \
up by one. Replaying is safe: an event takes effect once, however often it is replayed.")]
    Replay(ReplayArgs),
    /// Removes dead letters for good
    #[command(after_help = help::PURGE, long_about = "\
Removes dead letters for good.

Their duplicate markers go too, so that a provider who sends such an event again is heard.")]
    Purge(PurgeArgs),
    /// Writes dead letters to stdout, one JSON object per line, to be imported again
    #[command(after_help = help::EXPORT)]
    Export(ExportArgs),
    /// Reads from stdin what `export` wrote, and makes dead letters of it
    #[command(after_help = help::IMPORT)]
    Import(ImportArgs),
    /// Follows new dead letters
    #[command(after_help = help::WATCH)]
    Watch(WatchArgs),
    /// Backlog, rates and dead letters, live, in the terminal
    #[command(after_help = help::TOP)]
    Top(TopArgs),
    /// Prints what makes a shell complete this command line
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Prints the manual page
    #[command(after_help = help::MAN)]
    Man,
}
