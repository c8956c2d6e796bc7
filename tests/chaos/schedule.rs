//! Which faults follow each other: kinds, targets and durations, drawn from the seed and nothing else.
//!
//! Guarantee: in every round each kind comes at least once, so that a run of some rounds has seen all of them.

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// Salt, so that faults and events are not drawn from the same numbers.
const SALT: u64 = 0x0063_6861_6f73;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// kill -9 of an ingress, which is started again.
    KillIngress,
    /// kill -9 of a worker, which is started again.
    KillWorker,
    /// kill -9 of Redis, which is started again.
    KillRedis,
    /// kill -9 of Redis, and its log cut to what it was a second ago (everysec only).
    PowerCut,
    /// kill -9 of PostgreSQL, which is started again.
    KillPostgres,
    /// Fast shutdown and start of PostgreSQL.
    RestartPostgres,
    /// SIGTERM and start, one ingress after the other.
    RollIngress,
    /// SIGTERM and start, one worker after the other.
    RollWorker,
    /// SIGSTOP of an ingress, for longer than every timeout.
    FreezeIngress,
    /// SIGSTOP of a worker, for longer than every timeout.
    FreezeWorker,
    /// SIGSTOP of Redis, for longer than every timeout.
    FreezeRedis,
    /// Connections to Redis are cut and refused.
    CutRedis,
    /// Everything to and from Redis is late.
    DelayRedis,
    /// Connections to Redis stand, but nothing gets through.
    HalfOpenRedis,
    /// Redis hears, but is not heard.
    MuteRedis,
    /// Connections to PostgreSQL are cut and refused.
    CutDatabase,
    /// Everything to and from PostgreSQL is late.
    DelayDatabase,
    /// Connections to PostgreSQL stand, but nothing gets through.
    HalfOpenDatabase,
    /// PostgreSQL hears, but is not heard.
    MuteDatabase,
    /// CLIENT KILL of every connection to Redis.
    KillClients,
    /// SCRIPT FLUSH.
    FlushScripts,
    /// XGROUP DESTROY of one platform's consumer group.
    DropGroup,
    /// Redis at maxmemory.
    MaxMemory,
    /// No space left for Redis's log.
    FullRedis,
    /// No space left for SQLite.
    FullSqlite,
    /// Another process holds SQLite's write lock.
    LockSqlite,
    /// Another session holds rows of PostgreSQL locked.
    LockRows,
    /// The wall clock of an ingress is wrong for a while.
    ClockIngress,
    /// The wall clock of a worker jumps and stays.
    ClockWorker,
    /// The wall clock of Redis jumps and stays.
    ClockRedis,
}

impl FaultKind {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// How often it comes in a round.
    fn weight(self) -> usize {
        match self {
            Self::KillIngress | Self::KillWorker | Self::KillRedis | Self::KillPostgres => 2,
            Self::CutRedis
            | Self::CutDatabase
            | Self::KillClients
            | Self::DropGroup
            | Self::FlushScripts => 2,
            _ => 1,
        }
    }

    /// Whether other faults may come while it lasts.
    pub(crate) fn is_background(self) -> bool {
        matches!(self, Self::FreezeIngress | Self::FreezeWorker)
    }

    /// Whether it fits as the second of two at a time: it is over at once, and harms one process.
    fn is_companion(self) -> bool {
        matches!(
            self,
            Self::KillIngress
                | Self::KillWorker
                | Self::KillClients
                | Self::FlushScripts
                | Self::DropGroup
        )
    }

