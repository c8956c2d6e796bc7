//! Entry point, one module per verb, and their common session: connection, output and limits.

mod bulk;
mod editor;
mod export;
mod generate;
mod import;
mod list;
mod purge;
mod replay;
mod show;
mod stats;
mod top;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ColorChoice, CommandFactory, FromArgMatches};
use redis::IntoConnectionInfo;
use secrecy::{ExposeSecret, SecretString};
use shared::config::variables::{DLQ_MAX_LEN, MAX_BACKLOG, REDIS_CLUSTER};
use shared::config::{Env, percent_encoding_hint, redis_url};
use shared::platform::PlatformName;
use shared::queue::{KeyLayout, Queue, StreamReader, blocking_connection, connect};
use shared::shutdown;
use shared::visible::is_visible;

use crate::cli::{GlobalArgs, SelectionArgs, ToolArgs, Verb};
use crate::exit_code::{RunOutcome, ToolError, code};
use crate::output::{OutputWriter, eprint_line, ignore_broken_pipe};
use crate::scan::DeadLetterScan;
use crate::select::Selection;

/// Parses the command line, runs the verb and reports its error. Returns the exit code.
pub(crate) fn main() -> ExitCode {
    let cli = parse(std::env::args_os().collect());
    if let Err(error) = shutdown::watch_signals(None) {
        eprint_line(&format!("dlq-tool: cannot install signal handlers: {error}"));
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprint_line(&format!("dlq-tool: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(cli));
    shutdown::shutdown_runtime(runtime);
    let code = code(&result);
    if let Err(failure) = &result
        && code != 0
    {
        eprint_line(&format!("dlq-tool: {}", failure.error_chain()));
    }
    ExitCode::from(code)
}

fn parse(words: Vec<OsString>) -> ToolArgs {
    let plain = words.iter().any(|word| word == "--no-color");
    let command =
        ToolArgs::command().color(if plain { ColorChoice::Never } else { ColorChoice::Auto });
    let matches = command.try_get_matches_from(words);
    matches
        .and_then(|matches| ToolArgs::from_arg_matches(&matches))
        .unwrap_or_else(|error| refuse(&error))
}

/// Prints clap's help or error, and exits. Control characters of an error's quoted command line are
/// escaped.
fn refuse(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    if error.use_stderr() && text.chars().any(|c| c != '\n' && !is_visible(c)) {
        eprint_line(text.trim_end());
        std::process::exit(error.exit_code());
    }
    error.exit()
}

async fn run(cli: ToolArgs) -> Result<RunOutcome, ToolError> {
    match &cli.verb {
        Verb::Completions(args) => return generate::completions(args),
        Verb::Man => return generate::man(),
        _ => {}
    }
    let mut session = ToolSession::open(&cli.global)?;
    if matches!(cli.verb, Verb::Top(_)) {
        top::on_a_terminal()?;
    }
    match session.queue.layout_error().await {
        Ok(None) => {}
        Ok(Some(layout_error)) => return Err(ToolError::Usage(layout_error.to_string())),
        Err(fault) => return Err(ToolError::from(fault).with_address(&session.address)),
    }
    let result = match cli.verb {
        Verb::Completions(_) | Verb::Man => Ok(RunOutcome::Done),
        Verb::Stats(args) => stats::run(&mut session, args).await,
        Verb::List(args) => list::run(&mut session, args).await,
        Verb::Show(args) => show::run(&mut session, args).await,
        Verb::Replay(args) => replay::run(&mut session, args).await,
        Verb::Purge(args) => purge::run(&mut session, args).await,
        Verb::Export(args) => export::run(&mut session, args).await,
        Verb::Import(args) => import::run(&mut session, args).await,
        Verb::Watch(args) => watch::run(&mut session, args).await,
        Verb::Top(args) => top::run(&mut session, args).await,
    };
    ignore_broken_pipe(session.screen.flush())?;
    result.map_err(|failure| failure.with_address(&session.address))
}

/// Connection, output and limits of a run.
struct ToolSession {
    queue: Queue,
    screen: OutputWriter,
    url: SecretString,
    cluster: bool,
    /// Host and port of Redis, without the password.
    address: String,
    /// Most entries that a stream may hold after a replay: half of `MAX_BACKLOG`, so that a replay
    /// never makes ingress refuse events.
    replay_limit: u64,
    /// Most dead letters per platform: `DLQ_MAX_LEN`, as for workers.
    dlq_max_len: u64,
}

impl ToolSession {
    /// Reads the configuration. Redis is contacted by the first command.
    fn open(global: &GlobalArgs) -> Result<Self, ToolError> {
        let env = Env::from_process();
        let cluster = env.switch(&REDIS_CLUSTER);
        let url = match &global.redis_url {
            Some(url) => {
                if let Some(hint) = url.split(',').find_map(percent_encoding_hint) {
                    return Err(ToolError::Usage(format!("--redis-url: {hint}")));
                }
                SecretString::from(url.as_str())
            }
            None => redis_url(&env, cluster),
        };
        let max_backlog: u64 = env.number(&MAX_BACKLOG);
        let dlq_max_len = env.number(&DLQ_MAX_LEN);
        env.finish()
            .map_err(|problems| ToolError::Usage(env.report(&problems).trim_end().to_owned()))?;
        env.misspelt().iter().for_each(|one| eprint_line(&format!("dlq-tool: {one}")));
        let first = url.expose_secret().split(',').next().unwrap_or_default();
        let address =
            first.into_connection_info().map(|info| info.addr().to_string()).unwrap_or_default();
        let connection =
            connect(&url, cluster).map_err(|error| ToolError::Usage(error.to_string()))?;
        Ok(Self {
            queue: Queue::new(KeyLayout::of(cluster), connection),
            screen: OutputWriter::new(global),
            url,
            cluster,
            address,
            replay_limit: (max_backlog / 2).max(1),
            dlq_max_len,
        })
    }

    /// Opens a separate connection for blocking reads.
    fn reader(&self) -> Result<StreamReader, ToolError> {
        blocking_connection(&self.url, self.cluster)
            .map_err(|error| ToolError::Usage(error.to_string()))
    }

    /// Returns the platforms in `requested`, or all platforms that ever received an event; sorted.
    async fn platforms(&self, requested: &[PlatformName]) -> Result<Vec<PlatformName>, ToolError> {
        if requested.is_empty() {
            return Ok(self.queue.queues().await?);
        }
        let mut platforms = requested.to_vec();
        platforms.sort();
        platforms.dedup();
        Ok(platforms)
    }

    /// Starts a scan of the dead letters that `args` select.
    async fn scan(&self, args: &SelectionArgs) -> Result<DeadLetterScan, ToolError> {
        // Dead letters carry times of Redis's clock, so ages like "24h" count back on that clock.
        let selection = Selection::new(args, self.queue.now().await?);
        Ok(DeadLetterScan::new(
            self.queue.clone(),
            self.platforms(&args.platform).await?,
            selection,
        ))
    }

    /// Reports that nothing matched, and names platforms that never received an event.
    async fn nothing_matched(&self, requested: &[PlatformName]) -> Result<RunOutcome, ToolError> {
        let known = self.queue.queues().await?;
        let unknown: Vec<_> = requested
            .iter()
            .filter(|name| !known.contains(name))
            .map(PlatformName::as_str)
            .collect();
        eprint_line("no dead letter matches");
        if !unknown.is_empty() {
            let known: Vec<_> = known.iter().map(PlatformName::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            eprint_line(&format!(
                "no event was ever received for {}; platforms with events: {known}",
                unknown.join(", ")
            ));
        }
        Ok(RunOutcome::NothingMatched)
    }
}
