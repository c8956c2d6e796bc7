//! `purge`: gone for good, but for the copy that was asked for.
//!
//! Guarantee: with `--export`, an entry is removed only once its line is in the file and the file is on disk. With
//! `--export -`, once its line is written to stdout, and on disk where stdout is a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use shared::event::{StreamId, marker_digest};
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, StreamEntry, PlatformKeys, record};
use tokio_util::sync::CancellationToken;

use super::Session;
use super::carry::{self, Consider};
use crate::cli::{Format, PurgeArgs};
use crate::confirm::{self, Answer, Consent};
use crate::exit_code::{Failure, Outcome};
use crate::output::{Screen, counted, heard, json, plain_lines, say};
use crate::plan::{Cursor, Plan, Share};
use crate::progress::Progress;
use crate::scan::PageSize;

/// Selects, shows or asks, and removes.
pub(super) async fn run(session: &mut Session, args: PurgeArgs) -> Result<Outcome, Failure> {
    if args.export.as_deref().is_some_and(is_stdout) && session.screen.format() == Format::Json {
        return Err(Failure::Usage("--export - and --output json both write to stdout; leave one out".to_owned()));
    }
    let consider = Consider { selection: &args.selection, dry_run: args.dry_run };
    let Some((mut plan, complete)) = carry::consider(session, consider, None).await? else {
        return session.nothing_matched(&args.selection.platform).await;
    };
    if args.dry_run {
        plan.say(|_| String::new());
        say("dry run: these would be removed, nothing was changed");
        return Ok(complete);
    }
    if plan.shares.len() > 1 {
        plan.say(|_| String::new());
    }
    match confirm::ask("purge", plan.left() as u64, args.yes)? {
        Answer::Yes(consent) => {
            let export = args.export.map(Export::create).transpose()?;
            let outcome = purge(session, &mut plan, export, consent).await?;
            Ok(if outcome == Outcome::Done { complete } else { outcome })
        }
        Answer::No => {
            say("nothing was purged");
            Ok(Outcome::Incomplete)
        }
    }
}

/// Carries out the plan, and reports on all of it, also where it ends early.
async fn purge(
    session: &mut Session,
    plan: &mut Plan,
    export: Option<Export>,
    _consent: Consent,
) -> Result<Outcome, Failure> {
    let stop = shared::shutdown::shutdown_token()?;
    let progress = Progress::new(session.screen.format(), Some(plan.left()));
    let mut run = Run { progress, stop, export, size: PageSize::new() };
    let mut result = Ok(());
    for share in &mut plan.shares {
        result = run.share(session, share).await;
        if result.is_err() || run.stop.is_cancelled() {
            break;
        }
    }
    run.progress.end();
    match &run.export {
        Some(export) if export.file.is_none() => carry::say_report(plan, "purged"),
        _ => carry::report(&mut session.screen, plan, "PURGED", false)?,
    }
    if let Some(export) = &run.export {
        let count = counted(export.written, "dead letter", "dead letters");
        say(&format!("written to {}: {count}", export.name()));
    }
    carry::conclude(plan, result, "Some of them may be removed: running it again is safe")
}

struct Run {
    progress: Progress,
    stop: CancellationToken,
    export: Option<Export>,
    size: PageSize,
}

impl Run {
    async fn share(&mut self, session: &mut Session, share: &mut Share) -> Result<(), Failure> {
        let keys = session.queue.keys(&share.platform);
        self.progress.at(share.platform.as_str());
        let mut cursor = Cursor::default();
        while share.left() > 0 && !self.stop.is_cancelled() {
            let ids = cursor.take(&share.ids, self.size.entries());
            let entries = session.queue.find_dead_letters(&keys, &ids).await?;
            let found: Vec<StreamEntry> = entries.into_iter().flatten().collect();
            self.size.learn(found.len(), found.iter().map(StreamEntry::weight).sum());
            let letters = self.keep(&mut session.screen, &keys, found)?;
            let mut removed = session.queue.purge(&keys, &letters).await?.into_iter();
            let mut letters = letters.iter().map(|(id, _)| *id).peekable();
            for id in ids {
                let was_there = letters.next_if_eq(&id).is_some() && removed.next() == Some(true);
                self.settle(&mut session.screen, share, id, was_there)?;
            }
            heard(session.screen.flush())?;
        }
        Ok(())
    }

    /// Writes `found` to the file, if there is one; what may be removed now, with its duplicate marker.
    fn keep(
        &mut self,
        screen: &mut Screen,
        keys: &PlatformKeys,
        found: Vec<StreamEntry>,
    ) -> Result<Vec<(StreamId, Option<String>)>, Failure> {
        let mut letters = Vec::with_capacity(found.len());
        let mut lines = Vec::new();
        for entry in found {
            if self.export.is_some() {
                record::write(&keys.platform, entry.clone(), &mut lines).map_err(io::Error::other)?;
            }
            letters.push(marker(&keys.platform, entry));
        }
        if let Some(export) = &mut self.export
            && !letters.is_empty()
        {
            export.add(screen, plain_lines(lines), letters.len() as u64)?;
        }
        Ok(letters)
    }

    fn settle(&self, screen: &mut Screen, share: &mut Share, id: StreamId, was_there: bool) -> Result<(), Failure> {
        if was_there {
            share.done += 1;
        } else {
            share.gone += 1;
        }
        if screen.format() == Format::Json {
            let result = if was_there { "purged" } else { "gone" };
            heard(json::line(screen, &Line { platform: &share.platform, id, result }))?;
        }
        self.progress.inc(1);
        Ok(())
    }
}

/// A dead letter, and the digest of its duplicate marker.
pub(super) fn marker(platform: &PlatformName, entry: StreamEntry) -> (StreamId, Option<String>) {
    let letter = DeadLetter::decode(platform, entry);
    let digest = letter.event_id.as_deref().map(|event_id| marker_digest(platform.as_str(), event_id));
    (letter.id, digest)
}

/// The copy.
struct Export {
    path: PathBuf,
    /// `None`: standard output.
    file: Option<File>,
    written: u64,
}

/// Returns true if the copy at `path` is standard output.
fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Export {
    /// A new file that only its owner may read: bodies may be confidential. An existing one is never written over.
    /// `-` is standard output.
    fn create(path: PathBuf) -> Result<Self, Failure> {
        if is_stdout(&path) {
            return Ok(Self { path, file: None, written: 0 });
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
        // The file's name has to survive, too.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| unwritable(&path, &error))?;
        Ok(Self { path, file: Some(file), written: 0 })
    }

    /// Returns once `lines` are on disk, or written to a standard output that is no file.
    fn add(&mut self, screen: &mut Screen, lines: Vec<u8>, count: u64) -> Result<(), Failure> {
        let written = match &mut self.file {
            Some(file) => file.write_all(&lines).and_then(|()| file.sync_data()),
            None => screen.write_bytes(&lines).and_then(|()| screen.sync()),
        };
        written.map_err(|error| unwritable(&self.path, &error))?;
        self.written += count;
        Ok(())
    }

    fn name(&self) -> String {
        if self.file.is_none() { "standard output".to_owned() } else { self.path.display().to_string() }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    // Not what the error is itself: a file that is a closed pipe is a failure.
    Failure::Output(io::Error::other(format!("{}: {error}", path.display())))
}

/// What `--output json` says of one entry.
#[derive(Debug, Serialize)]
struct Line<'a> {
    platform: &'a PlatformName,
    id: StreamId,
    result: &'static str,
}