    /// The shortest and longest time that it lasts, in ms.
    fn span(self, short: bool) -> (u64, u64) {
        match self {
            // The lease on a worker's name lasts 30 s, a blocking read 15 s; nothing waits longer.
            Self::FreezeIngress | Self::FreezeWorker if !short => (31_000, 36_000),
            Self::FreezeRedis if !short => (16_000, 18_000),
            Self::FreezeIngress | Self::FreezeWorker | Self::FreezeRedis => (3_000, 6_000),
            // SQLite's busy timeout is 5 s.
            Self::LockSqlite if !short => (1_000, 8_000),
            Self::HalfOpenRedis | Self::HalfOpenDatabase | Self::MuteRedis | Self::MuteDatabase
                if !short =>
            {
                (1_000, 7_000)
            }
            Self::KillClients
            | Self::FlushScripts
            | Self::DropGroup
            | Self::ClockWorker
            | Self::ClockRedis => (0, 200),
            Self::RollIngress | Self::RollWorker => (0, 0),
            _ => (100, if short { 1_000 } else { 2_500 }),
        }
    }
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedFault {
    pub(crate) kind: FaultKind,
    /// Which of several, to be divided by their number.
    pub(crate) target: usize,
    /// How long it lasts.
    pub(crate) holds: Duration,
    /// How much, where that is a question: a clock's step, a delay.
    pub(crate) extent: u32,
}

/// One step of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleStep {
    pub(crate) fault: PlannedFault,
    /// Another one that comes in its midst.
    pub(crate) companion: Option<PlannedFault>,
    /// How long to wait before it.
    pub(crate) pause: Duration,
}

/// Draws steps; it never ends while there are kinds.
#[derive(Debug)]
pub(crate) struct FaultSchedule {
    rng: StdRng,
    kinds: Vec<FaultKind>,
    round: Vec<FaultKind>,
    short: bool,
}

impl FaultSchedule {
    pub(crate) fn new(seed: u64, mut kinds: Vec<FaultKind>, short: bool) -> Self {
        kinds.sort_unstable();
        kinds.dedup();
        Self { rng: StdRng::seed_from_u64(seed ^ SALT), kinds, round: Vec::new(), short }
    }

    fn fault(&mut self, kind: FaultKind) -> PlannedFault {
        let (least, most) = kind.span(self.short);
        PlannedFault {
            kind,
            target: self.rng.random_range(0..1024),
            holds: Duration::from_millis(self.rng.random_range(least..=most)),
            extent: self.rng.random(),
        }
    }
}

impl Iterator for FaultSchedule {
    type Item = ScheduleStep;

    fn next(&mut self) -> Option<ScheduleStep> {
        if self.round.is_empty() {
            let often = |kind: &FaultKind| {
                std::iter::repeat_n(*kind, if self.short { 1 } else { kind.weight() })
            };
            self.round = self.kinds.iter().flat_map(often).collect();
            self.round.shuffle(&mut self.rng);
        }
        let kind = self.round.pop()?;
        let fault = self.fault(kind);
        let companions: Vec<FaultKind> = self
            .kinds
            .iter()
            .copied()
            .filter(|other| other.is_companion() && *other != kind)
            .collect();
        let draw = self.rng.random_range(0..usize::MAX);
        let together = self.rng.random_bool(0.3) && !kind.is_background() && !fault.holds.is_zero();
        let companion =
            companions.get(draw % companions.len().max(1)).copied().filter(|_| together);
        let companion = companion.map(|kind| self.fault(kind));
        let pause =
            Duration::from_millis(self.rng.random_range(0..if self.short { 300 } else { 800 }));
        Some(ScheduleStep { fault, companion, pause })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn schedule_with_one_seed_repeats_its_steps() {
        let steps = |seed| {
            FaultSchedule::new(seed, FaultKind::value_variants().to_vec(), false)
                .take(100)
                .collect::<Vec<_>>()
        };
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
    }

    #[test]
    fn schedule_round_has_every_kind() {
        let all = FaultKind::value_variants();
        let length: usize = all.iter().map(|kind| kind.weight()).sum();
        let mut steps = FaultSchedule::new(7, all.to_vec(), false);
        for _ in 0..3 {
            let seen: HashSet<FaultKind> =
                steps.by_ref().take(length).map(|step| step.fault.kind).collect();
            assert_eq!(seen.len(), all.len());
        }
    }

    #[test]
    fn schedule_without_kinds_is_empty() {
        assert_eq!(FaultSchedule::new(7, Vec::new(), true).next(), None);
    }
}
