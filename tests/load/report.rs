//! Report of a load run: a table for people, one JSON object for scripts.

use std::fmt::Write as _;

use serde::Serialize;

use crate::figures::{Figure, Figures};
use crate::options::{LoadOptions, LoadSection};
use crate::targets::{self, Direction, JudgedTarget, TargetVerdict};
use clap::ValueEnum as _;

/// Results of a load run.
#[derive(Debug, Serialize)]
pub(crate) struct LoadReport {
    quick: bool,
    sections: Vec<String>,
    connections: u16,
    rounds: u8,
    seconds: u64,
    cores: usize,
    debug_build: bool,
    /// True if every response was the expected one and every accepted event was finished.
    all_good: bool,
    faults: Vec<String>,
    notes: Vec<String>,
    targets: Vec<JudgedTarget>,
    figures: Vec<Figure>,
}

const NAME: usize = 50;
const COLUMN: usize = 18;

impl LoadReport {
    pub(crate) fn new(options: &LoadOptions, figures: Figures) -> Self {
        let name = |section: LoadSection| {
            section.to_possible_value().map(|value| value.get_name().to_owned())
        };
        let targets = targets::judge(&figures);
        let Figures { faults, notes, .. } = &figures;
        Self {
            quick: options.quick,
            sections: options.sections().into_iter().filter_map(name).collect(),
            connections: options.connections,
            rounds: options.rounds(),
            seconds: options.seconds().as_secs(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            debug_build: cfg!(debug_assertions),
            all_good: faults.is_empty(),
            faults: faults.clone(),
            notes: notes.clone(),
            targets,
            figures: figures.into_all(),
        }
    }

    /// Returns whether the run succeeded: without faults and, if `strict`, without a missed target.
    pub(crate) fn is_good(&self, strict: bool) -> bool {
        self.all_good && !(strict && self.count(TargetVerdict::Missed) > 0)
    }

    fn count(&self, verdict: TargetVerdict) -> usize {
        self.targets.iter().filter(|judged| judged.verdict == verdict).count()
    }

    /// Returns a table with a line per figure and a column per system, then targets and verdict.
    pub(crate) fn table(&self) -> String {
        let debug = if self.debug_build { ", DEBUG BUILD" } else { "" };
        let mut out = format!(
            "{} cores, {} connections, {} round(s) of {} s{debug}; medians\n",
            self.cores, self.connections, self.rounds, self.seconds
        );
        for section in distinct(self.figures.iter().map(|figure| figure.key.section)) {
            let figures: Vec<&Figure> =
                self.figures.iter().filter(|figure| figure.key.section == section).collect();
            table(&mut out, section, &figures);
        }
        self.judgement(&mut out);
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        for fault in &self.faults {
            let _ = writeln!(out, "FAILED: {fault}");
        }
        if self.all_good {
            out.push_str("ok: no event was lost, refused or dead-lettered\n");
        }
        out
    }

    fn judgement(&self, out: &mut String) {
        let _ = writeln!(out, "\n{:<74}{:>10}{:>12}", "targets", "bound", "measured");
        for JudgedTarget { target, measured, verdict } in &self.targets {
            let sign = if target.direction == Direction::AtLeast { "≥" } else { "≤" };
            let bound = format!("{sign} {} {}", number(target.bound), target.unit);
            let verdict = match verdict {
                TargetVerdict::Met => "met",
                TargetVerdict::Missed => "MISSED",
                TargetVerdict::NotMeasured => "not measured",
            };
            let measured = measured.map_or_else(|| "–".to_owned(), number);
            let _ = writeln!(out, "  {:<70}{bound:>12}{measured:>12}  {verdict}", target.name);
        }
        let (met, missed, open) = (
            self.count(TargetVerdict::Met),
            self.count(TargetVerdict::Missed),
            self.count(TargetVerdict::NotMeasured),
        );
        let _ = writeln!(out, "targets: {met} met, {missed} missed, {open} not measured");
    }
}

fn table(out: &mut String, section: &str, figures: &[&Figure]) {
    let columns = distinct(figures.iter().map(|figure| figure.key.column.as_str()));
    let _ = write!(out, "\n{section:<width$}", width = NAME);
    for column in &columns {
        let _ = write!(out, "{column:>COLUMN$}");
    }
    out.push('\n');
    for name in distinct(figures.iter().map(|figure| figure.key.name)) {
        let _ = write!(out, "  {name:<width$}", width = NAME - 2);
        for column in &columns {
            let at = figures
                .iter()
                .find(|figure| figure.key.name == name && figure.key.column == *column);
            let _ = write!(
                out,
                "{:>COLUMN$}",
                at.map_or_else(|| "–".to_owned(), |figure| number(figure.median))
            );
        }
        out.push('\n');
    }
}

/// Returns each text once, in the order of first appearance.
fn distinct<'t>(all: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    let mut seen = Vec::new();
    for one in all {
        if !seen.contains(&one) {
            seen.push(one);
        }
    }
    seen
}

/// Formats with three significant digits, and from 100 on as a whole number.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser as _;

    use super::*;
    use crate::options::LoadCli;
    use crate::targets::Goal;

    fn report(change: impl FnOnce(&mut Figures)) -> LoadReport {
        let mut figures = Figures::default();
        figures.add("accepting", "accepted/s", "bare", 180_000.0);
        figures.add("accepting", "accepted/s", "ours", 36_000.0);
        figures.add("accepting", "Redis CPU µs/event", "ours", 9.87);
        figures.goal(Goal::RedisCpu, 9.87);
        change(&mut figures);
        LoadReport::new(&LoadCli::parse_from(["load"]).options, figures)
    }

    #[test]
    fn missed_target_fails_only_a_strict_run() {
        let met = report(|_| {});
        assert!(
            met.is_good(true) && met.table().contains("targets: 1 met, 0 missed"),
            "{}",
            met.table()
        );
        let missed = report(|figures| figures.goal(Goal::IdleWorker, 3.0));
        assert!(missed.is_good(false) && !missed.is_good(true));
        assert!(missed.table().contains("MISSED"), "{}", missed.table());
    }

    #[test]
    fn lost_event_fails_every_run() {
        let lost = report(|figures| figures.fault("1 of 2 accepted events is missing".to_owned()));
        assert!(
            !lost.is_good(false) && lost.table().contains("FAILED: 1 of 2"),
            "{}",
            lost.table()
        );
    }

    #[test]
    fn table_shows_a_missing_value_as_a_dash() {
        let table = report(|_| {}).table();
        let line = table.lines().find(|line| line.contains("Redis CPU µs/event")).unwrap();
        assert!(line.contains('–') && line.contains("9.87"), "{line}");
        assert!(
            table.lines().any(|line| line.contains("accepted/s") && line.contains("180000")),
            "{table}"
        );
    }

    #[test]
    fn json_report_has_targets_and_figures() {
        let json = serde_json::to_value(report(|_| {})).unwrap();
        assert_eq!(json["figures"][0]["column"], "bare");
        let judged = json["targets"]
            .as_array()
            .unwrap()
            .iter()
            .find(|one| one["goal"] == "redis_cpu")
            .unwrap();
        assert_eq!(
            (judged["verdict"].as_str(), judged["bound"].as_f64()),
            (Some("met"), Some(14.0))
        );
    }
}
