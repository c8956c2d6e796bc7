//! Measures the cost per event with a preload: a long queue, many dedup markers, or many platforms.
//!
//! # Design
//!
//! A system with the preload and one without take turns, so that both sides of a ratio are measured
//! in the same minute. The cost of an event is the CPU of ingress and Redis at full speed, plus
//! that of worker and Redis while a worker finishes as many events.

use std::time::Duration;

use tests::stack::Stack;

use super::offer::{closed, ingress, requests, to_ingress};
use super::{announce, drain, fill, finished, names, stack};
use crate::LoadError;
use crate::cpu::mib;
use crate::figures::{Figures, ratio};
use crate::options::LoadOptions;
use crate::requests::RequestKind;
use crate::targets::Goal;

/// Kind of preload.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preload {
    /// 1,000,000 unread events.
    Queued,
    /// 5,000,000 dedup markers.
    Remembered,
    /// 200 platforms, each with events.
    Platforms,
}

/// Number of platforms.
pub(crate) const PLATFORMS: usize = 200;
const QUEUED: usize = 1_000_000;
const REMEMBERED: usize = 5_000_000;
/// Longest wait for the last tenth of the events.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

impl Preload {
    const fn section(self) -> &'static str {
        match self {
            Self::Queued => "cost per event with 1,000,000 queued",
            Self::Remembered => "cost per event with 5,000,000 remembered ids",
            Self::Platforms => "cost per event with 200 active platforms",
        }
    }

    const fn goal(self) -> Goal {
        match self {
            Self::Queued => Goal::CostQueued,
            Self::Remembered => Goal::CostRemembered,
            Self::Platforms => Goal::CostPlatforms,
        }
    }
}

/// Compares a preloaded system with an empty one, in turns.
pub(crate) async fn compare(
    preload: Preload,
    options: &LoadOptions,
    figures: &mut Figures,
) -> Result<(), LoadError> {
    let section = preload.section();
    let mut empty = ComparedSystem::start(section, "without", 0).await;
    let platforms = if matches!(preload, Preload::Platforms) { PLATFORMS } else { 0 };
    let mut full = ComparedSystem::start(section, "with", platforms).await;
    full.fill(preload, options, figures).await?;
    for turn in 1..=options.rounds() {
        eprintln!("load:   turn {turn} of {}", options.rounds());
        let without = empty.turn(options, figures).await?;
        let with = full.turn(options, figures).await?;
        let more = ratio(with, without);
        figures.add(section, "CPU in total, with / without", full.column, more);
        figures.goal(preload.goal(), more);
    }
    if let (Preload::Queued, Some(bytes)) = (preload, full.memory) {
        figures.add(section, "worker, resident memory, MiB", full.column, mib(bytes));
        figures.goal(Goal::MemoryWorker, mib(bytes));
    }
    empty.check_accounted(figures).await;
    full.check_accounted(figures).await;
    Ok(())
}

/// One of the two compared systems.
struct ComparedSystem {
    section: &'static str,
    column: &'static str,
    stack: Stack,
    platforms: usize,
    /// Preloaded events.
    queued: u64,
    accepted: u64,
    /// Peak memory of a worker, in bytes.
    memory: Option<u64>,
}

impl ComparedSystem {
    async fn start(section: &'static str, column: &'static str, platforms: usize) -> Self {
        let stack = stack("always", platforms).start().await;
        announce(&stack).await;
        Self { section, column, stack, platforms, queued: 0, accepted: 0, memory: None }
    }

    /// Writes the preload and adds its Redis memory per item.
    async fn fill(
        &mut self,
        preload: Preload,
        options: &LoadOptions,
        figures: &mut Figures,
    ) -> Result<(), LoadError> {
        let redis = &self.stack.redis;
        let before = fill::memory(redis).await?;
        let count = match preload {
            Preload::Queued => options.sized(QUEUED),
            Preload::Remembered => options.sized(REMEMBERED),
            Preload::Platforms => return Ok(()),
        };
        eprintln!("load:   filling Redis with {count}");
        if options.quick {
            figures
                .note("a quick run has a tenth of the queue and of the ids that the targets name");
        }
        let (goal, name, beside) = if matches!(preload, Preload::Queued) {
            self.queued = count as u64;
            let body = fill::events(redis, count, false).await?;
            (Goal::BytesQueued, "Redis memory per event beyond its body, B", body as f64)
        } else {
            fill::ids(redis, count).await?;
            (Goal::BytesRemembered, "Redis memory per remembered id, B", 0.0)
        };
        let grown = fill::memory(redis).await?.saturating_sub(before);
        let each = grown as f64 / count as f64 - beside;
        figures.add(self.section, name, self.column, each);
        figures.goal(goal, each);
        Ok(())
    }

    /// Accepts events at full speed, lets a worker finish as many, and returns the CPU per event,
    /// in µs.
    async fn turn(
        &mut self,
        options: &LoadOptions,
        figures: &mut Figures,
    ) -> Result<f64, LoadError> {
        let plan = closed(options, ingress(&self.stack)?);
        let kind = RequestKind { platforms: self.platforms, wait: false };
        let offered = to_ingress(&self.stack, &plan, requests(&plan, &kind)).await?;
        offered.check(&format!("{}, {}", self.section, self.column), 202, figures);
        let new = offered.count(202);
        self.accepted += new;

        // Nine tenths only, because the last reads of a short queue are small.
        let drained = drain::drain(&mut self.stack, &names(self.platforms), new / 10 * 9).await?;
        self.memory = self.memory.max(drained.peak);
        if self.queued == 0 {
            self.stack.wait_until_drained(DRAIN_TIMEOUT).await;
        }
        drain::stop(&mut self.stack).await;

        let cost = offered.server_cpu_us
            + offered.redis_cpu_us
            + drained.worker_cpu_us
            + drained.redis_cpu_us;
        for (name, value) in [
            ("accepted/s", offered.per_second),
            ("finished/s", drained.per_second),
            ("ingress CPU µs/event", offered.server_cpu_us),
            ("Redis CPU µs/event, enqueue", offered.redis_cpu_us),
            ("worker CPU µs/event", drained.worker_cpu_us),
            ("Redis CPU µs/event, read + settle", drained.redis_cpu_us),
            ("CPU µs/event in total", cost),
        ] {
            figures.add(self.section, name, self.column, value);
        }
        Ok(cost)
    }

    /// Adds a fault unless every accepted event is in the ledger or queued, and no event is dead.
    async fn check_accounted(&self, figures: &mut Figures) {
        let (mut left, mut dead) = (0, 0);
        for platform in names(self.platforms) {
            left += self.stack.unfinished(&platform).await as u64;
            dead += self.stack.dead(&platform).await;
        }
        let (accepted, finished) =
            (self.accepted + self.queued, finished(&self.stack, self.platforms).await);
        if accepted != finished + left || dead > 0 {
            let (section, column) = (self.section, self.column);
            figures.fault(format!(
                "{section}, {column}: {accepted} accepted, {finished} finished, \
                 {left} left, {dead} dead"
            ));
        }
    }
}
