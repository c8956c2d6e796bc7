//! Common part of `replay` and `purge`: planning what is selected, and reporting the result.

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

/// Selection of a bulk run.
pub(super) struct BulkRequest<'a> {
    pub(super) selection: &'a SelectionArgs,
    /// Lists the selected dead letters instead of changing them.
    pub(super) dry_run: bool,
}

/// Collects the selected dead letters into a plan, and lists them for a dry run. Returns `None` if
/// nothing matched.
///
/// The outcome is `Incomplete` if an id asked for is missing, or if `editor` cannot edit a dead
/// letter of a dry run.
pub(super) async fn build_plan(
    session: &mut ToolSession,
    request: BulkRequest<'_>,
    editor: Option<&Editor>,
) -> Result<Option<(BulkPlan, RunOutcome)>, ToolError> {
    let mut scan = session.scan(request.selection).await?;
    let (mut plan, mut rows, mut uneditable) = (BulkPlan::default(), ListPrinter::new(), 0_u64);
    while let Some(letters) = scan.next().await? {
        letters.iter().for_each(|letter| plan.add(letter));
        if request.dry_run {
            uneditable += editor.map_or(0, |editor| eprint_uneditable(editor, &letters));
            rows.add(&mut session.screen, &letters)?;
        }
    }
    rows.finish(&mut session.screen)?;
    if plan.remaining() == 0 {
        return Ok(None);
    }
    eprint_total(&scan, plan.remaining() as u64);
    let complete = scan.missing().is_empty() && uneditable == 0;
    Ok(Some((plan, if complete { RunOutcome::Done } else { RunOutcome::Incomplete })))
}

/// Reports the dead letters that cannot be edited, and returns their number.
fn eprint_uneditable(editor: &Editor, letters: &[DeadLetter]) -> u64 {
    let mut uneditable = 0;
    for letter in letters {
        if let Err(reason) = editor.fields(letter) {
            eprint_line(&format!("{} {}: {reason}", letter.platform, letter.id));
            uneditable += 1;
        }
    }
    uneditable
}

/// Prints the result of [`report`] to stderr, for a run whose stdout holds data.
pub(super) fn eprint_report(plan: &BulkPlan, done: &str) {
    for part in &plan.platforms {
        let (platform, count) =
            (&part.platform, count_noun(part.done as u64, "dead letter", "dead letters"));
        eprint_line(&format!("{platform}: {count} {done}"));
    }
}

/// Prints a row per platform. `failed` adds a column for entries that could not be processed.
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

/// Reports entries removed by others and entries left over, and returns how the run ends. `doubt`
/// describes the entries in flight when Redis became unavailable.
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
            Ok(()) => format!("stopped; unchanged: {left}"),
            Err(_) => format!("stopped; not confirmed: {left}. {doubt}"),
        });
    }
    result?;
    Ok(if plan.is_complete() { RunOutcome::Done } else { RunOutcome::Incomplete })
}
