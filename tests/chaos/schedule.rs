//! Schedule of the faults: kinds, targets and durations, drawn from the seed only.
//!
//! # Guarantees
//!
//! - Each round has each kind at least once, so that a run of some rounds has seen all of them
//!   (`schedule_round_has_every_kind`).

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

/// Salt, so that faults and events use different random numbers.
const SALT: u64 = 0x0063_6861_6f73;

/// Kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FaultKind {
    /// kill -9 of an ingress, which is then restarted.
    KillIngress,
    /// kill -9 of a worker, which is then restarted.
    KillWorker,
    /// kill -9 of Redis, which is then restarted.
    KillRedis,
    /// kill -9 of Redis; its log is truncated to its state of a second before (everysec only).
    PowerCut,
    /// kill -9 of PostgreSQL, which is then restarted.
    KillPostgres,
    /// Fast shutdown and restart of PostgreSQL.
    RestartPostgres,
    /// SIGTERM and restart of each ingress, one after the other.
    RollIngress,
    /// SIGTERM and restart of each worker, one after the other.
    RollWorker,
    /// SIGSTOP of an ingress, for longer than every timeout.
    FreezeIngress,
    /// SIGSTOP of a worker, for longer than every timeout.
    FreezeWorker,
    /// SIGSTOP of Redis, for longer than every timeout.
    FreezeRedis,
    /// Connections to Redis are closed and refused.
    CutRedis,
    /// Traffic to and from Redis is delayed.
    DelayRedis,
    /// Connections to Redis stay open, but carry nothing.
    HalfOpenRedis,
    /// Redis receives requests, but its replies are lost.
    MuteRedis,
    /// Connections to PostgreSQL are closed and refused.
    CutDatabase,
    /// Traffic to and from PostgreSQL is delayed.
    DelayDatabase,
    /// Connections to PostgreSQL stay open, but carry nothing.
    HalfOpenDatabase,
    /// PostgreSQL receives requests, but its replies are lost.
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
    /// The wall clock of a worker steps permanently.
    ClockWorker,
    /// The wall clock of Redis steps permanently.
    ClockRedis,
}

impl FaultKind {
    /// Returns the name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Returns the number of faults of this kind per round.
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

    /// Returns true if other faults are injected while this one lasts.
    pub(crate) fn is_background(self) -> bool {
        matches!(self, Self::FreezeIngress | Self::FreezeWorker)
    }

    /// Returns true if it can be the second of two concurrent faults: it is short and affects one
    /// process.
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

    /// Returns the shortest and the longest duration, in ms.
    fn span(self, short: bool) -> (u64, u64) {
        match self {
            // The lease on a worker's name lasts 30 s, a blocking read 15 s. No other timeout is
            // longer.
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

/// A fault of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedFault {
    pub(crate) kind: FaultKind,
    /// Number of the target, modulo the number of targets.
    pub(crate) target: usize,
    /// Duration of the fault.
    pub(crate) duration: Duration,
    /// Random number that determines a clock step or a delay.
    pub(crate) extent: u32,
}

/// Step of the schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleStep {
    pub(crate) fault: PlannedFault,
    /// A second fault that begins in the middle of the first.
    pub(crate) companion: Option<PlannedFault>,
    /// Pause before the step.
    pub(crate) pause: Duration,
}

/// Endless sequence of steps, unless there is no kind.
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
            duration: Duration::from_millis(self.rng.random_range(least..=most)),
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
        let together =
            self.rng.random_bool(0.3) && !kind.is_background() && !fault.duration.is_zero();
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
