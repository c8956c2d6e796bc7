//! `purge`: removes dead letters, on request after an export.
//!
//! # Guarantees
//!
//! - With `--export FILE`, an entry is removed only after its line is in the file and the file is
//!   on disk (`purge_exports_to_a_file_that_can_be_imported`,
//!   `purge_with_a_failed_export_removes_nothing`).
//! - With `--export -`, an entry is removed only after its line is written to stdout, and on disk
//!   if stdout is a file (`purge_exports_to_standard_output`,
//!   `purge_into_a_closed_pipe_removes_nothing`).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use shared::event::{StreamId, marker_digest};
use shared::platform::PlatformName;
use shared::queue::{DeadLetter, PlatformKeys, StreamEntry, record};
use tokio_util::sync::CancellationToken;

use super::ToolSession;
use super::bulk::{self, BulkRequest};
use crate::cli::{OutputFormat, PurgeArgs};
use crate::confirm::{self, ConfirmAnswer, Consent};
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::{
    OutputWriter, count_noun, eprint_line, escaped_json_lines, ignore_broken_pipe, json,
};
use crate::plan::{BulkPlan, Cursor, PlatformPlan};
use crate::progress::ProgressIndicator;
use crate::scan::PageSize;

/// Selects dead letters, lists them or asks for confirmation, and removes them.
pub(super) async fn run(
    session: &mut ToolSession,
    args: PurgeArgs,
) -> Result<RunOutcome, ToolError> {
    if args.export.as_deref().is_some_and(is_stdout)
        && session.screen.format() == OutputFormat::Json
    {
        return Err(ToolError::Usage(
            "--export - and --output json both write to stdout; leave one out".to_owned(),
        ));
    }
    let request = BulkRequest { selection: &args.selection, dry_run: args.dry_run };
    let Some((mut plan, complete)) = bulk::build_plan(session, request, None).await? else {
        return session.nothing_matched(&args.selection.platform).await;
    };
    if args.dry_run {
        plan.eprint_summary(|_| String::new());
        eprint_line("dry run: these would be removed, nothing was changed");
        return Ok(complete);
    }
    if plan.platforms.len() > 1 {
        plan.eprint_summary(|_| String::new());
    }
    match confirm::ask("purge", plan.remaining() as u64, args.yes)? {
        ConfirmAnswer::Yes(consent) => {
            let export = args.export.map(ExportFile::create).transpose()?;
            let outcome = purge(session, &mut plan, export, consent).await?;
            Ok(if outcome == RunOutcome::Done { complete } else { outcome })
        }
        ConfirmAnswer::No => {
            eprint_line("nothing was purged");
            Ok(RunOutcome::Incomplete)
        }
    }
}

/// Executes the plan and reports the result, also if the run ends early.
async fn purge(
    session: &mut ToolSession,
    plan: &mut BulkPlan,
    export: Option<ExportFile>,
    _consent: Consent,
) -> Result<RunOutcome, ToolError> {
    let stop = shared::shutdown::shutdown_token()?;
    let progress = ProgressIndicator::new(session.screen.format(), Some(plan.remaining()));
    let mut run = PurgeRun { progress, stop, export, size: PageSize::new() };
    let mut result = Ok(());
    for part in &mut plan.platforms {
        result = run.purge_platform(session, part).await;
        if result.is_err() || run.stop.is_cancelled() {
            break;
        }
    }
    run.progress.end();
    match &run.export {
        Some(export) if export.file.is_none() => bulk::eprint_report(plan, "purged"),
        _ => bulk::report(&mut session.screen, plan, "PURGED", false)?,
    }
    if let Some(export) = &run.export {
        let count = count_noun(export.written, "dead letter", "dead letters");
        eprint_line(&format!("written to {}: {count}", export.name()));
    }
    bulk::conclude(plan, result, "Some of them may be removed: running it again is safe")
}

struct PurgeRun {
    progress: ProgressIndicator,
    stop: CancellationToken,
    export: Option<ExportFile>,
    size: PageSize,
}

