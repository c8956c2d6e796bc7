//! `watch`: prints new dead letters as they arrive.
//!
//! # Guarantees
//!
//! - From its start on, every dead letter is printed once, in the order of its platform's stream
//!   (`watch_shows_new_dead_letters_until_ctrl_c`).
//! - After an outage of Redis it continues after the last dead letter that it read
//!   (`watch_resumes_after_a_redis_outage`).

use std::io;
use std::time::Duration;

use shared::event::StreamId;
use shared::queue::{CallError, DeadLetter, PlatformKeys, StreamReader};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::ToolSession;
use super::list::ListPrinter;
use crate::cli::WatchArgs;
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::eprint_line;
use crate::select::Selection;

/// Longest blocking read. Ctrl-C takes effect within this time.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Most entries per read and platform.
const PAGE_ENTRIES: usize = 100;
/// Interval at which new platforms are found.
const PLATFORM_REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// Pause between two attempts while Redis is unavailable.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Prints new dead letters until Ctrl-C, or until `--limit` are shown.
pub(super) async fn run(
    session: &mut ToolSession,
    args: WatchArgs,
) -> Result<RunOutcome, ToolError> {
    let selection = Selection::new(&args.selection, session.queue.now().await?);
    let mut watch = Watcher {
        reader: session.reader()?,
        left: selection.limit().unwrap_or(u64::MAX),
        selection,
        args,
        streams: Vec::new(),
        excluded: Vec::new(),
        refreshed_at: None,
        rows: ListPrinter::for_watch(),
    };
    watch.refresh_platforms(session).await?;
    eprint_line(&format!("watching {}; Ctrl-C ends it", session.address));
    let stop = shared::shutdown::shutdown_token()?;
    let mut unavailable = false;
    while watch.left > 0 && !stop.is_cancelled() {
        match watch.step(session).await {
            Ok(()) if std::mem::take(&mut unavailable) => {
                eprint_line("Redis is available again; continuing")
            }
            Ok(()) => {}
            Err(ToolError::Unreachable { .. }) => {
                if !std::mem::replace(&mut unavailable, true) {
                    eprint_line("Redis is unavailable; reconnecting");
                }
                pause(&stop).await;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(RunOutcome::Done)
}

async fn pause(stop: &CancellationToken) {
    tokio::select! {
        () = sleep(RECONNECT_PAUSE) => {}
        () = stop.cancelled() => {}
    }
}

struct Watcher {
    reader: StreamReader,
    selection: Selection,
    args: WatchArgs,
    left: u64,
    /// Watched streams, each with the last id that was read.
    streams: Vec<(PlatformKeys, StreamId)>,
    /// Keys of another type than stream.
    excluded: Vec<PlatformKeys>,
    refreshed_at: Option<Instant>,
    rows: ListPrinter,
}

impl Watcher {
    async fn step(&mut self, session: &mut ToolSession) -> Result<(), ToolError> {
        if self.refreshed_at.is_none_or(|at| at.elapsed() >= PLATFORM_REFRESH_INTERVAL) {
            self.refresh_platforms(session).await?;
        }
        if self.streams.is_empty() {
            sleep(BLOCK_TIMEOUT).await;
            return Ok(());
        }
        let pages = match session
            .queue
            .follow_dead_letters(&mut self.reader, &self.streams, PAGE_ENTRIES, BLOCK_TIMEOUT)
            .await
        {
            Ok(pages) => pages,
            // One key of another type makes the read of all streams fail.
            Err(fault) if fault.is_wrong_type() => return self.exclude_wrong_types(session).await,
            Err(fault) => return Err(fault.into()),
        };
        for (position, entries) in pages {
            let Some((keys, after)) = self.streams.get_mut(position) else { continue };
            if let Some(last) = entries.last() {
                *after = last.id;
            }
            let letters =
                entries.into_iter().map(|entry| DeadLetter::decode(&keys.platform, entry));
            let mut letters: Vec<_> =
                letters.filter(|letter| self.selection.matches(letter)).collect();
            letters.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= letters.len() as u64;
            self.show(session, &letters)?;
        }
        Ok(())
    }

    fn show(&mut self, session: &mut ToolSession, letters: &[DeadLetter]) -> io::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        self.rows.add(&mut session.screen, letters)?;
        self.rows.finish(&mut session.screen)
    }

    /// Adds platforms that are not watched yet. At the start, their streams are read from the end
    /// (or from `--since`); later ones from the beginning, since all their entries are new.
    async fn refresh_platforms(&mut self, session: &ToolSession) -> Result<(), ToolError> {
        let first = self.refreshed_at.is_none();
        for platform in session.platforms(&self.args.selection.platform).await? {
            let known = self.streams.iter().map(|(keys, _)| keys).chain(&self.excluded);
            if known.map(|keys| &keys.platform).any(|one| *one == platform) {
                continue;
            }
            let keys = session.queue.keys(&platform);
            let after = match self.selection.after() {
                Some(after) => after,
                None if !first => StreamId::default(),
                None => match session.queue.newest_dead_letters(&keys, None, 1).await {
                    Ok(newest) => newest.first().map(|entry| entry.id).unwrap_or_default(),
                    Err(fault) if fault.is_wrong_type() => StreamId::default(),
                    Err(fault) => return Err(fault.into()),
                },
            };
            self.streams.push((keys, after));
        }
        self.refreshed_at = Some(Instant::now());
        Ok(())
    }

    async fn exclude_wrong_types(&mut self, session: &ToolSession) -> Result<(), ToolError> {
        let mut kept = Vec::new();
        for (keys, after) in std::mem::take(&mut self.streams) {
            match session.queue.newest_dead_letters(&keys, None, 1).await {
                Err(fault) if fault.is_wrong_type() => {
                    eprint_line(&format!(
                        "{}: {} is not a stream; it is not watched",
                        keys.platform, keys.dlq
                    ));
                    self.excluded.push(keys);
                }
                Err(fault) => {
                    kept.push((keys, after));
                    self.streams.append(&mut kept);
                    return Err(CallError::into(fault));
                }
                Ok(_) => kept.push((keys, after)),
            }
        }
        self.streams = kept;
        Ok(())
    }
}
