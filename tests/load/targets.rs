//! Performance targets as data: every bound in one place.
//!
//! # Guarantees
//!
//! - Only a measured value meets a target. Without one, the verdict is `not measured`
//!   (`bound_itself_meets_both_directions`).

use serde::{Serialize, Serializer};

use crate::figures::Figures;

/// Measured quantity that has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub(crate) enum Goal {
    AcceptedAgainstPool,
    AcceptedAgainstFastify,
    IngressCpuAgainstBare,
    RedisCpu,
    SqliteAgainstRaw,
    PostgresAgainstRaw,
    SqliteCpuBeyondRaw,
    PostgresCpuBeyondRaw,
    AcceptP99,
    CommitP50,
    CommitP99,
    MemoryIngress,
    MemoryWorker,
    CostQueued,
    CostRemembered,
    CostPlatforms,
    BytesRemembered,
    BytesQueued,
    IdleIngress,
    IdleWorker,
    StartIngress,
    StartWorker,
}

/// Side of a bound that meets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    /// The bound or more.
    AtLeast,
    /// The bound or less.
    AtMost,
}

/// Goal with its bound.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PerformanceTarget {
    pub(crate) goal: Goal,
    pub(crate) name: &'static str,
    pub(crate) direction: Direction,
    pub(crate) bound: f64,
    pub(crate) unit: &'static str,
}

/// Result of comparing a value with its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum TargetVerdict {
    Met,
    Missed,
    NotMeasured,
}

/// Target with its measured value and verdict.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct JudgedTarget {
    #[serde(flatten)]
    pub(crate) target: PerformanceTarget,
    #[serde(serialize_with = "finite")]
    pub(crate) measured: Option<f64>,
    pub(crate) verdict: TargetVerdict,
}

const fn at_least(
    goal: Goal,
    bound: f64,
    unit: &'static str,
    name: &'static str,
) -> PerformanceTarget {
    PerformanceTarget { goal, name, direction: Direction::AtLeast, bound, unit }
}

const fn at_most(
    goal: Goal,
    bound: f64,
    unit: &'static str,
    name: &'static str,
) -> PerformanceTarget {
    PerformanceTarget { goal, name, direction: Direction::AtMost, bound, unit }
}

/// All targets.
pub(crate) const TARGETS: [PerformanceTarget; 22] = [
    at_least(
        Goal::AcceptedAgainstPool,
        3.0,
        "×",
        "accepted/s at always, against one script per request over a pool",
    ),
    at_least(
        Goal::AcceptedAgainstFastify,
        3.0,
        "×",
        "accepted/s at always, against Fastify + ioredis at everysec",
    ),
    at_most(
        Goal::IngressCpuAgainstBare,
        2.0,
        "×",
        "ingress CPU per event at always, against the bare handler",
    ),
    at_most(Goal::RedisCpu, 14.0, "µs", "Redis CPU per event at always: enqueue + read + settle"),
    at_least(
        Goal::SqliteAgainstRaw,
        0.6,
        "×",
        "worker to SQLite, events/s against raw batched writes",
    ),
    at_least(
        Goal::PostgresAgainstRaw,
        0.6,
        "×",
        "worker to PostgreSQL, events/s against raw batched writes",
    ),
    at_most(
        Goal::SqliteCpuBeyondRaw,
        12.0,
        "µs",
        "worker to SQLite, CPU per event beyond raw writes",
    ),
    at_most(
        Goal::PostgresCpuBeyondRaw,
        12.0,
        "µs",
        "worker to PostgreSQL, CPU per event beyond raw writes",
    ),
    at_most(Goal::AcceptP99, 10.0, "ms", "half the maximum rate, at always: accept, p99"),
    at_most(Goal::CommitP50, 10.0, "ms", "half the maximum rate, at always: accept to commit, p50"),
    at_most(Goal::CommitP99, 60.0, "ms", "half the maximum rate, at always: accept to commit, p99"),
    at_most(Goal::MemoryIngress, 64.0, "MiB", "resident memory: ingress under full load"),
    at_most(Goal::MemoryWorker, 128.0, "MiB", "resident memory: worker with 1,000,000 queued"),
    at_most(Goal::CostQueued, 1.1, "×", "cost per event with 1,000,000 queued, against none"),
    at_most(
        Goal::CostRemembered,
        1.1,
        "×",
        "cost per event with 5,000,000 remembered ids, against none",
    ),
    at_most(Goal::CostPlatforms, 1.3, "×", "cost per event with 200 active platforms, against one"),
    at_most(Goal::BytesRemembered, 165.0, "B", "Redis memory per remembered id"),
    at_most(Goal::BytesQueued, 230.0, "B", "Redis memory per queued, unread event beyond its body"),
    at_most(Goal::IdleIngress, 0.5, "%", "idle ingress with 200 platforms, of a core"),
    at_most(Goal::IdleWorker, 0.5, "%", "idle worker with 200 platforms, of a core"),
    at_most(Goal::StartIngress, 300.0, "ms", "cold start to ready: ingress"),
    at_most(Goal::StartWorker, 300.0, "ms", "cold start to ready: worker"),
];

impl PerformanceTarget {
    /// Compares `measured` with the bound.
    pub(crate) fn judge(self, measured: Option<f64>) -> JudgedTarget {
        let met = measured.map(|value| match self.direction {
            Direction::AtLeast => value >= self.bound,
            Direction::AtMost => value <= self.bound,
        });
        let verdict = match met {
            Some(true) => TargetVerdict::Met,
            Some(false) => TargetVerdict::Missed,
            None => TargetVerdict::NotMeasured,
        };
        JudgedTarget { target: self, measured, verdict }
    }
}

/// Judges every target.
pub(crate) fn judge(figures: &Figures) -> Vec<JudgedTarget> {
    TARGETS.into_iter().map(|target| target.judge(figures.goal_value(target.goal))).collect()
}

/// Serializes infinity as null, because JSON has no infinity.
fn finite<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    value.filter(|value| value.is_finite()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn bound_itself_meets_both_directions() {
        let least = at_least(Goal::AcceptedAgainstPool, 3.0, "×", "a");
        let most = at_most(Goal::RedisCpu, 14.0, "µs", "b");
        for (target, value, verdict) in [
            (least, 3.0, TargetVerdict::Met),
            (least, 2.99, TargetVerdict::Missed),
            (most, 14.0, TargetVerdict::Met),
            (most, 14.01, TargetVerdict::Missed),
            (most, f64::INFINITY, TargetVerdict::Missed),
            (most, f64::NAN, TargetVerdict::Missed),
            (least, f64::NAN, TargetVerdict::Missed),
        ] {
            assert_eq!(target.judge(Some(value)).verdict, verdict, "{value}");
        }
        assert_eq!(most.judge(None).verdict, TargetVerdict::NotMeasured);
    }

    #[test]
    fn goals_have_one_target_each() {
        let goals: BTreeSet<Goal> = TARGETS.iter().map(|target| target.goal).collect();
        assert_eq!(goals.len(), TARGETS.len());
    }

    #[test]
    fn infinite_value_is_null_in_json() {
        let judged = TARGETS[0].judge(Some(f64::INFINITY));
        let json = serde_json::to_value(judged).unwrap();
        assert_eq!(json["measured"], serde_json::Value::Null);
        assert_eq!(
            (json["verdict"].as_str(), json["goal"].as_str()),
            (Some("met"), Some("accepted_against_pool"))
        );
    }
}
