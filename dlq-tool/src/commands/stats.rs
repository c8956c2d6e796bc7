//! `stats`: counts, per platform.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;
use shared::event::Millis;
use shared::platform::PlatformName;
use shared::queue::DeadLetter;

use super::Session;
use crate::cli::{Format, StatsArgs};
use crate::exit_code::{Failure, Outcome};
use crate::output::table::{Column, Table};
use crate::output::{Screen, json, say};
use crate::scan::Scan;
use crate::select::{Selection, died_at};
use crate::when;

/// Different event types that are counted one by one; senders choose them, so there is no other bound.
const KINDS: usize = 1000;
/// What the others are counted under.
const OTHERS: &str = "(others)";
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
}

async fn count(session: &Session, platform: PlatformName) -> Result<Stats, Failure> {
    let depth = session.queue.depth(&session.queue.keys(&platform)).await?;
    let mut stats = Stats {
        platform: platform.clone(),
        dead_letters: 0,
        oldest_failed_at: None,
        newest_failed_at: None,
        by_error_code: BTreeMap::new(),
        by_event_type: BTreeMap::new(),
        backlog: depth.backlog,
        pending: depth.pending,
        retrying: depth.retrying,
    };
    let mut scan = Scan::new(session.queue.clone(), vec![platform], Selection::default());
    while let Some(letters) = scan.next().await? {
        letters.iter().for_each(|letter| stats.add(letter));
    }
    Ok(stats)
}

impl Stats {
    fn add(&mut self, letter: &DeadLetter) {
        let died = died_at(letter);
        self.dead_letters += 1;
        self.oldest_failed_at = Some(self.oldest_failed_at.map_or(died, |oldest| oldest.min(died)));
        self.newest_failed_at = Some(self.newest_failed_at.map_or(died, |newest| newest.max(died)));
        tally(&mut self.by_error_code, letter.error_code.as_deref());
        tally(&mut self.by_event_type, letter.event_type.as_deref());
    }
}

fn tally(counts: &mut BTreeMap<String, u64>, kind: Option<&str>) {
    let kind = kind.unwrap_or("(none)");
    let counted = if counts.len() < KINDS || counts.contains_key(kind) { kind } else { OTHERS };
    *counts.entry(counted.to_owned()).or_default() += 1;
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
            tally(&mut counts, Some(&format!("type-{number}")));
        }
        tally(&mut counts, Some("type-0"));
        assert_eq!(counts.len(), KINDS + 1);
        assert_eq!(counts.get(OTHERS), Some(&50));
        assert_eq!(counts.values().sum::<u64>(), KINDS as u64 + 51);
    }
}
