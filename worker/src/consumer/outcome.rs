//! Decides the transition of an executed event. This pure function is the whole policy of retries
//! and dead letters.
//!
//! # Guarantees
//! - Only a fault of the event itself spends an attempt
//!   (`blocked_event_is_retried_without_spending_an_attempt`,
//!   `rejected_event_is_dead_lettered_after_its_last_attempt`).
//! - A missing session costs nothing while an announcement that was queued in time is unfinished
//!   (`missing_session_spends_nothing_before_its_announcement`).
//! - After that, time decides and not the number of attempts
//!   (`missing_session_is_awaited_exactly_as_long_as_configured`).
//! - Time without Redis or the database does not count
//!   (`outage_time_does_not_count_as_waiting_for_a_session`).

use std::time::Duration;

use rand::Rng;
use shared::backoff::Backoff;
use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, Millis};
use shared::queue::{DecodeError, SettleOutcome};

use crate::context::WorkerContext;
use crate::effects::{Applied, EventAction, EventResult};

/// Time that an entry of an unknown wire version waits for a newer worker before it is
/// dead-lettered.
pub const UNKNOWN_VERSION_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Bounds on retries, as configured.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    /// Executions in total, at least 1.
    pub max_attempts: u32,
    /// Delay between executions.
    pub backoff: Backoff,
    /// Time that an event waits for its session.
    pub missing_session_wait: Duration,
}

/// Result of executing an event.
#[derive(Debug)]
pub enum ExecutionVerdict {
    /// Committed, or left out of the transaction for a reason that the store names.
    Applied(Applied),
    /// The body cannot be an event of its type.
    Invalid(String),
    /// The database rejects this event and accepts others.
    Rejected(String),
    /// The event needs a locked resource. The database accepts others.
    Blocked(String),
}

impl ExecutionVerdict {
    /// Returns true if the event has to wait for its session.
    pub fn is_missing_session(&self) -> bool {
        matches!(self, Self::Applied(Applied::MissingSession))
    }

    /// Returns the event's result if it took effect now or before.
    pub fn result(&self) -> Option<&EventResult> {
        match self {
            Self::Applied(Applied::Done(result) | Applied::AlreadyApplied { result, .. }) => {
                Some(result)
            }
            _ => None,
        }
    }
}

/// Transition of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryTransition {
    /// Acknowledges and deletes the entry.
    Settle(SettleOutcome),
    /// Executes the event again after `delay`.
    Retry {
        /// Delay from now, by Redis's clock.
        delay: Duration,
        /// Number of the next attempt.
        attempt: u32,
        /// Time of the first failure. `None` if the event is not the reason for waiting.
        first_failed_at: Option<Millis>,
        /// Error code of a later dead letter.
        code: DeadLetterCode,
        /// Error text for operators.
        error: String,
    },
    /// Moves the entry to the dead letters.
    DeadLetter {
        /// Error code.
        code: DeadLetterCode,
        /// Error text for operators.
        error: String,
    },
}

/// Facts that a decision depends on.
#[derive(Clone, Copy, Debug)]
pub struct DecisionContext {
    /// Time by Redis's clock.
    pub now: Millis,
    /// Time at which the oldest unfinished announcement was queued.
    pub oldest_announcement: Option<Millis>,
    /// Start of the time in which both Redis and the database have been available, as far as this
    /// worker knows. Nothing could be announced before it.
    pub up_since: Millis,
}

impl EntryTransition {
    /// Retries an edited event whose other copy is in the same batch. The ledger knows the result
    /// of that copy by then.
    pub fn after_duplicate_entry(policy: &RetryPolicy, attempt: u32, rng: &mut impl Rng) -> Self {
        Self::Retry {
            delay: policy.backoff.delay(1, rng),
            attempt,
            first_failed_at: None,
            code: DeadLetterCode::AlreadyProcessed,
            error: "waiting for another copy of the event".to_owned(),
        }
    }
}

impl DecisionContext {
    /// Returns the current context of `worker`, without the oldest announcement.
    pub fn at(worker: &WorkerContext) -> Self {
        let now = worker.now();
        Self { now, oldest_announcement: None, up_since: worker.up_since() }
    }
}

