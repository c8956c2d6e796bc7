//! `stats`: counts, per platform.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use shared::event::Millis;
use shared::platform::PlatformName;
use shared::queue::{DeadLetterStats, Depth, PlatformKeys};

use super::Session;
use crate::cli::{Format, StatsArgs};
use crate::exit_code::{Failure, Outcome};
use crate::output::table::{Column, Table};
use crate::output::{Screen, counted, json, say};
use crate::scan::PageSize;
use crate::when;

/// Different event types that are counted one by one; senders choose them, so there is no other bound.
const KINDS: usize = 1000;
/// What the others are counted under.
const OTHERS: &str = "(others)";
/// Attempts at looking twice at the same moment.
const LOOKS: usize = 10;
/// Event types that the table shows; `--output json` has all that are counted.
const SHOWN: usize = 10;

/// Prints the counts of every platform, or of those asked for.
pub(super) async fn run(session: &mut Session, args: StatsArgs) -> Result<Outcome, Failure> {
    let platforms = session.platforms(&args.platform).await?;
    if platforms.is_empty() {
        say("no event has come yet, for any platform");
    }
    let mut all = Vec::with_capacity(platforms.len());
    for platform in platforms {
        all.push(count(session, platform).await?);
    }
    match session.screen.format() {
        Format::Json => all.iter().try_for_each(|stats| json::line(&mut session.screen, stats))?,
        Format::Table => print(&mut session.screen, &all)?,
    }
    if let Some(first) = all.first() {
        let source = format!("from {}, each platform at one moment", session.address);
        say(&format!("counted from {} on (Redis's clock), {source}", when::to_millis(first.as_of)));
    }
    Ok(Outcome::Done)
}

/// One platform, as `--output json` prints it. Times are milliseconds since the epoch.
#[derive(Debug, Serialize)]
struct Stats {
    platform: PlatformName,
    dead_letters: u64,
    oldest_failed_at: Option<Millis>,
    newest_failed_at: Option<Millis>,
    by_error_code: BTreeMap<String, u64>,
    by_event_type: BTreeMap<String, u64>,
    backlog: u64,
    pending: u64,
    retrying: u64,
    /// When these numbers were true, by Redis's clock.
    as_of: Millis,
}

async fn count(session: &Session, platform: PlatformName) -> Result<Stats, Failure> {
    let keys = session.queue.keys(&platform);
    let (depth, mut seen) = at_one_moment(session, &keys).await?;
    let mut stats = Stats {
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
    // What dies from here on is not counted, however long the counting takes.
    let last = seen.last;
    let mut size = PageSize::new();
    loop {
        stats.add(&seen);
        size.learn(usize::try_from(seen.counted).unwrap_or(usize::MAX), usize::try_from(seen.bytes).unwrap_or(0));
        let Some(after) = seen.next else { break };
        seen = session.queue.dead_letter_stats(&keys, Some(after), last, size.entries()).await?;
    }
    let counted: u64 = stats.by_error_code.values().sum();
    if counted != stats.dead_letters {
        say(&format!(
            "{}: {} while they were counted; the reasons and types are those of the rest",
            stats.platform,
            counted_away(stats.dead_letters.saturating_sub(counted))
        ));
    }
    Ok(stats)
}

/// Two looks, again until both see as many dead letters: nothing has changed between them then.
async fn at_one_moment(session: &Session, keys: &PlatformKeys) -> Result<(Depth, DeadLetterStats), Failure> {
    for _ in 0..LOOKS {
        let depth = session.queue.depth(keys).await?;
        let seen = session.queue.dead_letter_stats(keys, None, None, PageSize::new().entries()).await?;
        if depth.dead_letters == seen.length {
            return Ok((depth, seen));
        }
    }
    // They change faster than one can look; dead letters are counted by the second look.
    let depth = session.queue.depth(keys).await?;
    Ok((depth, session.queue.dead_letter_stats(keys, None, None, PageSize::new().entries()).await?))
}

fn counted_away(count: u64) -> String {
    format!("{} replayed or purged", counted(count, "dead letter was", "dead letters were"))
}

impl Stats {
    fn add(&mut self, seen: &DeadLetterStats) {
        self.oldest_failed_at = self.oldest_failed_at.into_iter().chain(seen.oldest).min();
        self.newest_failed_at = self.newest_failed_at.into_iter().chain(seen.newest).max();
        tally(&mut self.by_error_code, &seen.by_error_code);
        tally(&mut self.by_event_type, &seen.by_event_type);
    }
}

fn tally(counts: &mut BTreeMap<String, u64>, more: &BTreeMap<String, u64>) {
    for (kind, count) in more {
        let kind = if kind.is_empty() { "(none)" } else { kind };
        let counted = if counts.len() < KINDS || counts.contains_key(kind) { kind } else { OTHERS };
        *counts.entry(counted.to_owned()).or_default() += count;
    }
}

fn print(screen: &mut Screen, all: &[Stats]) -> io::Result<()> {
    let time = |instant: Option<Millis>| instant.map_or_else(|| "-".to_owned(), when::to_seconds);
    let mut table = Table::new([
        Column::text("PLATFORM", 64),
        Column::number("DEAD"),
        Column::text("OLDEST", 24),
        Column::text("NEWEST", 24),
        Column::number("BACKLOG"),
        Column::number("PENDING"),
        Column::number("RETRYING"),
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
    let mut table = Table::new([
        Column::text("PLATFORM", 64),
        Column::text("BY", 12),
        Column::text("VALUE", 64),
        Column::number("DEAD"),
    ]);
    table.page(screen, &reasons)
}

/// The counts by error code and by event type, the most frequent first.
fn breakdown(stats: &Stats) -> Vec<[String; 4]> {
    let mut rows = Vec::new();
    for (by, counts) in [("error code", &stats.by_error_code), ("event type", &stats.by_event_type)] {
        let mut sorted: Vec<_> = counts.iter().collect();
        sorted.sort_by_key(|(kind, count)| (std::cmp::Reverse(**count), kind.as_str()));
        let row = |kind: &str, count: u64| [stats.platform.to_string(), by.into(), kind.into(), count.to_string()];
        rows.extend(sorted.iter().take(SHOWN).map(|(kind, count)| row(kind, **count)));
        let rest: u64 = sorted.iter().skip(SHOWN).map(|(_, count)| **count).sum();
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
    fn the_number_of_kinds_is_bounded_and_nothing_goes_uncounted() {
        let mut counts = BTreeMap::new();
        for number in 0..KINDS + 50 {
            tally(&mut counts, &BTreeMap::from([(format!("type-{number}"), 1)]));
        }
        tally(&mut counts, &BTreeMap::from([("type-0".to_owned(), 1), (String::new(), 2)]));
        assert_eq!(counts.len(), KINDS + 1);
        assert_eq!(counts.get(OTHERS), Some(&52));
        assert_eq!(counts.values().sum::<u64>(), KINDS as u64 + 53);
    }
}
