//! Report of a run, as a table or as one JSON object.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::json;
use tests::ledger::judge::{FailureTally, JudgeVerdict};

use crate::engine::RecoveryStats;
use crate::load::LoadTotals;
use crate::options::ChaosOptions;
use crate::schedule::FaultKind;

/// Most examples shown per kind of failure.
const MAX_SHOWN_EXAMPLES: usize = 8;

/// Results of a run.
#[derive(Debug)]
pub(crate) struct ChaosReport {
    seed: u64,
    setting: String,
    stats: BTreeMap<FaultKind, RecoveryStats>,
    totals: LoadTotals,
    verdict: JudgeVerdict,
    commits: Histogram<u64>,
    /// Valid events that were never answered with 2xx.
    pub(crate) unanswered: usize,
    /// Violations that concern no event.
    pub(crate) complaints: Vec<String>,
    /// Processes that exited unexpectedly.
    pub(crate) ended: Vec<String>,
    /// Duration of the whole run.
    pub(crate) took: Duration,
}

#[derive(Serialize)]
struct Recovery {
    count: usize,
    together: usize,
    still_felt: usize,
    recovery_ms_p50: u128,
    recovery_ms_max: u128,
}

impl ChaosReport {
    pub(crate) fn new(
        seed: u64,
        options: &ChaosOptions,
        stats: BTreeMap<FaultKind, RecoveryStats>,
        totals: LoadTotals,
        verdict: JudgeVerdict,
    ) -> Self {
        let (database, fsync) =
            (format!("{:?}", options.database), format!("{:?}", options.fsync).to_lowercase());
        let setting = format!(
            "{} s, {} ingress, {} workers, {database}, appendfsync {fsync}, {} events/s, \
             one in {} odd",
            options.duration().as_secs(),
            options.ingress,
            options.workers,
            options.rate,
            options.odd
        );
        Self {
            seed,
            setting,
            stats,
            totals,
            verdict,
            commits: Histogram::new_with_bounds(1, 3_600_000_000, 3)
                .expect("valid histogram bounds"),
            unanswered: 0,
            complaints: Vec::new(),
            ended: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Records the time from the answer of an event to its effect.
    pub(crate) fn record_commit(&mut self, after: Duration) {
        self.commits.saturating_record(u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// Returns true if no check failed.
    pub(crate) fn is_good(&self) -> bool {
        let recovered = self.stats.values().all(|stats| stats.unrecovered == 0);
        self.verdict.is_good() && self.unanswered == 0 && self.complaints.is_empty() && recovered
    }

    fn recovery(stats: &RecoveryStats) -> Recovery {
        let mut times: Vec<u128> = stats.recoveries.iter().map(Duration::as_millis).collect();
        times.sort_unstable();
        Recovery {
            count: stats.recoveries.len() + stats.unrecovered,
            together: stats.together,
            still_felt: stats.unrecovered,
            recovery_ms_p50: times.get(times.len() / 2).copied().unwrap_or_default(),
            recovery_ms_max: times.last().copied().unwrap_or_default(),
        }
    }

    /// Returns the report as one JSON object.
    pub(crate) fn json(&self) -> String {
        let faults: BTreeMap<String, Recovery> =
            self.stats.iter().map(|(kind, stats)| (kind.name(), Self::recovery(stats))).collect();
        let ms = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1000.0;
        let accept = &self.totals.latency;
        json!({
            "good": self.is_good(),
            "seed": self.seed,
            "setting": self.setting,
            "seconds": self.took.as_secs(),
            "faults": faults,
            "requests": self.totals.requests,
            "busy": self.totals.busy,
            "without_answer": self.totals.unanswered,
            "forged_refused": self.totals.refused,
            "never_accepted": self.unanswered,
            "accept_ms": {"p50": ms(accept, 0.5), "p99": ms(accept, 0.99)},
            "accept_to_commit_ms": {"p50": ms(&self.commits, 0.5), "p99": ms(&self.commits, 0.99)},
            "verdict": self.verdict,
            "complaints": self.complaints,
            "ended_by_themselves": self.ended,
        })
        .to_string()
    }

    /// Returns the report as a table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "\nseed {}: {}\n", self.seed, self.setting);
        let _ = writeln!(out, "{:<22}{:>6}{:>22}{:>12}", "fault", "count", "recovery p50", "max");
        let mut all = RecoveryStats::default();
        for (kind, stats) in &self.stats {
            self.line(&mut out, &kind.name(), stats);
            all.recoveries.extend(&stats.recoveries);
            all.unrecovered += stats.unrecovered;
        }
        self.line(&mut out, &format!("{} kinds", self.stats.len()), &all);
        let ms = |of: &Histogram<u64>, quantile| of.value_at_quantile(quantile) as f64 / 1000.0;
        let _ = writeln!(
            out,
            "\n{} requests: {} answered 429 or 503, {} without an answer, {} forged and refused",
            self.totals.requests, self.totals.busy, self.totals.unanswered, self.totals.refused
        );
        let (accept, commit) = (&self.totals.latency, &self.commits);
        let _ = writeln!(
            out,
            "accept            p50 {:>9.1} ms   p99 {:>9.1} ms",
            ms(accept, 0.5),
            ms(accept, 0.99)
        );
        let _ = writeln!(
            out,
            "accept to commit  p50 {:>9.1} ms   p99 {:>9.1} ms",
            ms(commit, 0.5),
            ms(commit, 0.99)
        );
        let verdict = &self.verdict;
        let _ = writeln!(
            out,
            "\naccepted {}: {:?}; {} rows and {} row states compared",
            verdict.accepted, verdict.places, verdict.rows, verdict.states
        );
        for (name, tally) in verdict.failures() {
            print_tally(&mut out, name, tally);
        }
        if verdict.forgotten.count > 0 {
            print_tally(&mut out, "forgotten by Redis", &verdict.forgotten);
        }
        let list = |out: &mut String, title: &str, items: &[String]| {
            if !items.is_empty() {
                let _ = writeln!(out, "{title}: {}", items.len());
            }
            for item in items.iter().take(MAX_SHOWN_EXAMPLES) {
                let _ = writeln!(out, "  {item}");
            }
        };
        if self.unanswered > 0 {
            let _ = writeln!(out, "never accepted: {}", self.unanswered);
        }
        list(&mut out, "other violations", &self.complaints);
        list(&mut out, "exited unexpectedly and restarted", &self.ended);
        let end = if self.is_good() { "all checks passed" } else { "FAILED" };
        let _ =
            writeln!(out, "\n{end} ({} s; repeat with --seed {})", self.took.as_secs(), self.seed);
        out
    }

    #[allow(clippy::unused_self)]
    fn line(&self, out: &mut String, name: &str, stats: &RecoveryStats) {
        let recovery = Self::recovery(stats);
        let (count, p50, max) =
            (recovery.count, recovery.recovery_ms_p50, recovery.recovery_ms_max);
        let unrecovered = if stats.unrecovered > 0 {
            format!("  {} not recovered", stats.unrecovered)
        } else {
            String::new()
        };
        let _ = writeln!(out, "{name:<22}{count:>6}{p50:>19} ms{max:>9} ms{unrecovered}");
    }
}

fn print_tally(out: &mut String, name: &str, tally: &FailureTally) {
    let _ = writeln!(out, "{name:<12} {}", tally.count);
    for example in tally.examples.iter().take(MAX_SHOWN_EXAMPLES) {
        let _ = writeln!(out, "  {example}");
    }
}
