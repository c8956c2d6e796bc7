//! `watch`: new dead letters as they come.
//!
//! Guarantee: from where it begins, every one of them is shown once, in the order of its platform's stream: it goes on
//! behind the last one that it has seen, also after Redis was away.

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

/// How long a read waits; also how soon Ctrl-C is obeyed at the latest.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Entries of one read, per platform.
const PAGE_ENTRIES: usize = 100;
/// How often platforms are looked for that are new.
const PLATFORM_REFRESH_INTERVAL: Duration = Duration::from_secs(2);
/// How long to wait before the next attempt while Redis is away.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Follows until Ctrl-C, or until `--limit` are shown.
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
        set_aside: Vec::new(),
        looked: None,
        rows: ListPrinter::for_watch(),
    };
    watch.refresh_platforms(session).await?;
    eprint_line(&format!("watching {}; Ctrl-C ends it", session.address));
    let stop = shared::shutdown::shutdown_token()?;
    let mut away = false;
    while watch.left > 0 && !stop.is_cancelled() {
        match watch.step(session).await {
            Ok(()) if std::mem::take(&mut away) => eprint_line("Redis is back; going on"),
            Ok(()) => {}
            Err(ToolError::Unreachable { .. }) => {
                if !std::mem::replace(&mut away, true) {
                    eprint_line("Redis is away; waiting for it");
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
    /// What is followed, and behind which id.
    streams: Vec<(PlatformKeys, StreamId)>,
    /// Keys that hold something else.
    set_aside: Vec<PlatformKeys>,
    looked: Option<Instant>,
    rows: ListPrinter,
}

impl Watcher {
    async fn step(&mut self, session: &mut ToolSession) -> Result<(), ToolError> {
        if self.looked.is_none_or(|at| at.elapsed() >= PLATFORM_REFRESH_INTERVAL) {
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
            // One key that is no stream would keep all others from being read.
            Err(fault) if fault.is_wrong_type() => return self.set_aside(session).await,
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

    /// Takes in platforms that are not followed yet: those of the start from now on (or from `--since`), later ones from
    /// their beginning, since all of theirs is new.
    async fn refresh_platforms(&mut self, session: &ToolSession) -> Result<(), ToolError> {
        let first = self.looked.is_none();
        for platform in session.platforms(&self.args.selection.platform).await? {
            let known = self.streams.iter().map(|(keys, _)| keys).chain(&self.set_aside);
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
        self.looked = Some(Instant::now());
        Ok(())
    }

    async fn set_aside(&mut self, session: &ToolSession) -> Result<(), ToolError> {
        let mut kept = Vec::new();
        for (keys, after) in std::mem::take(&mut self.streams) {
            match session.queue.newest_dead_letters(&keys, None, 1).await {
                Err(fault) if fault.is_wrong_type() => {
                    eprint_line(&format!(
                        "{}: {} holds something else; it is not watched",
                        keys.platform, keys.dlq
                    ));
                    self.set_aside.push(keys);
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
