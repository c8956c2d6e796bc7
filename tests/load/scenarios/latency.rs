//! Measures ingress and worker together: the rate at full speed, and at half of it the latency
//! until an event is accepted and until it is committed.
//!
//! # Guarantees
//!
//! - Every latency counts from the due time of its request
//!   (`server_stall_shows_in_every_delayed_request`).
//!
//! # Design
//!
//! The fixed rate is half of the rate that both processes sustain together. Half of what each can
//! do alone might be all they can do together.
//!
//! The time to the commit is measured in two ways. One request in a hundred uses `Prefer: wait`.
//! Its latency includes accepting, committing, settling, notifying ingress and answering, so it is
//! an upper bound, and the targets apply to it. The times in the ledger cover all events. They
//! contain the start of an event's transaction, so they are a lower bound.

use std::time::{Duration, Instant};

use ::tests::sender::{now_ms, rfc3339};
use ::tests::stack::Stack;
use hdrhistogram::Histogram;
use serde_json::Value;

use super::offer::{ACCEPT, closed, ingress, millis, percentiles, requests, to_ingress};
use crate::LoadError;
use crate::cpu::CpuSampler;
use crate::figures::Figures;
use crate::generator::{self, GeneratorOutcome, LoadPlan};
use crate::options::LoadOptions;
use crate::requests::RequestKind;
use crate::targets::Goal;

const FULL: &str = "ingress and worker together, at full speed";
const SECTION: &str = "ingress and worker together, at half of that";
const COMMITTED: [&str; 4] = [
    "committed and answered, p50 ms",
    "committed and answered, p90 ms",
    "committed and answered, p99 ms",
    "committed and answered, p99.9 ms",
];
const LATENESS: [&str; 4] = [
    "of which sender delay, p50 ms",
    "of which sender delay, p90 ms",
    "of which sender delay, p99 ms",
    "of which sender delay, p99.9 ms",
];
const LEDGER: [&str; 4] = [
    "accept to start of transaction, p50 ms",
    "accept to start of transaction, p90 ms",
    "accept to start of transaction, p99 ms",
    "accept to start of transaction, p99.9 ms",
];
/// One request out of this number waits for the commit.
const REQUESTS_PER_SAMPLE: f64 = 100.0;
/// Lowest rate of waiting requests per second, so that percentiles have enough samples.
const MIN_SAMPLE_RATE: f64 = 50.0;
/// Connections of the waiting requests.
const WAITING_CONNECTIONS: u16 = 32;
/// Longest wait for the rest of the backlog.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Figures at a fixed rate.
pub(crate) struct PacedFigures {
    /// Accepted events, including the warm-up.
    pub(crate) accepted: u64,
    accept_p99: Option<f64>,
    commit_p50: Option<f64>,
    commit_p99: Option<f64>,
}

impl PacedFigures {
    /// Adds the values of the latency targets.
    pub(crate) fn judge(&self, figures: &mut Figures) {
        for (goal, value) in [
            (Goal::AcceptP99, self.accept_p99),
            (Goal::CommitP50, self.commit_p50),
            (Goal::CommitP99, self.commit_p99),
        ] {
            if let Some(value) = value {
                figures.goal(goal, value);
            }
        }
    }
}

/// Figures at full speed.
pub(crate) struct FullSpeedFigures {
    /// Accepted events, including the warm-up.
    pub(crate) accepted: u64,
    /// Events per second that were finished.
    pub(crate) per_second: f64,
}

/// Offers events in a closed loop to a system with an idle worker, and waits until all are
/// finished.
pub(crate) async fn full(
    stack: &Stack,
    options: &LoadOptions,
    appendfsync: &'static str,
    figures: &mut Figures,
) -> Result<FullSpeedFigures, LoadError> {
    let plan = closed(options, ingress(stack)?);
    let requests = requests(&plan, &RequestKind::plain());
    let begin = Instant::now();
    let offered = to_ingress(stack, &plan, requests).await?;
    let (took, left) = (begin.elapsed().as_secs_f64(), stack.unfinished("mux").await as u64);
    offered.check(&format!("{FULL}, {appendfsync}"), 202, figures);
    let accepted = offered.count(202);
    let per_second = accepted.saturating_sub(left) as f64 / took;
    figures.add(FULL, "accepted/s", appendfsync, offered.per_second);
    figures.add(FULL, "finished, events/s", appendfsync, per_second);
    stack.wait_until_drained(DRAIN_TIMEOUT).await;
    Ok(FullSpeedFigures { accepted, per_second })
}

