//! `list`: prints a row per dead letter.

use std::io;

use shared::queue::DeadLetter;

use super::ToolSession;
use crate::cli::{ListArgs, OutputFormat};
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::table::{TableColumn, TextTable};
use crate::output::{OutputWriter, count_noun, eprint_line, json};
use crate::scan::DeadLetterScan;
use crate::time_arg;

/// Rows that are aligned together.
const PAGE_ROWS: usize = 500;

/// Prints the selected dead letters, page by page.
pub(super) async fn run(
    session: &mut ToolSession,
    args: ListArgs,
) -> Result<RunOutcome, ToolError> {
    let mut scan = session.scan(&args.selection).await?;
    let mut rows = ListPrinter::new();
    let mut count = 0;
    let walk = async {
        while let Some(letters) = scan.next().await? {
            count += letters.len() as u64;
            rows.add(&mut session.screen, &letters)?;
        }
        Ok::<(), ToolError>(())
    };
    let walked = walk.await;
    rows.finish(&mut session.screen)?;
    walked?;
    if count == 0 {
        return session.nothing_matched(&args.selection.platform).await;
    }
    eprint_total(&scan, count);
    Ok(RunOutcome::Done)
}

/// Reports the number of dead letters, whether `--limit` was reached, and the ids without a match.
pub(super) fn eprint_total(scan: &DeadLetterScan, count: u64) {
    let more = if scan.hit_limit() { " (--limit reached, there may be more)" } else { "" };
    eprint_line(&format!("{}{more}", count_noun(count, "dead letter", "dead letters")));
    for id in scan.missing() {
        eprint_line(&format!("{id}: no such dead letter, or it does not match"));
    }
}

/// Printer of dead letters, as JSON objects or as rows of a table. Rows are buffered until they
/// fill a page.
#[derive(Debug)]
pub(super) struct ListPrinter {
    table: TextTable<8>,
    buffered: Vec<[String; 8]>,
}

impl ListPrinter {
    /// Creates a printer for a list of unknown length.
    pub(super) fn new() -> Self {
        let table = TextTable::new([
            TableColumn::text("ID", 41),
            TableColumn::text("PLATFORM", 64),
            TableColumn::text("ERROR CODE", 20),
            TableColumn::text("EVENT TYPE", 36),
            TableColumn::text("EVENT ID", 36),
            TableColumn::number("ATTEMPTS"),
            TableColumn::number("REPLAYS"),
            TableColumn::text("FAILED AT", 24),
        ]);
        Self { table, buffered: Vec::new() }
    }

    /// Creates a printer with reserved column widths, for rows that arrive one by one.
    pub(super) fn for_watch() -> Self {
        let mut rows = Self::new();
        rows.table.reserve([20, 8, 20, 24, 36, 8, 7, 20]);
        rows
    }

    /// Adds dead letters, and prints a page if it is full.
    pub(super) fn add(
        &mut self,
        screen: &mut OutputWriter,
        letters: &[DeadLetter],
    ) -> io::Result<()> {
        if screen.format() == OutputFormat::Json {
            letters.iter().try_for_each(|letter| json::line(screen, letter))?;
            return screen.flush();
        }
        self.buffered.extend(letters.iter().map(row));
        if self.buffered.len() < PAGE_ROWS { Ok(()) } else { self.finish(screen) }
    }

    /// Prints the buffered rows.
    pub(super) fn finish(&mut self, screen: &mut OutputWriter) -> io::Result<()> {
        self.table.page(screen, &self.buffered)?;
        self.buffered.clear();
        screen.flush()
    }
}

fn row(letter: &DeadLetter) -> [String; 8] {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    [
        letter.id.to_string(),
        letter.platform.to_string(),
        text(&letter.error_code),
        text(&letter.event_type),
        text(&letter.event_id),
        letter.attempts.map_or_else(|| "-".to_owned(), |attempts| attempts.to_string()),
        letter.replays.to_string(),
        time_arg::format_seconds(letter.dead_lettered_at()),
    ]
}
