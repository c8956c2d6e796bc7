//! `import`: what was exported is a dead letter again.
//!
//! Guarantee: a line becomes a dead letter with the very fields that were exported, or it is refused and named; nothing
//! is half imported. Running an import again adds nothing that is here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};

use futures_util::future::join_all;
use serde::Serialize;
use shared::event::StreamId;
use shared::platform::PlatformName;
use shared::queue::record::{self, DeadLetterRecord};
use shared::queue::{CallError, ImportOutcome};
use tokio::sync::mpsc;

use super::Session;
use crate::cli::{Format, ImportArgs};
use crate::confirm::{self, Answer};
use crate::exit_code::{Failure, Outcome};
use crate::output::table::{Column, Table};
use crate::output::{Screen, counted, heard, json, say};
use crate::progress::Progress;

/// Longest line: a body of a megabyte, escaped as badly as can be, and everything beside it.
const MAX_LINE: u64 = 64 * 1024 * 1024;
/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Lines that are imported together, and bytes of them. Up to thirty, `join_all` sends in order, and so they stay.
const AHEAD: usize = 30;
const AHEAD_BYTES: usize = 4 * 1024 * 1024;

/// Reads, asks before the second one, and imports.
pub(super) async fn run(session: &mut Session, args: ImportArgs) -> Result<Outcome, Failure> {
    let mut input = Input::open();
    let Some(first) = input.next().await? else { return nothing() };
    let second = input.next().await?;
    // How many there are is known only at the end; whether there are several, already here.
    if second.is_some()
        && let Answer::No =
            confirm::ask_beside_data("Import all dead letters from standard input", "import", args.yes)?
    {
        say("nothing was imported");
        return Ok(Outcome::Incomplete);
    }
    let stop = shared::shutdown::shutdown_token()?;
    let mut run = Run {
        progress: Progress::new(session.screen.format(), None),
        totals: BTreeMap::new(),
        refused: 0,
        known: BTreeSet::new(),
    };
    let mut held: Vec<Numbered> = std::iter::once(first).chain(second).collect();
    let result = loop {
        let mut bytes: usize = held.iter().map(|line| line.bytes.len()).sum();
        while held.len() < AHEAD && bytes < AHEAD_BYTES {
            let next = tokio::select! {
                next = input.next() => next?,
                () = stop.cancelled() => None,
            };
            let Some(line) = next else { break };
            bytes += line.bytes.len();
            held.push(line);
        }
        if held.is_empty() || stop.is_cancelled() {
            break Ok(());
        }
        if let Err(failure) = run.take(session, std::mem::take(&mut held)).await {
            break Err(failure);
        }
    };
    run.progress.end();
    heard(run.report(&mut session.screen))?;
    if stop.is_cancelled() {
        say("stopped; running it again goes on where it was");
    }
    if result.is_err() {
        say(&format!("stopped; up to {AHEAD} more lines may be imported: running it again is safe"));
    }
    result?;
    if run.refused == 0 && run.totals.is_empty() && !stop.is_cancelled() {
        return nothing();
    }
    let complete = run.refused == 0 && !stop.is_cancelled() && run.totals.values().all(|total| total.full == 0);
    Ok(if complete { Outcome::Done } else { Outcome::Incomplete })
}

fn nothing() -> Result<Outcome, Failure> {
    say("no dead letter in the input");
    Ok(Outcome::NothingMatched)
}

/// A line of the input, with its number from 1.
struct Numbered {
    number: u64,
    bytes: Vec<u8>,
}

/// Lines that are not blank, read by a thread of its own: reading a pipe must not keep Ctrl-C waiting.
struct Input {
    lines: mpsc::Receiver<io::Result<Numbered>>,
}

