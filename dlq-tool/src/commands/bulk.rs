//! What `replay` and `purge` have in common: considering what is selected, and accounting for what became of it.

use std::io;

use shared::queue::DeadLetter;

use super::ToolSession;
use super::editor::Editor;
use super::list::{ListPrinter, eprint_total};
use crate::cli::{OutputFormat, SelectionArgs};
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::table::{TableColumn, TextTable};
use crate::output::{OutputWriter, count_noun, eprint_line, ignore_broken_pipe};
use crate::plan::BulkPlan;

/// What is to be considered.
pub(super) struct BulkRequest<'a> {
    /// Which dead letters.
    pub(super) selection: &'a SelectionArgs,
    /// Show them.
    pub(super) dry_run: bool,
}

/// Notes what is selected, and shows it if that is all that is wanted. `None`: nothing matched. With it: whether every
/// id that was asked for is there, and with `editor` whether each can be edited.
pub(super) async fn build_plan(
    session: &mut ToolSession,
    what: BulkRequest<'_>,
    editor: Option<&Editor>,
) -> Result<Option<(BulkPlan, RunOutcome)>, ToolError> {
    let mut scan = session.scan(what.selection).await?;
    let (mut plan, mut rows, mut unfit) = (BulkPlan::default(), ListPrinter::new(), 0_u64);
    while let Some(letters) = scan.next().await? {
        letters.iter().for_each(|letter| plan.add(letter));
        if what.dry_run {
            unfit += editor.map_or(0, |editor| eprint_uneditable(editor, &letters));
            rows.add(&mut session.screen, &letters)?;
        }
    }
    rows.finish(&mut session.screen)?;
    if plan.remaining() == 0 {
        return Ok(None);
    }
    eprint_total(&scan, plan.remaining() as u64);
    let complete = scan.missing().is_empty() && unfit == 0;
    Ok(Some((plan, if complete { RunOutcome::Done } else { RunOutcome::Incomplete })))
}

/// Names those that cannot be edited.
fn eprint_uneditable(editor: &Editor, letters: &[DeadLetter]) -> u64 {
    let mut unfit = 0;
    for letter in letters {
        if let Err(reason) = editor.fields(letter) {
            eprint_line(&format!("{} {}: {reason}", letter.platform, letter.id));
            unfit += 1;
        }
    }
    unfit
}

/// Says what [`report`] prints, where stdout is for something else.
pub(super) fn eprint_report(plan: &BulkPlan, done: &str) {
    for part in &plan.platforms {
        let (platform, count) =
            (&part.platform, count_noun(part.done as u64, "dead letter", "dead letters"));
        eprint_line(&format!("{platform}: {count} {done}"));
    }
}

/// A row per platform; `failed`: with a column for those that could not be done.
pub(super) fn report(
    screen: &mut OutputWriter,
    plan: &BulkPlan,
    done: &'static str,
    failed: bool,
) -> io::Result<()> {
    ignore_broken_pipe(table(screen, plan, done, failed))
}

fn table(
    screen: &mut OutputWriter,
    plan: &BulkPlan,
    done: &'static str,
    failed: bool,
) -> io::Result<()> {
    if screen.format() == OutputFormat::Json {
        return screen.flush();
    }
    let number = |count: usize| count.to_string();
    let numbers = |part: &crate::plan::PlatformPlan| {
        [part.platform.to_string(), number(part.done), number(part.gone)]
    };
    if failed {
        let mut table = TextTable::new([
            TableColumn::text("PLATFORM", 64),
            TableColumn::number(done),
            TableColumn::number("GONE"),
            TableColumn::number("FAILED"),
            TableColumn::number("LEFT"),
        ]);
        let row = |part| {
            let [platform, done, gone] = numbers(part);
            [platform, done, gone, number(part.failed), number(part.remaining())]
        };
        table.page(screen, &plan.platforms.iter().map(row).collect::<Vec<_>>())?;
    } else {
        let mut table = TextTable::new([
            TableColumn::text("PLATFORM", 64),
            TableColumn::number(done),
            TableColumn::number("GONE"),
            TableColumn::number("LEFT"),
        ]);
        let row = |part| {
            let [platform, done, gone] = numbers(part);
            [platform, done, gone, number(part.remaining())]
        };
        table.page(screen, &plan.platforms.iter().map(row).collect::<Vec<_>>())?;
    }
    screen.flush()
}

/// Says what others did meanwhile, what was left, and how the run ends. `doubt`: what may have become of those in hand when Redis went away.
pub(super) fn conclude(
    plan: &BulkPlan,
    result: Result<(), ToolError>,
    doubt: &str,
) -> Result<RunOutcome, ToolError> {
    let gone: usize = plan.platforms.iter().map(|part| part.gone).sum();
    if gone > 0 {
        let gone = count_noun(gone as u64, "dead letter was", "dead letters were");
        eprint_line(&format!("{gone} no longer there: replayed or purged elsewhere meanwhile"));
    }
    let left = plan.remaining();
    if left > 0 {
        let left = count_noun(left as u64, "dead letter", "dead letters");
        eprint_line(&match &result {
            Ok(()) => format!("stopped; left as they are: {left}"),
            Err(_) => format!("stopped; not confirmed: {left}. {doubt}"),
        });
    }
    result?;
    Ok(if plan.is_complete() { RunOutcome::Done } else { RunOutcome::Incomplete })
}
