//! What a load run says: a table for people, one JSON object for scripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) quick: bool,
    pub(crate) connections: u16,
    pub(crate) rounds: u8,
    pub(crate) cores: usize,
    pub(crate) debug_build: bool,
    /// Every answer of every round was 202 and every accepted event was finished.
    pub(crate) all_good: bool,
    /// The table: what counts of everything below.
    pub(crate) rows: Vec<Row>,
    pub(crate) bare: Accepting,
    pub(crate) systems: Vec<System>,
}

/// A server under load.
#[derive(Debug, Serialize)]
pub(crate) struct Accepting {
    pub(crate) accepted_per_second: f64,
    pub(crate) measured_seconds: f64,
    pub(crate) latency: Latency,
    /// CPU time per answer, in µs.
    pub(crate) server_cpu_us: f64,
    pub(crate) redis_cpu_us: Option<f64>,
    pub(crate) generator_cpu_us: f64,
    /// Cores that the server kept busy.
    pub(crate) server_cores: f64,
    /// Answers other than 202.
    pub(crate) refused: u64,
    /// Answers by status, warm-up included.
    pub(crate) statuses: BTreeMap<u16, u64>,
}

/// Percentiles in ms.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latency {
    /// From µs.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e3,
        }
    }
}

/// A worker on a backlog, alone.
#[derive(Debug, Serialize)]
pub(crate) struct Draining {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    pub(crate) events_per_second: f64,
    pub(crate) worker_cpu_us: f64,
    pub(crate) redis_cpu_us: f64,
}

/// Ingress and worker together, at a fixed rate.
#[derive(Debug, Serialize)]
pub(crate) struct Paced {
    pub(crate) rate: f64,
    /// From arrival at ingress to settlement, as the worker measured it.
    pub(crate) end_to_end_mean_ms: f64,
    pub(crate) accepting: Accepting,
}

/// The system on one kind of Redis.
#[derive(Debug, Serialize)]
pub(crate) struct System {
    pub(crate) appendfsync: String,
    pub(crate) accepting: Accepting,
    pub(crate) draining: Draining,
    pub(crate) paced: Paced,
    /// Answers 202 in all.
    pub(crate) accepted: u64,
    /// Rows in the ledger.
    pub(crate) finished: u64,
    /// Dead letters.
    pub(crate) dead: u64,
}

impl System {
    fn refused(&self) -> u64 {
        self.accepting.refused + self.paced.accepting.refused
    }

    /// Nothing refused, nothing lost, nothing dead.
    pub(crate) fn is_good(&self) -> bool {
        self.refused() == 0 && self.dead == 0 && self.accepted == self.finished
    }
}

/// One measured value: of the bare handler, where it has it, and of every system, with its ratio to the bare handler's.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    section: &'static str,
    name: &'static str,
    bare: Option<f64>,
    systems: Vec<Cell>,
}

#[derive(Debug, Serialize)]
struct Cell {
    appendfsync: String,
    value: f64,
    /// To what the bare handler has of this, or of what comes nearest.
    ratio: f64,
}

const INGRESS: &str = "ingress at full speed, no worker";
const WORKER: &str = "worker on that backlog, no ingress";
const BOTH: &str = "ingress and worker together, at a fixed rate";

/// All rows, in order.
pub(crate) fn rows(bare: &Accepting, systems: &[System]) -> Vec<Row> {
    let row = |section, name, base: f64, shown: bool, value: fn(&System) -> f64| Row {
        section,
        name,
        bare: shown.then_some(base),
        systems: systems
            .iter()
            .map(|system| Cell {
                appendfsync: system.appendfsync.clone(),
                value: value(system),
                ratio: value(system) / base.max(f64::MIN_POSITIVE),
            })
            .collect(),
    };
    let (rate, cpu) = (bare.accepted_per_second, bare.server_cpu_us);
    let (p50, p99, p999) = (bare.latency.p50_ms, bare.latency.p99_ms, bare.latency.p999_ms);
    let mut rows = vec![
        row(INGRESS, "accepted/s", rate, true, |s| s.accepting.accepted_per_second),
        row(INGRESS, "latency p50 ms", p50, true, |s| s.accepting.latency.p50_ms),
        row(INGRESS, "latency p99 ms", p99, true, |s| s.accepting.latency.p99_ms),
        row(INGRESS, "latency p99.9 ms", p999, true, |s| s.accepting.latency.p999_ms),
        row(INGRESS, "server CPU µs/event", cpu, true, |s| s.accepting.server_cpu_us),
        row(INGRESS, "server cores busy", bare.server_cores, true, |s| s.accepting.server_cores),
        row(INGRESS, "generator CPU µs/event", bare.generator_cpu_us, true, |s| s.accepting.generator_cpu_us),
    ];
    if !systems.is_empty() {
        rows.extend([
            row(INGRESS, "Redis CPU µs/event", cpu, false, |s| s.accepting.redis_cpu_us.unwrap_or(0.0)),
            row(WORKER, "finished/s", rate, false, |s| s.draining.events_per_second),
            row(WORKER, "worker CPU µs/event", cpu, false, |s| s.draining.worker_cpu_us),
            row(WORKER, "Redis CPU µs/event", cpu, false, |s| s.draining.redis_cpu_us),
            row(BOTH, "offered/s", rate, false, |s| s.paced.rate),
            row(BOTH, "latency p50 ms", p50, false, |s| s.paced.accepting.latency.p50_ms),
            row(BOTH, "latency p99 ms", p99, false, |s| s.paced.accepting.latency.p99_ms),
            row(BOTH, "ingress CPU µs/event", cpu, false, |s| s.paced.accepting.server_cpu_us),
            row(BOTH, "end to end, mean ms", p50, false, |s| s.paced.end_to_end_mean_ms),
        ]);
    }
    rows
}

impl Report {
    /// Whether the run succeeded.
    pub(crate) fn is_good(&self) -> bool {
        self.all_good
    }

    /// A line per row, a column per system.
    pub(crate) fn table(&self) -> String {
        let debug = if self.debug_build { ", DEBUG BUILD" } else { "" };
        let mut out = format!(
            "{} cores, {} connections, {} round(s){debug}; (×) is the ratio to the bare handler\n{:<34}{:>12}",
            self.cores, self.connections, self.rounds, "", "bare"
        );
        for system in &self.systems {
            let _ = write!(out, "{:>22}", format!("fsync {}", system.appendfsync));
        }
        out.push('\n');
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = row.section;
                let _ = writeln!(out, "{section}");
            }
            let _ = write!(out, "  {:<32}{:>12}", row.name, row.bare.map_or_else(|| "–".to_owned(), number));
            for cell in &row.systems {
                let _ = write!(out, "{:>12} {:>9}", number(cell.value), format!("(×{:.2})", cell.ratio));
            }
            out.push('\n');
        }
        self.verdict(&mut out);
        out
    }

    fn verdict(&self, out: &mut String) {
        for system in &self.systems {
            let _ = writeln!(
                out,
                "fsync {}: {} accepted, {} finished, {} dead, {} refused: {}",
                system.appendfsync,
                system.accepted,
                system.finished,
                system.dead,
                system.refused(),
                if system.is_good() { "good" } else { "NOT GOOD" },
            );
        }
        if !self.all_good {
            let _ = writeln!(out, "NOT GOOD: at least one round refused, lost or dead-lettered an event");
        }
    }
}

/// Three significant digits, or whole.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
