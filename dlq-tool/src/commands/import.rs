//! `import`: restores exported dead letters.
//!
//! # Guarantees
//!
//! - A line becomes a dead letter with exactly the exported fields, or it is reported and skipped
//!   (`exported_dead_letters_are_imported_unchanged`,
//!   `unreadable_line_is_reported_and_others_are_imported`).
//! - A repeated import adds nothing that is still there (`purged_dead_letters_are_imported_once`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};

use futures_util::future::join_all;
use serde::Serialize;
use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::record::{self, DeadLetterRecord};
use shared::queue::{CallError, ImportOutcome};
use tokio::sync::mpsc;

use super::ToolSession;
use crate::cli::{ImportArgs, OutputFormat};
use crate::confirm::{self, ConfirmAnswer};
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::table::{TableColumn, TextTable};
use crate::output::{OutputWriter, count_noun, eprint_line, ignore_broken_pipe, json};
use crate::progress::ProgressIndicator;

/// Longest line in bytes. A body of 1 MiB in its longest escaped form fits, with all other fields.
const MAX_LINE_BYTES: u64 = 64 * 1024 * 1024;
/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Most lines, and bytes of them, that are imported together. `join_all` polls up to 30 futures in
/// order, so the calls are sent in the order of the lines.
const MAX_BATCH_LINES: usize = 30;
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Reads the input, asks for confirmation if there is a second line, and imports.
pub(super) async fn run(
    session: &mut ToolSession,
    args: ImportArgs,
) -> Result<RunOutcome, ToolError> {
    let mut input = LineReader::open();
    let Some(first) = input.next().await? else { return nothing() };
    let second = input.next().await?;
    // The total is known only at the end, but two lines already need a confirmation.
    if second.is_some()
        && let ConfirmAnswer::No =
            confirm::ask_on_tty("Import all dead letters from standard input", "import", args.yes)?
    {
        eprint_line("nothing was imported");
        return Ok(RunOutcome::Incomplete);
    }
    let stop = shared::shutdown::shutdown_token()?;
    let mut run = ImportRun {
        progress: ProgressIndicator::new(session.screen.format(), None),
        totals: BTreeMap::new(),
        refused: 0,
        known: BTreeSet::new(),
    };
    let mut batch: Vec<NumberedLine> = std::iter::once(first).chain(second).collect();
    let result = loop {
        let mut bytes: usize = batch.iter().map(|line| line.bytes.len()).sum();
        while batch.len() < MAX_BATCH_LINES && bytes < MAX_BATCH_BYTES {
            let next = tokio::select! {
                next = input.next() => next?,
                () = stop.cancelled() => None,
            };
            let Some(line) = next else { break };
            bytes += line.bytes.len();
            batch.push(line);
        }
        if batch.is_empty() || stop.is_cancelled() {
            break Ok(());
        }
        if let Err(failure) = run.take(session, std::mem::take(&mut batch)).await {
            break Err(failure);
        }
    };
    run.progress.end();
    ignore_broken_pipe(run.report(&mut session.screen))?;
    if stop.is_cancelled() {
        eprint_line("stopped; run it again to continue");
    }
    if result.is_err() {
        eprint_line(&format!(
            "stopped; up to {MAX_BATCH_LINES} more lines may be imported: running it again is safe"
        ));
    }
    result?;
    if run.refused == 0 && run.totals.is_empty() && !stop.is_cancelled() {
        return nothing();
    }
    let complete = run.refused == 0
        && !stop.is_cancelled()
        && run.totals.values().all(|total| total.full == 0);
    Ok(if complete { RunOutcome::Done } else { RunOutcome::Incomplete })
}

fn nothing() -> Result<RunOutcome, ToolError> {
    eprint_line("no dead letter in the input");
    Ok(RunOutcome::NothingMatched)
}

/// A line of the input with its number, counted from 1.
struct NumberedLine {
    number: u64,
    bytes: Vec<u8>,
}

/// Reader of the lines that are not blank. It runs in its own thread, so that a blocked pipe does
/// not delay Ctrl-C.
struct LineReader {
    lines: mpsc::Receiver<io::Result<NumberedLine>>,
}

impl LineReader {
    fn open() -> Self {
        let (sender, lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            let mut input = io::stdin().lock();
            for number in 1.. {
                let mut bytes = Vec::new();
                let read = (&mut input).take(MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
                // Some editors and shells write one at the beginning of a file.
                if bytes.starts_with(BYTE_ORDER_MARK) {
                    bytes.drain(..BYTE_ORDER_MARK.len());
                }
                let line = match read {
                    Ok(0) => return,
                    Ok(_)
                        if number == 1
                            && (bytes.starts_with(b"\xff\xfe")
                                || bytes.starts_with(b"\xfe\xff")) =>
                    {
                        Err(io::Error::other(
                            "is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8",
                        ))
                    }
                    Ok(_) if bytes.iter().all(u8::is_ascii_whitespace) => continue,
                    Ok(length) if length as u64 == MAX_LINE_BYTES && !bytes.ends_with(b"\n") => {
                        Err(io::Error::other(format!(
                            "line {number} is longer than {MAX_LINE_BYTES} bytes"
                        )))
                    }
                    Ok(_) => Ok(NumberedLine { number, bytes }),
                    Err(error) => Err(error),
                };
                let broken = line.is_err();
                if sender.blocking_send(line).is_err() || broken {
                    return;
                }
            }
        });
        Self { lines }
    }

