//! `list`: a row per dead letter.

use std::io;

use shared::queue::DeadLetter;

use super::Session;
use crate::cli::{Format, ListArgs};
use crate::exit_code::{Failure, Outcome};
use crate::output::table::{Column, Table};
use crate::output::{Screen, counted, json, say};
use crate::scan::Scan;
use crate::when;

/// Rows that are laid out together.
const ROWS: usize = 500;

/// Prints what is selected, page by page.
pub(super) async fn run(session: &mut Session, args: ListArgs) -> Result<Outcome, Failure> {
    let mut scan = session.scan(&args.selection).await?;
    let mut rows = Rows::new();
    let mut count = 0;
    let walk = async {
        while let Some(letters) = scan.next().await? {
            count += letters.len() as u64;
            rows.add(&mut session.screen, &letters)?;
        }
        Ok::<(), Failure>(())
    };
    let walked = walk.await;
    rows.finish(&mut session.screen)?;
    walked?;
    if count == 0 {
        return session.nothing_matched(&args.selection.platform).await;
    }
    say_end(&scan, count);
    Ok(Outcome::Done)
}

/// How many there were, and whether there may be more.
pub(super) fn say_end(scan: &Scan, count: u64) {
    let more = if scan.was_cut() { " (--limit reached, there may be more)" } else { "" };
    say(&format!("{}{more}", counted(count, "dead letter", "dead letters")));
    for id in scan.missing() {
        say(&format!("{id}: no such dead letter, or it does not match"));
    }
}

/// Dead letters as objects, or as rows of a table, which are held back until there are enough to lay them out.
#[derive(Debug)]
pub(super) struct Rows {
    table: Table<8>,
    held: Vec<[String; 8]>,
}

impl Rows {
    /// Nothing printed yet.
    pub(super) fn new() -> Self {
        let table = Table::new([
            Column::text("ID", 41),
            Column::text("PLATFORM", 64),
            Column::text("ERROR CODE", 20),
            Column::text("EVENT TYPE", 36),
            Column::text("EVENT ID", 36),
            Column::number("ATTEMPTS"),
            Column::number("REPLAYS"),
            Column::text("FAILED AT", 24),
        ]);
        Self { table, held: Vec::new() }
    }

    /// As [`Self::new`], laid out for rows that come one by one.
    pub(super) fn following() -> Self {
        let mut rows = Self::new();
        rows.table.reserve([20, 8, 20, 24, 36, 8, 7, 20]);
        rows
    }

    /// Takes some more, and prints what is enough for a page.
    pub(super) fn add(&mut self, screen: &mut Screen, letters: &[DeadLetter]) -> io::Result<()> {
        if screen.format() == Format::Json {
            letters.iter().try_for_each(|letter| json::line(screen, letter))?;
            return screen.flush();
        }
        self.held.extend(letters.iter().map(row));
        if self.held.len() < ROWS { Ok(()) } else { self.finish(screen) }
    }

    /// Prints what is held back.
    pub(super) fn finish(&mut self, screen: &mut Screen) -> io::Result<()> {
        self.table.page(screen, &self.held)?;
        self.held.clear();
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
        when::to_seconds(letter.dead_lettered_at()),
    ]
}
