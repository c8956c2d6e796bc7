//! Ingress and worker together, with everything that is on this machine: how many events a second go all the way, and at
//! half of that, how long it takes until one is accepted, and until it is committed.
//!
//! Guarantee: every latency counts from when the request was due, whatever became of those before it. The rate is fixed, and
//! half of one that the two were seen to keep up with beside each other: what each can do alone is more, and half of
//! that may be all they can do together.
//!
//! When an event is committed is seen in two ways. One request in a hundred, on connections of its own, asks to be answered
//! when its event is (`Prefer: wait`): its latency holds accepting, committing, settling, telling ingress and the answer, so
//! it is more than the time to the commit, and it is what the targets are held against. The ledger's own times, of all
//! events, say when the transaction that holds an event was begun, so they are less.

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
    "committed and told, p50 ms",
    "committed and told, p90 ms",
    "committed and told, p99 ms",
    "committed and told, p99.9 ms",
];
const LATENESS: [&str; 4] = [
    "of which the sender was late, p50 ms",
    "of which the sender was late, p90 ms",
    "of which the sender was late, p99 ms",
    "of which the sender was late, p99.9 ms",
];
const LEDGER: [&str; 4] = [
    "accept to begin of commit, ledger, p50 ms",
    "accept to begin of commit, ledger, p90 ms",
    "accept to begin of commit, ledger, p99 ms",
    "accept to begin of commit, ledger, p99.9 ms",
];
/// One request in so many waits for the commit.
const REQUESTS_PER_SAMPLE: f64 = 100.0;
/// But not fewer than these a second: percentiles need some.
const MIN_SAMPLE_RATE: f64 = 50.0;
/// Connections of those that wait.
const WAITING_CONNECTIONS: u16 = 32;
/// Longest wait for what is left.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// What counts of it.
pub(crate) struct PacedFigures {
    /// All that was accepted, warm-up included.
    pub(crate) accepted: u64,
    accept_p99: Option<f64>,
    commit_p50: Option<f64>,
    commit_p99: Option<f64>,
}

impl PacedFigures {
    /// Holds it against the targets.
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

/// What a system made of as much as it would take.
pub(crate) struct FullSpeedFigures {
    /// All that was accepted, warm-up included.
    pub(crate) accepted: u64,
    /// Events a second that went all the way.
    pub(crate) per_second: f64,
}

/// Offers as many events as are answered to a system whose worker runs and has nothing to do, and waits for what is left.
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
    figures.add(FULL, "all the way, events/s", appendfsync, per_second);
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
        "committed and told: from when a request with Prefer: wait was due to its answer, which comes after commit and \
         settlement; the targets of accept to commit are held against it",
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
            "{column}, at a fixed rate: {others} were not answered {expected}: {statuses:?}"
        ));
    }
}

/// From the time at which Redis had an event to the time at which its transaction began, of all that came after `since`.
async fn ledger(stack: &Stack, since: &str) -> Result<Histogram<u64>, LoadError> {
    let sql = "SELECT CAST(round((unixepoch(processed_at, 'subsec') - unixepoch(received_at, 'subsec')) * 1000) AS \
        INTEGER) AS ms, count(*) AS n FROM webhook_events WHERE platform = 'mux' AND received_at >= $1 GROUP BY 1";
    histogram(&stack.database.rows(sql, &[since]).await)
}

fn histogram(rows: &[Value]) -> Result<Histogram<u64>, LoadError> {
    let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3)?;
    for row in rows {
        // Redis's clock and the worker's are this machine's: less than nothing is rounding.
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
