//! What `replay` and `purge` have in common: considering what is selected, and accounting for what became of it.

use std::io;

use shared::queue::DeadLetter;

use super::Session;
use super::editor::Editor;
use super::list::{Rows, say_end};
use crate::cli::{Format, SelectionArgs};
use crate::exit_code::{Failure, Outcome};
use crate::output::table::{Column, Table};
use crate::output::{Screen, counted, heard, say};
use crate::plan::Plan;

/// What is to be considered.
pub(super) struct Consider<'a> {
    /// Which dead letters.
    pub(super) selection: &'a SelectionArgs,
    /// Show them.
    pub(super) dry_run: bool,
}

/// Notes what is selected, and shows it if that is all that is wanted. `None`: nothing matched. With it: whether every
/// id that was asked for is there, and with `editor` whether each can be edited.
pub(super) async fn consider(
    session: &mut Session,
    what: Consider<'_>,
    editor: Option<&Editor>,
) -> Result<Option<(Plan, Outcome)>, Failure> {
    let mut scan = session.scan(what.selection).await?;
    let (mut plan, mut rows, mut unfit) = (Plan::default(), Rows::new(), 0_u64);
    while let Some(letters) = scan.next().await? {
        letters.iter().for_each(|letter| plan.add(letter));
        if what.dry_run {
            unfit += editor.map_or(0, |editor| say_unfit(editor, &letters));
            rows.add(&mut session.screen, &letters)?;
        }
    }
    rows.finish(&mut session.screen)?;
    if plan.left() == 0 {
        return Ok(None);
    }
    say_end(&scan, plan.left() as u64);
    let complete = scan.missing().is_empty() && unfit == 0;
    Ok(Some((plan, if complete { Outcome::Done } else { Outcome::Incomplete })))
}

/// Names those that cannot be edited.
fn say_unfit(editor: &Editor, letters: &[DeadLetter]) -> u64 {
    let mut unfit = 0;
    for letter in letters {
        if let Err(reason) = editor.fields(letter) {
            say(&format!("{} {}: {reason}", letter.platform, letter.id));
            unfit += 1;
        }
    }
    unfit
}

/// Says what [`report`] prints, where stdout is for something else.
pub(super) fn say_report(plan: &Plan, done: &str) {
    for share in &plan.shares {
        let (platform, count) = (&share.platform, counted(share.done as u64, "dead letter", "dead letters"));
        say(&format!("{platform}: {count} {done}"));
    }
}

/// A row per platform; `failed`: with a column for those that could not be done.
pub(super) fn report(screen: &mut Screen, plan: &Plan, done: &'static str, failed: bool) -> io::Result<()> {
    heard(table(screen, plan, done, failed))
}

fn table(screen: &mut Screen, plan: &Plan, done: &'static str, failed: bool) -> io::Result<()> {
    if screen.format() == Format::Json {
        return screen.flush();
    }
    let number = |count: usize| count.to_string();
    let numbers = |share: &crate::plan::Share| [share.platform.to_string(), number(share.done), number(share.gone)];
    if failed {
        let mut table = Table::new([
            Column::text("PLATFORM", 64),
            Column::number(done),
            Column::number("GONE"),
            Column::number("FAILED"),
            Column::number("LEFT"),
        ]);
        let row = |share| {
            let [platform, done, gone] = numbers(share);
            [platform, done, gone, number(share.failed), number(share.left())]
        };
        table.page(screen, &plan.shares.iter().map(row).collect::<Vec<_>>())?;
    } else {
        let mut table = Table::new([
            Column::text("PLATFORM", 64),
            Column::number(done),
            Column::number("GONE"),
            Column::number("LEFT"),
        ]);
        let row = |share| {
            let [platform, done, gone] = numbers(share);
            [platform, done, gone, number(share.left())]
        };
        table.page(screen, &plan.shares.iter().map(row).collect::<Vec<_>>())?;
    }
    screen.flush()
}

/// Says what others did meanwhile, what was left, and how the run ends. `doubt`: what may have become of those in hand when Redis went away.
pub(super) fn conclude(plan: &Plan, result: Result<(), Failure>, doubt: &str) -> Result<Outcome, Failure> {
    let gone: usize = plan.shares.iter().map(|share| share.gone).sum();
    if gone > 0 {
        let gone = counted(gone as u64, "dead letter was", "dead letters were");
        say(&format!("{gone} no longer there: replayed or purged elsewhere meanwhile"));
    }
    let left = plan.left();
    if left > 0 {
        let left = counted(left as u64, "dead letter", "dead letters");
        say(&match &result {
            Ok(()) => format!("stopped; left as they are: {left}"),
            Err(_) => format!("stopped; not confirmed: {left}. {doubt}"),
        });
    }
    result?;
    Ok(if plan.is_whole() { Outcome::Done } else { Outcome::Incomplete })
}