/// Decides the transition of `event`.
pub fn decide(
    policy: &RetryPolicy,
    event: &Envelope,
    verdict: ExecutionVerdict,
    context: DecisionContext,
    rng: &mut impl Rng,
) -> EntryTransition {
    match verdict {
        // The ledger has another version of this event, so this edit can take no effect. A
        // redelivery of the same edit is handled below.
        ExecutionVerdict::Applied(Applied::AlreadyApplied { result, .. })
            if event.edited.is_some() && event.edited != result.edited =>
        {
            EntryTransition::DeadLetter {
                code: DeadLetterCode::AlreadyProcessed,
                error: "the event had already taken effect before this edit was replayed"
                    .to_owned(),
            }
        }
        // A worker was killed between commit and settle. Settling in full does the rest of its
        // work.
        ExecutionVerdict::Applied(
            Applied::Done(result) | Applied::AlreadyApplied { same_origin: true, result },
        ) => EntryTransition::Settle(match result.action {
            EventAction::StaleIgnored => SettleOutcome::Stale,
            _ => SettleOutcome::Processed,
        }),
        ExecutionVerdict::Applied(Applied::AlreadyApplied { same_origin: false, .. }) => {
            EntryTransition::Settle(SettleOutcome::Duplicate)
        }
        ExecutionVerdict::Applied(Applied::MissingSession) => {
            missing_session(policy, event, context, rng)
        }
        ExecutionVerdict::Applied(Applied::Conflict) => EntryTransition::DeadLetter {
            code: DeadLetterCode::SessionConflict,
            error: "the session belongs to another platform".to_owned(),
        },
        ExecutionVerdict::Invalid(error) => {
            EntryTransition::DeadLetter { code: DeadLetterCode::InvalidEvent, error }
        }
        ExecutionVerdict::Rejected(error) if event.attempt >= policy.max_attempts => {
            EntryTransition::DeadLetter { code: DeadLetterCode::StoreRejected, error }
        }
        ExecutionVerdict::Applied(Applied::RowLocked) => {
            let error = "another transaction keeps a row locked that the event needs".to_owned();
            blocked(policy, event, error, context, rng)
        }
        ExecutionVerdict::Blocked(error) => blocked(policy, event, error, context, rng),
        ExecutionVerdict::Rejected(error) => EntryTransition::Retry {
            delay: policy.backoff.delay(event.attempt, rng),
            attempt: event.attempt.saturating_add(1),
            first_failed_at: Some(event.first_failed_at.unwrap_or(context.now)),
            code: DeadLetterCode::StoreRejected,
            error,
        },
    }
}

/// Retries an event that needs a locked resource. The event is not to blame.
fn blocked(
    policy: &RetryPolicy,
    event: &Envelope,
    error: String,
    context: DecisionContext,
    rng: &mut impl Rng,
) -> EntryTransition {
    EntryTransition::Retry {
        delay: age_based_delay(policy, event, context, rng),
        attempt: event.attempt,
        first_failed_at: event.first_failed_at,
        code: DeadLetterCode::StoreRejected,
        error,
    }
}

/// Returns the delay of a retry that spends no attempt: about as long as the event has waited,
/// within the bounds.
fn age_based_delay(
    policy: &RetryPolicy,
    event: &Envelope,
    context: DecisionContext,
    rng: &mut impl Rng,
) -> Duration {
    let age = Duration::from_millis(u64::try_from(context.now - event.received_at).unwrap_or(0));
    let doublings = (age.as_millis() / policy.backoff.ceiling(1).as_millis().max(1)).max(1).ilog2();
    policy.backoff.delay(doublings + 1, rng)
}

fn missing_session(
    policy: &RetryPolicy,
    event: &Envelope,
    context: DecisionContext,
    rng: &mut impl Rng,
) -> EntryTransition {
    let code = DeadLetterCode::SessionNotFound;
    let error = "no session has this room id or live stream id".to_owned();
    // A first failure in the future was recorded before Redis's clock was set back. The wait must
    // not last until the clock has caught up.
    let first = event.first_failed_at.filter(|first| *first <= context.now).unwrap_or(context.now);
    let since = first.max(context.up_since.min(context.now));
    let wait = Millis::try_from(policy.missing_session_wait.as_millis()).unwrap_or(Millis::MAX);
    let announced_until = event.received_at.max(since.saturating_add(wait));
    if context.oldest_announcement.is_some_and(|oldest| oldest <= announced_until) {
        // Many events may wait for one announcement.
        let delay = age_based_delay(policy, event, context, rng);
        return EntryTransition::Retry {
            delay,
            attempt: event.attempt,
            first_failed_at: event.first_failed_at,
            code,
            error,
        };
    }
    let waited = Duration::from_millis(u64::try_from(context.now - since).unwrap_or(0));
    let Some(left) = policy.missing_session_wait.checked_sub(waited).filter(|left| !left.is_zero())
    else {
        return EntryTransition::DeadLetter { code, error };
    };
    EntryTransition::Retry {
        delay: policy.backoff.delay(event.attempt, rng).min(left),
        attempt: event.attempt.saturating_add(1),
        first_failed_at: Some(first),
        code,
        error,
    }
}

impl EntryTransition {
    /// Dead-letters an entry that cannot be decoded, with its fields unchanged.
    pub fn undecodable(reason: &DecodeError) -> Self {
        Self::DeadLetter { code: DeadLetterCode::Undecodable, error: reason.to_string() }
    }

