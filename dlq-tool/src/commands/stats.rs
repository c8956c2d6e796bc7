//! `stats`: prints counts per platform.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use shared::event::Millis;
use shared::platform::PlatformName;
use shared::queue::{DeadLetterStats, Depth, PlatformKeys};

use super::ToolSession;
use crate::cli::{OutputFormat, StatsArgs};
use crate::exit_code::{RunOutcome, ToolError};
use crate::output::table::{TableColumn, TextTable};
use crate::output::{OutputWriter, count_noun, eprint_line, json};
use crate::scan::PageSize;
use crate::time_arg;

/// Event types that are counted one by one. Senders choose the types, so their number has no other
/// bound.
const MAX_EVENT_TYPES: usize = 1000;
/// Name under which all further types are counted.
const OTHERS: &str = "(others)";
/// Attempts at two reads that see the same state.
const MAX_SNAPSHOT_TRIES: usize = 10;
/// Event types or error codes in the table; `--output json` has all that are counted.
const MAX_SHOWN_VALUES: usize = 10;

/// Prints the counts of the platforms asked for, or of all.
pub(super) async fn run(
    session: &mut ToolSession,
    args: StatsArgs,
) -> Result<RunOutcome, ToolError> {
    let platforms = session.platforms(&args.platform).await?;
    if platforms.is_empty() {
        eprint_line("no platform has received an event yet");
    }
    let mut all = Vec::with_capacity(platforms.len());
    for platform in platforms {
        all.push(count(session, platform).await?);
    }
    match session.screen.format() {
        OutputFormat::Json => {
            all.iter().try_for_each(|stats| json::line(&mut session.screen, stats))?
        }
        OutputFormat::Table => print(&mut session.screen, &all)?,
    }
    if let Some(first) = all.first() {
        let source = format!("from {}, each platform at one moment", session.address);
        eprint_line(&format!(
            "counted from {} on (Redis's clock), {source}",
            time_arg::format_millis(first.as_of)
        ));
    }
    Ok(RunOutcome::Done)
}

/// Counts of one platform, as `--output json` prints them. Times are ms since the epoch.
#[derive(Debug, Serialize)]
struct PlatformStats {
    platform: PlatformName,
    dead_letters: u64,
    oldest_failed_at: Option<Millis>,
    newest_failed_at: Option<Millis>,
    by_error_code: BTreeMap<String, u64>,
    by_event_type: BTreeMap<String, u64>,
    backlog: u64,
    pending: u64,
    retrying: u64,
    /// Time of the counts, by Redis's clock.
    as_of: Millis,
}

async fn count(session: &ToolSession, platform: PlatformName) -> Result<PlatformStats, ToolError> {
    let keys = session.queue.keys(&platform);
    let (depth, mut seen) = consistent_snapshot(session, &keys).await?;
    let mut stats = PlatformStats {
        platform,
        dead_letters: seen.length,
        oldest_failed_at: None,
        newest_failed_at: None,
        by_error_code: BTreeMap::new(),
        by_event_type: BTreeMap::new(),
        backlog: depth.backlog,
        pending: depth.pending,
        retrying: depth.retrying,
        as_of: depth.now,
    };
    // Later dead letters are not counted, however long the counting takes.
    let last = seen.last;
    let mut size = PageSize::new();
    loop {
        stats.add(&seen);
        size.adapt(
            usize::try_from(seen.counted).unwrap_or(usize::MAX),
            usize::try_from(seen.bytes).unwrap_or(0),
        );
        let Some(after) = seen.next else { break };
        seen = session.queue.dead_letter_stats(&keys, Some(after), last, size.entries()).await?;
    }
    let counted: u64 = stats.by_error_code.values().sum();
    if counted != stats.dead_letters {
        eprint_line(&format!(
            "{}: {} during the count; error codes and types are counted without them",
            stats.platform,
            removed_meanwhile(stats.dead_letters.saturating_sub(counted))
        ));
    }
    Ok(stats)
}

