//! What an event costs where much else is there: a long queue, many remembered ids, many platforms.
//!
//! Guarantee: the system that has much and one that has nothing stand side by side and take turns, so both sides of a
//! ratio are of the same minute. The cost of an event is the CPU of ingress and Redis while ingress accepts at full speed,
//! and of worker and Redis while a worker finishes as many: all processes, the whole way, both at their best.

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

/// What there is much of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preload {
    /// 1,000,000 events that nobody has read.
    Queued,
    /// 5,000,000 remembered ids.
    Remembered,
    /// 200 platforms, each with events.
    Platforms,
}

/// How many there are.
pub(crate) const PLATFORMS: usize = 200;
const QUEUED: usize = 1_000_000;
const REMEMBERED: usize = 5_000_000;
/// Longest wait for the last tenth.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(120);

impl Preload {
    const fn section(self) -> &'static str {
        match self {
            Self::Queued => "an event's cost with 1,000,000 queued",
            Self::Remembered => "an event's cost with 5,000,000 remembered ids",
            Self::Platforms => "an event's cost with 200 active platforms",
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

/// Measures a side with much against one with nothing, in turns.
pub(crate) async fn compare(
    much: Preload,
    options: &LoadOptions,
    figures: &mut Figures,
) -> Result<(), LoadError> {
    let section = much.section();
    let mut empty = ComparedSystem::start(section, "without", 0).await;
    let platforms = if matches!(much, Preload::Platforms) { PLATFORMS } else { 0 };
    let mut full = ComparedSystem::start(section, "with", platforms).await;
    full.fill(much, options, figures).await?;
    for turn in 1..=options.rounds() {
        eprintln!("load:   turn {turn} of {}", options.rounds());
        let without = empty.turn(options, figures).await?;
        let with = full.turn(options, figures).await?;
        let more = ratio(with, without);
        figures.add(section, "in all, against without", full.column, more);
        figures.goal(much.goal(), more);
    }
    if let (Preload::Queued, Some(bytes)) = (much, full.memory) {
        figures.add(section, "worker, resident memory, MiB", full.column, mib(bytes));
        figures.goal(Goal::MemoryWorker, mib(bytes));
    }
    empty.check_accounted(figures).await;
    full.check_accounted(figures).await;
    Ok(())
}

/// A system of its own.
struct ComparedSystem {
    section: &'static str,
    column: &'static str,
    stack: Stack,
    platforms: usize,
    /// Events that were put into the queue besides.
    queued: u64,
    accepted: u64,
    /// The most that a worker held, in bytes.
    memory: Option<u64>,
}

impl ComparedSystem {
    async fn start(section: &'static str, column: &'static str, platforms: usize) -> Self {
        let stack = stack("always", platforms).start().await;
        announce(&stack).await;
        Self { section, column, stack, platforms, queued: 0, accepted: 0, memory: None }
    }

    /// Puts there what there is to be much of, and tells what one of it takes in Redis.
    async fn fill(
        &mut self,
        much: Preload,
        options: &LoadOptions,
        figures: &mut Figures,
    ) -> Result<(), LoadError> {
        let redis = &self.stack.redis;
        let before = fill::memory(redis).await?;
        let count = match much {
            Preload::Queued => options.sized(QUEUED),
            Preload::Remembered => options.sized(REMEMBERED),
            Preload::Platforms => return Ok(()),
        };
        eprintln!("load:   filling Redis with {count}");
        if options.quick {
            figures
                .note("a quick run has a tenth of the queue and of the remembered ids that the targets speak of");
        }
        let (goal, name, beside) = if matches!(much, Preload::Queued) {
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

    /// Accepts at full speed for a while, lets a worker finish as much, and gives what an event cost in all, in µs.
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

        // Nine of ten: the last reads of a queue that comes to its end are small.
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
            ("CPU µs/event in all", cost),
        ] {
            figures.add(self.section, name, self.column, value);
        }
        Ok(cost)
    }

    /// What was accepted is in the ledger or still queued, and nothing is dead.
    async fn check_accounted(&self, figures: &mut Figures) {
        let (mut left, mut dead) = (0, 0);
        for platform in names(self.platforms) {
            left += self.stack.unfinished(&platform).await as u64;
            dead += self.stack.dead(&platform).await;
        }
        let (there, finished) =
            (self.accepted + self.queued, finished(&self.stack, self.platforms).await);
        if there != finished + left || dead > 0 {
            let (section, column) = (self.section, self.column);
            figures.fault(format!(
                "{section}, {column}: {there} accepted, {finished} finished, {left} left, {dead} dead"
            ));
        }
    }
}