    /// Retries an entry of a later wire version, queued at `since`, so that a newer worker takes
    /// it. Dead-letters it after [`UNKNOWN_VERSION_WAIT`].
    pub fn unknown_version(
        policy: &RetryPolicy,
        version: u32,
        attempt: u32,
        since: Millis,
        now: Millis,
    ) -> Self {
        let code = DeadLetterCode::UnsupportedVersion;
        let error = DecodeError::UnsupportedVersion {
            version,
            received_at: None,
            attempt,
            first_failed_at: None,
        }
        .to_string();
        if Duration::from_millis(u64::try_from(now - since).unwrap_or(0)) >= UNKNOWN_VERSION_WAIT {
            return Self::DeadLetter { code, error };
        }
        Self::Retry { delay: policy.backoff.max(), attempt, first_failed_at: None, code, error }
    }

    /// Dead-letters an event that ended the process each time it ran alone.
    pub fn crash_loop(runs: u64) -> Self {
        let error = format!("the worker ended {runs} times while it executed this event alone");
        Self::DeadLetter { code: DeadLetterCode::CrashLoop, error }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use bytes::Bytes;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use shared::event::StreamId;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> RetryPolicy {
        RetryPolicy {
            max_attempts: 5,
            backoff: Backoff::new(SECOND, 30 * SECOND),
            missing_session_wait: 60 * SECOND,
        }
    }

    fn event(attempt: u32, first_failed_at: Option<Millis>) -> Envelope {
        Envelope {
            id: StreamId { ms: 1_000, seq: 0 },
            event_id: "e".into(),
            event_type: "t".into(),
            occurred_at: 1_000,
            time_unreadable: false,
            received_at: 1_000,
            attempt,
            origin: StreamId { ms: 1_000, seq: 0 },
            body: Bytes::new(),
            delivery_id: None,
            traceparent: None,
            reply_to: None,
            hops: 0,
            first_failed_at,
            replays: 0,
            edited: None,
        }
    }

    fn at(now: Millis) -> DecisionContext {
        DecisionContext { now, oldest_announcement: None, up_since: 0 }
    }

    fn missing() -> ExecutionVerdict {
        ExecutionVerdict::Applied(Applied::MissingSession)
    }

    fn decided(
        event: &Envelope,
        verdict: ExecutionVerdict,
        context: DecisionContext,
    ) -> EntryTransition {
        decide(&policy(), event, verdict, context, &mut StdRng::seed_from_u64(7))
    }

    #[test]
    fn rejected_event_is_dead_lettered_after_its_last_attempt() {
        let next = decided(&event(4, None), ExecutionVerdict::Rejected("no".into()), at(5_000));
        assert!(
            matches!(next, EntryTransition::Retry { attempt: 5, first_failed_at: Some(5_000), .. }),
            "{next:?}"
        );
        let next =
            decided(&event(5, Some(5_000)), ExecutionVerdict::Rejected("no".into()), at(9_000));
        assert!(
            matches!(next, EntryTransition::DeadLetter { code: DeadLetterCode::StoreRejected, .. }),
            "{next:?}"
        );
    }

    #[test]
    fn missing_session_spends_nothing_before_its_announcement() {
        let context =
            DecisionContext { now: 10_000_000, oldest_announcement: Some(999), up_since: 0 };
        let next = decided(&event(9, None), missing(), context);
        assert!(
            matches!(next, EntryTransition::Retry { attempt: 9, first_failed_at: None, .. }),
            "{next:?}"
        );
        let in_time = DecisionContext { oldest_announcement: Some(60_001), ..context };
        let next = decided(&event(9, Some(1)), missing(), in_time);
        assert!(
            matches!(next, EntryTransition::Retry { attempt: 9, first_failed_at: Some(1), .. }),
            "{next:?}"
        );
        let too_late = DecisionContext { oldest_announcement: Some(60_002), ..context };
        let next = decided(&event(9, Some(1)), missing(), too_late);
        assert!(
            matches!(
                next,
                EntryTransition::DeadLetter { code: DeadLetterCode::SessionNotFound, .. }
            ),
            "{next:?}"
        );
    }

    #[test]
    fn outage_time_does_not_count_as_waiting_for_a_session() {
        let hour = 3_600_000;
        let back = DecisionContext { now: hour, oldest_announcement: None, up_since: hour - 1_000 };
        let next = decided(&event(2, Some(1_000)), missing(), back);
        assert!(
            matches!(next, EntryTransition::Retry { attempt: 3, first_failed_at: Some(1_000), .. }),
            "{next:?}"
        );
        let next = decided(
            &event(2, Some(1_000)),
            missing(),
            DecisionContext { up_since: hour - 60_000, ..back },
        );
        assert!(
            matches!(
                next,
                EntryTransition::DeadLetter { code: DeadLetterCode::SessionNotFound, .. }
            ),
            "{next:?}"
        );
    }

    #[test]
    fn edited_event_is_dead_lettered_unless_it_is_a_redelivery() {
        let result = |edited: Option<&str>| EventResult {
            edited: edited.map(str::to_owned),
            ..EventResult::logged("e")
        };
        let known = |same_origin, edited| {
            ExecutionVerdict::Applied(Applied::AlreadyApplied {
                same_origin,
                result: result(edited),
            })
        };
        let edit = Envelope { edited: Some("b".into()), ..event(1, None) };
        for taken in [known(true, None), known(false, None), known(true, Some("a"))] {
            let next = decided(&edit, taken, at(0));
            assert!(
                matches!(
                    next,
                    EntryTransition::DeadLetter { code: DeadLetterCode::AlreadyProcessed, .. }
                ),
                "{next:?}"
            );
        }
        // A worker was killed between commit and settle.
        assert_eq!(
            decided(&edit, known(true, Some("b")), at(0)),
            EntryTransition::Settle(SettleOutcome::Processed)
        );
        assert_eq!(
            decided(&event(1, None), known(true, Some("b")), at(0)),
            EntryTransition::Settle(SettleOutcome::Processed)
        );
    }

    #[test]
    fn missing_session_wait_restarts_after_a_backward_clock_step() {
        let hour = 3_600_000;
        let next = decided(&event(2, Some(hour)), missing(), at(1_000));
        assert!(
            matches!(next, EntryTransition::Retry { attempt: 3, first_failed_at: Some(1_000), .. }),
            "{next:?}"
        );
        let next = decided(
            &event(3, Some(1_000)),
            missing(),
            DecisionContext { up_since: hour, ..at(61_000) },
        );
        assert!(
            matches!(next, EntryTransition::Retry { .. }),
            "recovered before the clock was set: {next:?}"
        );
    }

    #[test]
    fn blocked_event_is_retried_without_spending_an_attempt() {
        let next = decided(&event(5, None), ExecutionVerdict::Blocked("locked".into()), at(5_000));
        assert!(
            matches!(next, EntryTransition::Retry { attempt: 5, first_failed_at: None, .. }),
            "{next:?}"
        );
    }

    #[test]
    fn conflicting_and_invalid_events_are_never_retried() {
        let next = decided(&event(1, None), ExecutionVerdict::Applied(Applied::Conflict), at(0));
        assert!(matches!(
            next,
            EntryTransition::DeadLetter { code: DeadLetterCode::SessionConflict, .. }
        ));
        let next = decided(&event(1, None), ExecutionVerdict::Invalid("x".into()), at(0));
        assert!(matches!(
            next,
            EntryTransition::DeadLetter { code: DeadLetterCode::InvalidEvent, .. }
        ));
    }

    #[test]
    fn unknown_version_waits_a_day_without_spending_an_attempt() {
        let day = 24 * 60 * 60 * 1000;
        let next = EntryTransition::unknown_version(&policy(), 9, 3, 1_000, 1_000 + day - 1);
        assert!(
            matches!(next, EntryTransition::Retry { attempt: 3, first_failed_at: None, .. }),
            "{next:?}"
        );
        let next = EntryTransition::unknown_version(&policy(), 9, 3, 1_000, 1_000 + day);
        assert!(
            matches!(
                next,
                EntryTransition::DeadLetter { code: DeadLetterCode::UnsupportedVersion, .. }
            ),
            "{next:?}"
        );
    }

    proptest! {
        /// For all delays and numbers of attempts, the wait for a session ends exactly at its
        /// bound.
        #[test]
        fn missing_session_is_awaited_exactly_as_long_as_configured(seed: u64,
            start in 0_i64..1 << 40) {
            let policy = policy();
            let wait = i64::try_from(policy.missing_session_wait.as_millis()).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut now, mut event) = (start, event(1, None));
            for round in 0.. {
                prop_assert!(round < 100, "the wait never ends");
                match decide(&policy, &event, missing(), at(now), &mut rng) {
                    EntryTransition::Retry { delay, attempt, first_failed_at, .. } => {
                        prop_assert_eq!(first_failed_at, Some(start));
                        prop_assert_eq!(attempt, event.attempt + 1);
                        prop_assert!(now < start + wait);
                        now += i64::try_from(delay.as_millis()).unwrap().max(1);
                        prop_assert!(now <= start + wait,
                            "the last attempt is at the bound, not after it");
                        event.attempt = attempt;
                        event.first_failed_at = first_failed_at;
                    }
                    EntryTransition::DeadLetter { code, .. } => {
                        prop_assert_eq!(code, DeadLetterCode::SessionNotFound);
                        prop_assert!(now >= start + wait);
                        break;
                    }
                    EntryTransition::Settle(_) => prop_assert!(false, "nothing took effect"),
                }
            }
        }
    }
}