/// Reads depths and dead-letter counts. Repeats until both reads see the same number of dead
/// letters, so that they show one moment.
async fn consistent_snapshot(
    session: &ToolSession,
    keys: &PlatformKeys,
) -> Result<(Depth, DeadLetterStats), ToolError> {
    for _ in 0..MAX_SNAPSHOT_TRIES {
        let depth = session.queue.depth(keys).await?;
        let seen =
            session.queue.dead_letter_stats(keys, None, None, PageSize::new().entries()).await?;
        if depth.dead_letters == seen.length {
            return Ok((depth, seen));
        }
    }
    // The numbers change faster than two reads; the second read counts the dead letters.
    let depth = session.queue.depth(keys).await?;
    Ok((depth, session.queue.dead_letter_stats(keys, None, None, PageSize::new().entries()).await?))
}

fn removed_meanwhile(count: u64) -> String {
    format!("{} replayed or purged", count_noun(count, "dead letter was", "dead letters were"))
}

impl PlatformStats {
    fn add(&mut self, seen: &DeadLetterStats) {
        self.oldest_failed_at = self.oldest_failed_at.into_iter().chain(seen.oldest).min();
        self.newest_failed_at = self.newest_failed_at.into_iter().chain(seen.newest).max();
        add_counts(&mut self.by_error_code, &seen.by_error_code);
        add_counts(&mut self.by_event_type, &seen.by_event_type);
    }
}

fn add_counts(counts: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (kind, count) in more {
        let kind = if kind.is_empty() { "(none)" } else { kind };
        let counted =
            if counts.len() < MAX_EVENT_TYPES || counts.contains_key(kind) { kind } else { OTHERS };
        *counts.entry(counted.to_owned()).or_default() += count;
    }
}

fn print(screen: &mut OutputWriter, all: &[PlatformStats]) -> io::Result<()> {
    let time =
        |instant: Option<Millis>| instant.map_or_else(|| "-".to_owned(), time_arg::format_seconds);
    let mut table = TextTable::new([
        TableColumn::text("PLATFORM", 64),
        TableColumn::number("DEAD"),
        TableColumn::text("OLDEST", 24),
        TableColumn::text("NEWEST", 24),
        TableColumn::number("BACKLOG"),
        TableColumn::number("PENDING"),
        TableColumn::number("RETRYING"),
    ]);
    let rows: Vec<_> = all
        .iter()
        .map(|stats| {
            [
                stats.platform.to_string(),
                stats.dead_letters.to_string(),
                time(stats.oldest_failed_at),
                time(stats.newest_failed_at),
                stats.backlog.to_string(),
                stats.pending.to_string(),
                stats.retrying.to_string(),
            ]
        })
        .collect();
    table.page(screen, &rows)?;

    let reasons: Vec<_> = all.iter().flat_map(breakdown).collect();
    if !reasons.is_empty() {
        screen.write("\n")?;
    }
    let mut table = TextTable::new([
        TableColumn::text("PLATFORM", 64),
        TableColumn::text("BY", 12),
        TableColumn::text("VALUE", 64),
        TableColumn::number("DEAD"),
    ]);
    table.page(screen, &reasons)
}

/// Returns the counts by error code and by event type, the most frequent first.
fn breakdown(stats: &PlatformStats) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for (by, counts) in [("error code", &stats.by_error_code), ("event type", &stats.by_event_type)]
    {
        let mut sorted: Vec<_> = counts.iter().collect();
        sorted.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), kind.as_str()));
        let row = |kind: &str, count: u64| {
            [stats.platform.to_string(), by.into(), kind.into(), count.to_string()]
        };
        rows.extend(sorted.iter().take(MAX_SHOWN_VALUES).map(|(kind, count)| row(kind, **count)));
        let rest: u64 = sorted.iter().skip(MAX_SHOWN_VALUES).map(|(_, count)| **count).sum();
        if rest > 0 {
            rows.push(row(OTHERS, rest));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_bound_the_event_types_and_count_every_entry() {
        let mut counts = BTreeMap::new();
        for number in 0..MAX_EVENT_TYPES + 50 {
            add_counts(&mut counts, &BTreeMap::from([(format!("type-{number}"), 1)]));
        }
        add_counts(&mut counts, &BTreeMap::from([("type-0".to_owned(), 1), (String::new(), 2)]));
        assert_eq!(counts.len(), MAX_EVENT_TYPES + 1);
        assert_eq!(counts.get(OTHERS), Some(&52));
        assert_eq!(counts.values().sum::<u64>(), MAX_EVENT_TYPES as u64 + 53);
    }
}
