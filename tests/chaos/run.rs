//! A failure run from its start to its verdict.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tests::generator::Generator;
use tests::ledger::judge::{JudgeConfig, judge};
use tests::ledger::observed::ObservedState;
use tests::ledger::recorder::RequestRecorder;
use tests::ledger::triggers;
use tests::poll;
use tests::sender::{self, Sender};

use crate::engine::{FaultEngine, Prober};
use crate::follower::CommitFollower;
use crate::load::ProviderLoad;
use crate::options::ChaosOptions;
use crate::report::ChaosReport;
use crate::schedule::{FaultKind, FaultSchedule};
use crate::system::{SystemUnderTest, session_wait};

/// Longest time for unfinished events after the last fault, in addition to the wait for sessions.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(90);
/// An answer may be read this long after its sender was killed.
const ANSWER_SKEW: Duration = Duration::from_millis(250);

/// Runs the system, the load and the faults, and judges the result.
pub(crate) async fn run(options: &ChaosOptions) -> ChaosReport {
    let (seed, begun) = (options.seed(), Instant::now());
    eprintln!("chaos: seed {seed}; starting");
    let system = SystemUnderTest::start(options).await;
    let kinds = kinds(options, &system);
    let recorder = Arc::new(RequestRecorder::default());
    let follower = Arc::new(CommitFollower::start(system.stack.database.clone()));
    let senders: Vec<Sender> = system.ingresses.iter().map(|node| node.server.sender()).collect();
    let generator = Generator::new(seed, sender::now_ms(), f64::from(options.rate));
    let mut generator = generator.with_odd_values(options.odd);
    ProviderLoad::announce_rooms(&mut generator, &senders, &recorder).await;
    system.stack.wait_until_drained(DRAIN_TIMEOUT).await;

    let prober = Prober::new(seed, &system, Arc::clone(&recorder), Arc::clone(&follower));
    let load = ProviderLoad::start(generator, senders, Arc::clone(&recorder), options.rate);
    let schedule = FaultSchedule::new(seed, kinds, options.is_short());
    let (mut system, stats) =
        FaultEngine::new(system, prober).run(schedule, options.duration()).await;
    let totals = load.finish().await;
    eprintln!("chaos: all events answered; waiting until they took effect");
    let drained = drain(&mut system, session_wait(options) + DRAIN_TIMEOUT).await;

    eprintln!("chaos: checking events and rows");
    let mut observed = ObservedState::read(&system.stack).await;
    triggers::read(&system.stack.database, &mut observed).await;
    let acceptances = recorder.acceptances();
    let losses = system.aof.iter().flat_map(|aof| aof.loss_windows(recorder.began()));
    let loss_windows = losses.map(|(from, until)| from..=until + ANSWER_SKEW).collect();
    let markers_expired_at = system
        .markers_expired_at
        .iter()
        .map(|at| at.saturating_duration_since(recorder.began()))
        .collect();
    let config =
        JudgeConfig { session_wait: session_wait(options), loss_windows, markers_expired_at };
    let verdict = judge(&acceptances, &observed, &config);
    let mut complaints = recorder.complaints();
    complaints.append(&mut system.complaints);
    complaints.extend(drained.err());
    system.keep_logs();
    let mut report = ChaosReport::new(seed, options, stats, totals, verdict);
    report.unanswered = recorder.unanswered();
    report.complaints = complaints;
    report.ended = system.ended.clone();
    for acceptance in &acceptances {
        if let Some(seen) = follower.seen(acceptance.event.platform, &acceptance.id) {
            let answered = recorder.began() + acceptance.accepted;
            report.record_commit(seen.saturating_duration_since(answered));
        }
    }
    report.took = begun.elapsed();
    report
}

/// Returns the kinds of faults that are requested and possible.
fn kinds(options: &ChaosOptions, system: &SystemUnderTest) -> Vec<FaultKind> {
    let asked =
        if options.faults.is_empty() { FaultKind::value_variants() } else { &options.faults };
    let mut kinds = Vec::new();
    for kind in asked {
        match system.unavailable_reason(*kind) {
            None => kinds.push(*kind),
            Some(reason) => eprintln!("chaos: fault {} left out: {reason}", kind.name()),
        }
    }
    kinds
}

/// Waits until no event is unfinished, and restarts processes that exit.
async fn drain(system: &mut SystemUnderTest, within: Duration) -> Result<(), String> {
    let drained = poll::try_until("all queues are empty", within, async || {
        system.supervise().await;
        for platform in system.stack.platforms().await {
            let left = system.stack.unfinished(&platform).await;
            if left > 0 {
                return Err(format!("{platform}: {left} unfinished"));
            }
        }
        Ok(())
    });
    drained.await.map_err(|late| late.to_string())
}
