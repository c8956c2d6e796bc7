//! `export`: writes dead letters as lines that `import` restores.

use std::io;

use shared::queue::record;

use super::ToolSession;
use super::list::eprint_total;
use crate::cli::ExportArgs;
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::escaped_json_lines;

/// Writes the selected dead letters, page by page.
pub(super) async fn run(
    session: &mut ToolSession,
    args: ExportArgs,
) -> Result<RunOutcome, ToolError> {
    let mut scan = session.scan(&args.selection).await?;
    let (mut count, mut lines) = (0, Vec::new());
    while let Some((platform, entries)) = scan.next_raw().await? {
        count += entries.len() as u64;
        lines.clear();
        for entry in entries {
            record::write(&platform, entry, &mut lines).map_err(io::Error::other)?;
        }
        lines = escaped_json_lines(lines);
        session.screen.write_bytes(&lines)?;
        session.screen.flush()?;
    }
    if count == 0 {
        return session.nothing_matched(&args.selection.platform).await;
    }
    eprint_total(&scan, count);
    Ok(if scan.missing().is_empty() { RunOutcome::Done } else { RunOutcome::Incomplete })
}