/// Offers `rate` events a second to a system that has one ingress and one worker.
pub(crate) async fn paced(
    stack: &Stack,
    options: &LoadOptions,
    rate: f64,
    column: &str,
    figures: &mut Figures,
) -> Result<PacedFigures, LoadError> {
    let (address, measured) = (ingress(stack)?, options.seconds());
    let plan = |connections, rate, expected| LoadPlan {
        address,
        connections,
        warm_up: options.warm_up(),
        measured,
        rate: Some(rate),
        expected,
    };
    let sampled = (rate / REQUESTS_PER_SAMPLE).max(MIN_SAMPLE_RATE);
    let (most, some) = (
        plan(options.connections, (rate - sampled).max(1.0), 202),
        plan(WAITING_CONNECTIONS, sampled, 200),
    );
    let (all, asking) = (
        requests(&most, &RequestKind::plain()),
        requests(&some, &RequestKind { platforms: 0, wait: true }),
    );
    let (server, redis) = (stack.ingresses[0].process.pid(), stack.redis.process().pid());
    let mut sampler = CpuSampler::of(&[server, redis, stack.workers[0].process.pid()])?;
    let mut since = None;
    let both = tokio::join!(
        generator::run(&most, all, || {
            since.get_or_insert_with(|| rfc3339(now_ms()));
            sampler.mark();
        }),
        generator::run(&some, asking, || {}),
    );
    let (outcome, waited) = (both.0?, both.1?);
    stack.wait_until_drained(DRAIN_TIMEOUT).await;

    let events = outcome.answers + waited.answers;
    figures.add(SECTION, "offered/s", column, rate);
    figures.add(SECTION, "accepted/s", column, events as f64 / outcome.measured.as_secs_f64());
    percentiles(SECTION, &ACCEPT, column, &outcome.latency, figures);
    percentiles(SECTION, &LATENESS, column, &outcome.lateness, figures);
    percentiles(SECTION, &COMMITTED, column, &waited.latency, figures);
    let ledger = ledger(stack, &since.unwrap_or_default()).await?;
    percentiles(SECTION, &LEDGER, column, &ledger, figures);
    for (i, name) in ["ingress CPU µs/event", "Redis CPU µs/event", "worker CPU µs/event"]
        .into_iter()
        .enumerate()
    {
        figures.add(SECTION, name, column, sampler.micros_per(i, events));
    }
    check(&outcome, 202, column, figures);
    check(&waited, 200, column, figures);
    figures.note(
        "committed and answered: from the due time of a request with Prefer: wait to its answer, \
         after commit and settlement; the targets of accept to commit apply to it",
    );
    Ok(PacedFigures {
        accepted: [&outcome, &waited].iter().map(|one| count(one, 202) + count(one, 200)).sum(),
        accept_p99: millis(&outcome.latency, 0.99),
        commit_p50: millis(&waited.latency, 0.5),
        commit_p99: millis(&waited.latency, 0.99),
    })
}

fn count(outcome: &GeneratorOutcome, status: u16) -> u64 {
    outcome.statuses.get(&status).copied().unwrap_or(0)
}

fn check(outcome: &GeneratorOutcome, expected: u16, column: &str, figures: &mut Figures) {
    let others = outcome.statuses.values().sum::<u64>() - count(outcome, expected);
    if others > 0 {
        let statuses = &outcome.statuses;
        figures.fault(format!(
            "{column}, at a fixed rate: {others} not answered {expected}: {statuses:?}"
        ));
    }
}

/// Returns the time from arrival in Redis to the start of the transaction, for events after
/// `since`.
async fn ledger(stack: &Stack, since: &str) -> Result<Histogram<u64>, LoadError> {
    let sql = "SELECT CAST(round((unixepoch(processed_at, 'subsec') \
        - unixepoch(received_at, 'subsec')) * 1000) AS INTEGER) AS ms, count(*) AS n \
        FROM webhook_events WHERE platform = 'mux' AND received_at >= $1 GROUP BY 1";
    histogram(&stack.database.rows(sql, &[since]).await)
}

fn histogram(rows: &[Value]) -> Result<Histogram<u64>, LoadError> {
    let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3)?;
    for row in rows {
        // All processes use this machine's clock, so a negative time is a rounding error.
        let (ms, n) = (row["ms"].as_i64().ok_or("no time")?, row["n"].as_u64().ok_or("no count")?);
        histogram.saturating_record_n(u64::try_from(ms).unwrap_or(0) * 1000, n);
    }
    Ok(histogram)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn ledger_times_are_weighted_by_their_events() {
        let rows =
            [json!({"ms": 2, "n": 90}), json!({"ms": 40, "n": 10}), json!({"ms": -1, "n": 1})];
        let histogram = histogram(&rows).unwrap();
        assert_eq!(histogram.len(), 101);
        let [median, last] = [0.5, 0.99].map(|quantile| millis(&histogram, quantile).unwrap());
        assert!((1.9..2.1).contains(&median) && (39.0..41.0).contains(&last), "{median} {last}");
    }

    #[test]
    fn percentile_of_nothing_meets_no_target() {
        let none = millis(&histogram(&[]).unwrap(), 0.99);
        let mut figures = Figures::default();
        PacedFigures { accepted: 0, accept_p99: none, commit_p50: none, commit_p99: none }
            .judge(&mut figures);
        assert_eq!((none, figures.goal_value(Goal::AcceptP99)), (None, None));
    }
}
