//! A run from its beginning to its judgement.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tests::generator::Generator;
use tests::ledger::found::Found;
use tests::ledger::judge::{Terms, judge};
use tests::ledger::oracle::Oracle;
use tests::ledger::watch;
use tests::poll;
use tests::sender::{self, Sender};

use crate::arena::{Arena, session_wait};
use crate::engine::{Engine, Prober};
use crate::follower::Follower;
use crate::load::Load;
use crate::options::Options;
use crate::report::Report;
use crate::schedule::{Kind, Schedule};

/// How long unfinished events may take once nothing fails any more, beside the wait for sessions.
const DRAINS: Duration = Duration::from_secs(90);
/// An answer may be read this long after its sender was killed.
const SHARED_INSTANT: Duration = Duration::from_millis(250);

/// Runs it.
pub(crate) async fn run(options: &Options) -> Report {
    let (seed, begun) = (options.seed(), Instant::now());
    eprintln!("chaos: seed {seed}; starting");
    let arena = Arena::start(options).await;
    let kinds = kinds(options, &arena);
    let oracle = Arc::new(Oracle::default());
    let follower = Arc::new(Follower::start(arena.stack.database.clone()));
    let senders: Vec<Sender> = arena.ingresses.iter().map(|node| node.role.sender()).collect();
    let generator = Generator::new(seed, sender::now_ms(), f64::from(options.rate));
    let mut generator = generator.with_odd_values(options.odd);
    Load::found(&mut generator, &senders, &oracle).await;
    arena.stack.drained(DRAINS).await;

    let prober = Prober::new(seed, &arena, Arc::clone(&oracle), Arc::clone(&follower));
    let load = Load::start(generator, senders, Arc::clone(&oracle), options.rate);
    let schedule = Schedule::new(seed, kinds, options.is_short());
    let (mut arena, felt) = Engine::new(arena, prober).run(schedule, options.duration()).await;
    let sent = load.finish().await;
    eprintln!("chaos: all answered; waiting for the rest to take effect");
    let drained = drain(&mut arena, session_wait(options) + DRAINS).await;

    eprintln!("chaos: judging");
    let mut found = Found::read(&arena.stack).await;
    watch::read(&arena.stack.database, &mut found).await;
    let promises = oracle.promises();
    let losses = arena.aof.iter().flat_map(|aof| aof.losses(oracle.began()));
    let forgetful = losses.map(|(from, until)| from..=until + SHARED_INSTANT).collect();
    let outlived = arena.outlived.iter().map(|at| at.saturating_duration_since(oracle.began())).collect();
    let terms = Terms { session_wait: session_wait(options), forgetful, outlived };
    let verdict = judge(&promises, &found, &terms);
    let mut complaints = oracle.complaints();
    complaints.append(&mut arena.complaints);
    complaints.extend(drained.err());
    arena.keep_logs();
    let mut report = Report::new(seed, options, felt, sent, verdict);
    report.unanswered = oracle.unanswered();
    report.complaints = complaints;
    report.ended = arena.ended.clone();
    for promise in &promises {
        if let Some(seen) = follower.seen(promise.event.platform, &promise.id) {
            let answered = oracle.began() + promise.promised;
            report.committed(seen.saturating_duration_since(answered));
        }
    }
    report.took = begun.elapsed();
    report
}

/// The kinds of faults that were asked for and are possible.
fn kinds(options: &Options, arena: &Arena) -> Vec<Kind> {
    let asked = if options.faults.is_empty() { Kind::value_variants() } else { &options.faults };
    let mut kinds = Vec::new();
    for kind in asked {
        match arena.impossible(*kind) {
            None => kinds.push(*kind),
            Some(reason) => eprintln!("chaos: without {}: {reason}", kind.name()),
        }
    }
    kinds
}

/// Waits until no event is unfinished, while what ends is started again.
async fn drain(arena: &mut Arena, within: Duration) -> Result<(), String> {
    let drained = poll::try_until("nothing is unfinished", within, async || {
        arena.supervise().await;
        for platform in arena.stack.platforms().await {
            let left = arena.stack.unfinished(&platform).await;
            if left > 0 {
                return Err(format!("{platform}: {left} left"));
            }
        }
        Ok(())
    });
    drained.await.map_err(|late| late.to_string())
}