impl PurgeRun {
    async fn purge_platform(
        &mut self,
        session: &mut ToolSession,
        part: &mut PlatformPlan,
    ) -> Result<(), ToolError> {
        let keys = session.queue.keys(&part.platform);
        self.progress.set_message(part.platform.as_str());
        let mut cursor = Cursor::default();
        while part.remaining() > 0 && !self.stop.is_cancelled() {
            let ids = cursor.take(&part.ids, self.size.entries());
            let entries = session.queue.find_dead_letters(&keys, &ids).await?;
            let found: Vec<StreamEntry> = entries.into_iter().flatten().collect();
            self.size.adapt(found.len(), found.iter().map(StreamEntry::weight).sum());
            let letters = self.export_entries(&mut session.screen, &keys, found)?;
            let mut removed = session.queue.purge(&keys, &letters).await?.into_iter();
            let mut letters = letters.iter().map(|(id, _)| *id).peekable();
            for id in ids {
                let was_there = letters.next_if_eq(&id).is_some() && removed.next() == Some(true);
                self.settle(&mut session.screen, part, id, was_there)?;
            }
            ignore_broken_pipe(session.screen.flush())?;
        }
        Ok(())
    }

    /// Writes `found` to the export, if there is one. Returns the ids that may be removed, each
    /// with the digest of its dedup marker.
    fn export_entries(
        &mut self,
        screen: &mut OutputWriter,
        keys: &PlatformKeys,
        found: Vec<StreamEntry>,
    ) -> Result<Vec<(StreamId, Option<String>)>, ToolError> {
        let mut letters = Vec::with_capacity(found.len());
        let mut lines = Vec::new();
        for entry in found {
            if self.export.is_some() {
                record::write(&keys.platform, entry.clone(), &mut lines)
                    .map_err(io::Error::other)?;
            }
            letters.push(with_marker_digest(&keys.platform, entry));
        }
        if let Some(export) = &mut self.export
            && !letters.is_empty()
        {
            export.add(screen, escaped_json_lines(lines), letters.len() as u64)?;
        }
        Ok(letters)
    }

    fn settle(
        &self,
        screen: &mut OutputWriter,
        part: &mut PlatformPlan,
        id: StreamId,
        was_there: bool,
    ) -> Result<(), ToolError> {
        if was_there {
            part.done += 1;
        } else {
            part.gone += 1;
        }
        if screen.format() == OutputFormat::Json {
            let result = if was_there { "purged" } else { "gone" };
            ignore_broken_pipe(json::line(
                screen,
                &PurgeReport { platform: &part.platform, id, result },
            ))?;
        }
        self.progress.inc(1);
        Ok(())
    }
}

/// Returns the id of a dead letter and the digest of its dedup marker.
pub(super) fn with_marker_digest(
    platform: &PlatformName,
    entry: StreamEntry,
) -> (StreamId, Option<String>) {
    let letter = DeadLetter::decode(platform, entry);
    let digest =
        letter.event_id.as_deref().map(|event_id| marker_digest(platform.as_str(), event_id));
    (letter.id, digest)
}

/// Destination of `--export`.
struct ExportFile {
    path: PathBuf,
    /// `None` for standard output.
    file: Option<File>,
    written: u64,
}

/// Returns true if the export goes to standard output.
fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl ExportFile {
    /// Creates a new file that only its owner may read, since bodies may be confidential. An
    /// existing file is an error. `-` is standard output.
    fn create(path: PathBuf) -> Result<Self, ToolError> {
        if is_stdout(&path) {
            return Ok(Self { path, file: None, written: 0 });
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options
            .open(&path)
            .map_err(|error| ToolError::Usage(format!("{}: {error}", path.display())))?;
        // The directory entry must survive a crash too.
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|error| write_error(&path, &error))?;
        Ok(Self { path, file: Some(file), written: 0 })
    }

    /// Writes `lines`. Returns after they are on disk, or written to a standard output that is not
    /// a file.
    fn add(
        &mut self,
        screen: &mut OutputWriter,
        lines: Vec<u8>,
        count: u64,
    ) -> Result<(), ToolError> {
        let written = match &mut self.file {
            Some(file) => file.write_all(&lines).and_then(|()| file.sync_data()),
            None => screen.write_bytes(&lines).and_then(|()| screen.sync()),
        };
        written.map_err(|error| write_error(&self.path, &error))?;
        self.written += count;
        Ok(())
    }

    fn name(&self) -> String {
        if self.file.is_none() {
            "standard output".to_owned()
        } else {
            self.path.display().to_string()
        }
    }
}

fn write_error(path: &Path, error: &io::Error) -> ToolError {
    // Wrapped, so that a broken pipe counts as a failure here.
    ToolError::Output(io::Error::other(format!("{}: {error}", path.display())))
}

/// Record of one entry for `--output json`.
#[derive(Debug, Serialize)]
struct PurgeReport<'a> {
    platform: &'a PlatformName,
    id: StreamId,
    result: &'static str,
}
