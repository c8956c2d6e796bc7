//! `export`: dead letters as lines that `import` makes the same dead letters of.

use std::io;

use shared::queue::record;

use super::Session;
use super::list::say_end;
use crate::cli::ExportArgs;
use crate::exit_code::{Failure, Outcome};
use crate::output::plain_lines;

/// Writes what is selected, page by page.
pub(super) async fn run(session: &mut Session, args: ExportArgs) -> Result<Outcome, Failure> {
    let mut scan = session.scan(&args.selection).await?;
    let (mut count, mut lines) = (0, Vec::new());
    while let Some((platform, entries)) = scan.next_raw().await? {
        count += entries.len() as u64;
        lines.clear();
        for entry in entries {
            record::write(&platform, entry, &mut lines).map_err(io::Error::other)?;
        }
        lines = plain_lines(lines);
        session.screen.write_bytes(&lines)?;
        session.screen.flush()?;
    }
    if count == 0 {
        return session.nothing_matched(&args.selection.platform).await;
    }
    say_end(&scan, count);
    Ok(if scan.missing().is_empty() { Outcome::Done } else { Outcome::Incomplete })
}