impl Input {
    fn open() -> Self {
        let (sender, lines) = mpsc::channel(1);
        std::thread::spawn(move || {
            let mut input = io::stdin().lock();
            for number in 1.. {
                let mut bytes = Vec::new();
                let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut bytes);
                // Editors and shells put one at the beginning of a file.
                if bytes.starts_with(BYTE_ORDER_MARK) {
                    bytes.drain(..BYTE_ORDER_MARK.len());
                }
                let line = match read {
                    Ok(0) => return,
                    Ok(_) if number == 1 && (bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")) => {
                        Err(io::Error::other("is UTF-16; convert it first: iconv -f UTF-16 -t UTF-8"))
                    }
                    Ok(_) if bytes.iter().all(u8::is_ascii_whitespace) => continue,
                    Ok(length) if length as u64 == MAX_LINE && !bytes.ends_with(b"\n") => {
                        Err(io::Error::other(format!("line {number} is longer than {MAX_LINE} bytes")))
                    }
                    Ok(_) => Ok(Numbered { number, bytes }),
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

    async fn next(&mut self) -> Result<Option<Numbered>, Failure> {
        let line = self.lines.recv().await.transpose();
        line.map_err(|error| Failure::Input(io::Error::other(format!("standard input: {error}"))))
    }
}

#[derive(Debug, Default)]
struct Total {
    imported: u64,
    present: u64,
    full: u64,
}

struct Run {
    progress: Progress,
    totals: BTreeMap<PlatformName, Total>,
    refused: u64,
    /// Platforms that are in the index.
    known: BTreeSet<PlatformName>,
}

impl Run {
    /// Imports some lines, in their order; all that can be known of them is said, also where Redis goes away.
    async fn take(&mut self, session: &mut Session, lines: Vec<Numbered>) -> Result<(), Failure> {
        let mut records = Vec::with_capacity(lines.len());
        for Numbered { number, bytes } in lines {
            match record::read(&bytes) {
                Ok(record) => records.push((number, record)),
                Err(error) => {
                    self.refused += 1;
                    self.progress.say(&format!("line {number}: {error}"));
                    let reason = error.to_string();
                    let line = Line { line: number, result: "refused", reason: Some(&reason), ..Line::default() };
                    self.tell(&mut session.screen, &line)?;
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
            session.queue.import_dead_letter(&keys, record.id, &record.fields, session.dlq_max_len).await
        });
        let outcomes = join_all(calls).await;
        let mut lost = None;
        for ((number, record), outcome) in records.iter().zip(outcomes) {
            match outcome {
                Ok(imported) => self.settle(&mut session.screen, *number, record, imported)?,
                Err(fault) => lost = Some(fault),
            }
        }
        heard(session.screen.flush())?;
        lost.map_or(Ok(()), |fault: CallError| Err(fault.into()))
    }

    fn settle(
        &mut self,
        screen: &mut Screen,
        number: u64,
        record: &DeadLetterRecord,
        imported: ImportOutcome,
    ) -> Result<(), Failure> {
        let total = self.totals.entry(record.platform.clone()).or_default();
        let mut line =
            Line { line: number, platform: Some(&record.platform), id: Some(record.id), ..Line::default() };
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
                self.progress
                    .say(&format!("line {number}: {platform} has as many dead letters as DLQ_MAX_LEN allows"));
            }
        }
        self.progress.inc(1);
        self.tell(screen, &line)
    }

    fn tell(&self, screen: &mut Screen, line: &Line<'_>) -> Result<(), Failure> {
        if screen.format() == Format::Json {
            heard(json::line(screen, line))?;
        }
        Ok(())
    }

    fn report(&self, screen: &mut Screen) -> io::Result<()> {
        if self.refused > 0 {
            say(&format!("refused: {}", counted(self.refused, "line", "lines")));
        }
        if screen.format() == Format::Json {
            return screen.flush();
        }
        let mut table = Table::new([
            Column::text("PLATFORM", 64),
            Column::number("IMPORTED"),
            Column::number("PRESENT"),
            Column::number("NO ROOM"),
        ]);
        let row = |(platform, total): (&PlatformName, &Total)| {
            [platform.to_string(), total.imported.to_string(), total.present.to_string(), total.full.to_string()]
        };
        table.page(screen, &self.totals.iter().map(row).collect::<Vec<_>>())?;
        screen.flush()
    }
}

/// What `--output json` says of one line.
#[derive(Debug, Default, Serialize)]
struct Line<'a> {
    line: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<&'a PlatformName>,
    /// The id it had where it was exported.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<StreamId>,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    imported_as: Option<StreamId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}