    async fn next(&mut self) -> Result<Option<NumberedLine>, ToolError> {
        let line = self.lines.recv().await.transpose();
        line.map_err(|error| ToolError::Input(io::Error::other(format!("standard input: {error}"))))
    }
}

#[derive(Debug, Default)]
struct ImportTotals {
    imported: u64,
    present: u64,
    full: u64,
}

struct ImportRun {
    progress: ProgressIndicator,
    totals: BTreeMap<PlatformName, ImportTotals>,
    refused: u64,
    /// Platforms already added to the index of platforms.
    known: BTreeSet<PlatformName>,
}

impl ImportRun {
    /// Imports a batch of lines in their order. Reports every known result, also if Redis becomes
    /// unavailable.
    async fn take(
        &mut self,
        session: &mut ToolSession,
        lines: Vec<NumberedLine>,
    ) -> Result<(), ToolError> {
        let mut records = Vec::with_capacity(lines.len());
        for NumberedLine { number, bytes } in lines {
            match record::read(&bytes) {
                Ok(record) => records.push((number, record)),
                Err(error) => {
                    self.refused += 1;
                    self.progress.eprint_line(&format!("line {number}: {error}"));
                    let reason = error.to_string();
                    let line = ImportLineReport {
                        line: number,
                        result: "refused",
                        reason: Some(&reason),
                        ..ImportLineReport::default()
                    };
                    self.print_report(&mut session.screen, &line)?;
                }
            }
        }
        for (_, DeadLetterRecord { platform, .. }) in &records {
            if self.known.insert(platform.clone()) {
                session.queue.register_platform(platform).await?;
            }
        }
        let calls = records.iter().map(|(_, record)| async {
            let keys = session.queue.keys(&record.platform);
            session
                .queue
                .import_dead_letter(&keys, record.id, &record.fields, session.dlq_max_len)
                .await
        });
        let outcomes = join_all(calls).await;
        let mut lost = None;
        for ((number, record), outcome) in records.iter().zip(outcomes) {
            match outcome {
                Ok(imported) => self.settle(&mut session.screen, *number, record, imported)?,
                Err(fault) => lost = Some(fault),
            }
        }
        ignore_broken_pipe(session.screen.flush())?;
        lost.map_or(Ok(()), |fault: CallError| Err(fault.into()))
    }

    fn settle(
        &mut self,
        screen: &mut OutputWriter,
        number: u64,
        record: &DeadLetterRecord,
        imported: ImportOutcome,
    ) -> Result<(), ToolError> {
        let total = self.totals.entry(record.platform.clone()).or_default();
        let mut line = ImportLineReport {
            line: number,
            platform: Some(&record.platform),
            id: Some(record.id),
            ..ImportLineReport::default()
        };
        match imported {
            ImportOutcome::Done(id) => {
                total.imported += 1;
                (line.result, line.imported_as) = ("imported", Some(id));
            }
            ImportOutcome::Present => {
                total.present += 1;
                line.result = "present";
            }
            ImportOutcome::Full => {
                total.full += 1;
                line.result = "full";
                let platform = &record.platform;
                self.progress.eprint_line(&format!(
                    "line {number}: {platform} has as many dead letters as DLQ_MAX_LEN allows"
                ));
            }
        }
        self.progress.inc(1);
        self.print_report(screen, &line)
    }

    fn print_report(
        &self,
        screen: &mut OutputWriter,
        line: &ImportLineReport<'_>,
    ) -> Result<(), ToolError> {
        if screen.format() == OutputFormat::Json {
            ignore_broken_pipe(json::line(screen, line))?;
        }
        Ok(())
    }

    fn report(&self, screen: &mut OutputWriter) -> io::Result<()> {
        if self.refused > 0 {
            eprint_line(&format!("refused: {}", count_noun(self.refused, "line", "lines")));
        }
        if screen.format() == OutputFormat::Json {
            return screen.flush();
        }
        let mut table = TextTable::new([
            TableColumn::text("PLATFORM", 64),
            TableColumn::number("IMPORTED"),
            TableColumn::number("PRESENT"),
            TableColumn::number("NO ROOM"),
        ]);
        let row = |(platform, total): (&PlatformName, &ImportTotals)| {
            [
                platform.to_string(),
                total.imported.to_string(),
                total.present.to_string(),
                total.full.to_string(),
            ]
        };
        table.page(screen, &self.totals.iter().map(row).collect::<Vec<_>>())?;
        screen.flush()
    }
}

/// Record of one line for `--output json`.
#[derive(Debug, Default, Serialize)]
struct ImportLineReport<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a PlatformName>,
    /// Id of the dead letter in the system that exported it.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<StreamId>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    imported_as: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}
