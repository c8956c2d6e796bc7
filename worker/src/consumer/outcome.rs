//! What becomes of an executed event: the whole retry and dead-letter policy, as one pure function.
//!
//! Guarantee: only a fault of the event itself spends an attempt. A missing session is not decided by counting: while
//! an announcement that was in time is unfinished it costs nothing, and after that a time bound decides, in which time
//! without Redis or database does not count. Outages never get here.

use std::time::Duration;

use rand::Rng;
use shared::backoff::Backoff;
use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, Millis};
use shared::queue::{SettleOutcome, Undecodable};

use crate::effects::{Action, Applied, EventResult};
use crate::worker::Worker;

/// How long an entry of an unknown wire version is kept for a newer worker before it is dead-lettered.
pub const UNKNOWN_VERSION_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The operator's bounds on retrying.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Executions in all, at least 1.
    pub max_attempts: u32,
    /// Delay between executions.
    pub backoff: Backoff,
    /// How long an event waits for its session.
    pub missing_session_wait: Duration,
}

/// What an execution found out.
#[derive(Debug)]
pub enum Verdict {
    /// The transaction committed, or the store said why this event takes no part in it.
    Applied(Applied),
    /// Its body cannot be what its type says.
    Invalid(String),
    /// The database refuses this event and accepts others.
    Rejected(String),
    /// The database cannot take this event now, though it takes others: something it needs is locked.
    Blocked(String),
}

impl Verdict {
    /// Whether the event has to wait for its session.
    pub fn is_missing_session(&self) -> bool {
        matches!(self, Self::Applied(Applied::MissingSession))
    }

    /// What the event did, if it took effect now or before.
    pub fn result(&self) -> Option<&EventResult> {
        match self {
            Self::Applied(Applied::Done(result) | Applied::Known { result, .. }) => Some(result),
            _ => None,
        }
    }
}

/// What to do with the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ack and delete.
    Settle(SettleOutcome),
    /// Execute again after `delay`.
    Retry {
        /// From now, by Redis's clock.
        delay: Duration,
        /// The attempt that the next execution is.
        attempt: u32,
        /// When it failed first; `None` while the wait is not the event's doing.
        first_failed_at: Option<Millis>,
        /// What a dead letter would say.
        code: DeadLetterCode,
        /// For people.
        error: String,
    },
    /// Move to the dead letters.
    Dead {
        /// Why, from the closed set.
        code: DeadLetterCode,
        /// Why, for people.
        error: String,
    },
}

/// Facts about the moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// By Redis's clock.
    pub now: Millis,
    /// When the oldest announcement that is not finished yet was queued.
    pub oldest_announcement: Option<Millis>,
    /// Since when Redis and the database are both there, as far as this worker knows: nobody could announce before.
    pub up_since: Millis,
}

impl Next {
    /// For an edit whose event is in the same batch: it comes again when the ledger knows what became of that.
    pub fn after_its_twin(policy: &Policy, attempt: u32, rng: &mut impl Rng) -> Self {
        Self::Retry {
            delay: policy.backoff.delay(1, rng),
            attempt,
            first_failed_at: None,
            code: DeadLetterCode::AlreadyProcessed,
            error: "waiting for another copy of the event".to_owned(),
        }
    }
}

impl Moment {
    /// Now, as `worker` sees it, with no announcement asked for.
    pub fn at(worker: &Worker) -> Self {
        let now = worker.now();
        Self { now, oldest_announcement: None, up_since: worker.up_since() }
    }
}

/// Decides what becomes of `event`.
pub fn decide(policy: &Policy, event: &Envelope, verdict: Verdict, moment: Moment, rng: &mut impl Rng) -> Next {
    match verdict {
        // What took effect is not this edit, whoever's copy it was; this very edit is as any other event below.
        Verdict::Applied(Applied::Known { result, .. })
            if event.edited.is_some() && event.edited != result.edited =>
        {
            Next::Dead {
                code: DeadLetterCode::AlreadyProcessed,
                error: "the event had taken effect before this edit of it was replayed".to_owned(),
            }
        }
        // Known with the same origin: a worker was killed between commit and settle; this is the rest of its work.
        Verdict::Applied(Applied::Done(result) | Applied::Known { same_origin: true, result }) => {
            Next::Settle(match result.action {
                Action::StaleIgnored => SettleOutcome::Stale,
                _ => SettleOutcome::Processed,
            })
        }
        Verdict::Applied(Applied::Known { same_origin: false, .. }) => Next::Settle(SettleOutcome::Duplicate),
        Verdict::Applied(Applied::MissingSession) => missing_session(policy, event, moment, rng),
        Verdict::Applied(Applied::Conflict) => Next::Dead {
            code: DeadLetterCode::SessionConflict,
            error: "the session belongs to another platform".to_owned(),
        },
        Verdict::Invalid(error) => Next::Dead { code: DeadLetterCode::InvalidEvent, error },
        Verdict::Rejected(error) if event.attempt >= policy.max_attempts => {
            Next::Dead { code: DeadLetterCode::StoreRejected, error }
        }
        Verdict::Applied(Applied::Held) => {
            let error = "somebody else keeps a row locked that the event needs".to_owned();
            blocked(policy, event, error, moment, rng)
        }
        Verdict::Blocked(error) => blocked(policy, event, error, moment, rng),
        Verdict::Rejected(error) => Next::Retry {
            delay: policy.backoff.delay(event.attempt, rng),
            attempt: event.attempt.saturating_add(1),
            first_failed_at: Some(event.first_failed_at.unwrap_or(moment.now)),
            code: DeadLetterCode::StoreRejected,
            error,
        },
    }
}

/// Something that the event needs is locked, by no fault of its own.
fn blocked(policy: &Policy, event: &Envelope, error: String, moment: Moment, rng: &mut impl Rng) -> Next {
    Next::Retry {
        delay: rarer_with_age(policy, event, moment, rng),
        attempt: event.attempt,
        first_failed_at: event.first_failed_at,
        code: DeadLetterCode::StoreRejected,
        error,
    }
}

/// Delay of a retry that spends no attempt: about as long as the event has waited, within the
/// bounds.
fn rarer_with_age(policy: &Policy, event: &Envelope, moment: Moment, rng: &mut impl Rng) -> Duration {
    let age = Duration::from_millis(u64::try_from(moment.now - event.received_at).unwrap_or(0));
    let doublings = (age.as_millis() / policy.backoff.ceiling(1).as_millis().max(1)).max(1).ilog2();
    policy.backoff.delay(doublings + 1, rng)
}

fn missing_session(policy: &Policy, event: &Envelope, moment: Moment, rng: &mut impl Rng) -> Next {
    let code = DeadLetterCode::SessionNotFound;
    let error = "no session has this room id or live stream id".to_owned();
    // A failure in the future is one before the clock was set back: waiting must not last until the clock is there again.
    let first = event.first_failed_at.filter(|first| *first <= moment.now).unwrap_or(moment.now);
    let since = first.max(moment.up_since.min(moment.now));
    let wait = Millis::try_from(policy.missing_session_wait.as_millis()).unwrap_or(Millis::MAX);
    let announced_until = event.received_at.max(since.saturating_add(wait));
    if moment.oldest_announcement.is_some_and(|oldest| oldest <= announced_until) {
        // Many events may wait for one announcement.
        let delay = rarer_with_age(policy, event, moment, rng);
        return Next::Retry { delay, attempt: event.attempt, first_failed_at: event.first_failed_at, code, error };
    }
    let waited = Duration::from_millis(u64::try_from(moment.now - since).unwrap_or(0));
    let Some(left) = policy.missing_session_wait.checked_sub(waited).filter(|left| !left.is_zero()) else {
        return Next::Dead { code, error };
    };
    Next::Retry {
        delay: policy.backoff.delay(event.attempt, rng).min(left),
        attempt: event.attempt.saturating_add(1),
        first_failed_at: Some(first),
        code,
        error,
    }
}

impl Next {
    /// What becomes of an entry that is no event: a dead letter, with its fields as they are.
    pub fn undecodable(reason: &Undecodable) -> Self {
        Self::Dead { code: DeadLetterCode::Undecodable, error: reason.to_string() }
    }

    /// What becomes of an entry of a later wire version, queued at `since`: it waits for a newer worker.
    pub fn unknown_version(policy: &Policy, version: u32, attempt: u32, since: Millis, now: Millis) -> Self {
        let code = DeadLetterCode::UnsupportedVersion;
        let error = Undecodable::UnsupportedVersion { version, received_at: None, attempt, first_failed_at: None }
            .to_string();
        if Duration::from_millis(u64::try_from(now - since).unwrap_or(0)) >= UNKNOWN_VERSION_WAIT {
            return Self::Dead { code, error };
        }
        Self::Retry { delay: policy.backoff.max(), attempt, first_failed_at: None, code, error }
    }

    /// What becomes of an event that ended the process whenever it ran alone.
    pub fn crash_loop(runs: u64) -> Self {
        let error = format!("the worker ended {runs} times while it executed this event alone");
        Self::Dead { code: DeadLetterCode::CrashLoop, error }
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

    fn policy() -> Policy {
        Policy { max_attempts: 5, backoff: Backoff::new(SECOND, 30 * SECOND), missing_session_wait: 60 * SECOND }
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

    fn at(now: Millis) -> Moment {
        Moment { now, oldest_announcement: None, up_since: 0 }
    }

    fn missing() -> Verdict {
        Verdict::Applied(Applied::MissingSession)
    }

    fn decided(event: &Envelope, verdict: Verdict, moment: Moment) -> Next {
        decide(&policy(), event, verdict, moment, &mut StdRng::seed_from_u64(7))
    }

    #[test]
    fn the_last_attempt_of_a_refused_event_is_its_end() {
        let next = decided(&event(4, None), Verdict::Rejected("no".into()), at(5_000));
        assert!(matches!(next, Next::Retry { attempt: 5, first_failed_at: Some(5_000), .. }), "{next:?}");
        let next = decided(&event(5, Some(5_000)), Verdict::Rejected("no".into()), at(9_000));
        assert!(matches!(next, Next::Dead { code: DeadLetterCode::StoreRejected, .. }), "{next:?}");
    }

    #[test]
    fn an_older_unfinished_announcement_makes_waiting_free() {
        let moment = Moment { now: 10_000_000, oldest_announcement: Some(999), up_since: 0 };
        let next = decided(&event(9, None), missing(), moment);
        assert!(matches!(next, Next::Retry { attempt: 9, first_failed_at: None, .. }), "{next:?}");
        let in_time = Moment { oldest_announcement: Some(60_001), ..moment };
        let next = decided(&event(9, Some(1)), missing(), in_time);
        assert!(matches!(next, Next::Retry { attempt: 9, first_failed_at: Some(1), .. }), "{next:?}");
        let too_late = Moment { oldest_announcement: Some(60_002), ..moment };
        let next = decided(&event(9, Some(1)), missing(), too_late);
        assert!(matches!(next, Next::Dead { code: DeadLetterCode::SessionNotFound, .. }), "{next:?}");
    }

    #[test]
    fn time_without_redis_or_database_does_not_count_as_waiting() {
        let hour = 3_600_000;
        let back = Moment { now: hour, oldest_announcement: None, up_since: hour - 1_000 };
        let next = decided(&event(2, Some(1_000)), missing(), back);
        assert!(matches!(next, Next::Retry { attempt: 3, first_failed_at: Some(1_000), .. }), "{next:?}");
        let next = decided(&event(2, Some(1_000)), missing(), Moment { up_since: hour - 60_000, ..back });
        assert!(matches!(next, Next::Dead { code: DeadLetterCode::SessionNotFound, .. }), "{next:?}");
    }

    #[test]
    fn an_edit_of_what_has_taken_effect_is_told_from_a_redelivery_of_itself() {
        let result =
            |edited: Option<&str>| EventResult { edited: edited.map(str::to_owned), ..EventResult::logged("e") };
        let known = |same_origin, edited| Verdict::Applied(Applied::Known { same_origin, result: result(edited) });
        let edit = Envelope { edited: Some("b".into()), ..event(1, None) };
        for taken in [known(true, None), known(false, None), known(true, Some("a"))] {
            let next = decided(&edit, taken, at(0));
            assert!(matches!(next, Next::Dead { code: DeadLetterCode::AlreadyProcessed, .. }), "{next:?}");
        }
        // Killed between commit and settle.
        assert_eq!(decided(&edit, known(true, Some("b")), at(0)), Next::Settle(SettleOutcome::Processed));
        assert_eq!(decided(&event(1, None), known(true, Some("b")), at(0)), Next::Settle(SettleOutcome::Processed));
    }

    #[test]
    fn a_wait_that_began_before_the_clock_was_set_back_begins_anew() {
        let hour = 3_600_000;
        let next = decided(&event(2, Some(hour)), missing(), at(1_000));
        assert!(matches!(next, Next::Retry { attempt: 3, first_failed_at: Some(1_000), .. }), "{next:?}");
        let next = decided(&event(3, Some(1_000)), missing(), Moment { up_since: hour, ..at(61_000) });
        assert!(matches!(next, Next::Retry { .. }), "found back before the clock was set: {next:?}");
    }

    #[test]
    fn a_blocked_event_comes_again_at_no_cost() {
        let next = decided(&event(5, None), Verdict::Blocked("locked".into()), at(5_000));
        assert!(matches!(next, Next::Retry { attempt: 5, first_failed_at: None, .. }), "{next:?}");
    }

    #[test]
    fn a_clash_and_an_invalid_event_are_never_tried_again() {
        let next = decided(&event(1, None), Verdict::Applied(Applied::Conflict), at(0));
        assert!(matches!(next, Next::Dead { code: DeadLetterCode::SessionConflict, .. }));
        let next = decided(&event(1, None), Verdict::Invalid("x".into()), at(0));
        assert!(matches!(next, Next::Dead { code: DeadLetterCode::InvalidEvent, .. }));
    }

    #[test]
    fn an_unknown_version_waits_a_day_without_spending_an_attempt() {
        let day = 24 * 60 * 60 * 1000;
        let next = Next::unknown_version(&policy(), 9, 3, 1_000, 1_000 + day - 1);
        assert!(matches!(next, Next::Retry { attempt: 3, first_failed_at: None, .. }), "{next:?}");
        let next = Next::unknown_version(&policy(), 9, 3, 1_000, 1_000 + day);
        assert!(matches!(next, Next::Dead { code: DeadLetterCode::UnsupportedVersion, .. }), "{next:?}");
    }

    proptest! {
        /// However the delays fall, the wait for a session ends at its bound and not before, whatever the attempts say.
        #[test]
        fn a_missing_session_is_waited_for_exactly_as_long_as_set(seed: u64, start in 0_i64..1 << 40) {
            let policy = policy();
            let wait = i64::try_from(policy.missing_session_wait.as_millis()).unwrap();
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut now, mut event) = (start, event(1, None));
            for round in 0.. {
                prop_assert!(round < 100, "it never ends");
                match decide(&policy, &event, missing(), at(now), &mut rng) {
                    Next::Retry { delay, attempt, first_failed_at, .. } => {
                        prop_assert_eq!(first_failed_at, Some(start));
                        prop_assert_eq!(attempt, event.attempt + 1);
                        prop_assert!(now < start + wait);
                        now += i64::try_from(delay.as_millis()).unwrap().max(1);
                        prop_assert!(now <= start + wait, "the last look is taken at the bound, not after it");
                        event.attempt = attempt;
                        event.first_failed_at = first_failed_at;
                    }
                    Next::Dead { code, .. } => {
                        prop_assert_eq!(code, DeadLetterCode::SessionNotFound);
                        prop_assert!(now >= start + wait);
                        break;
                    }
                    Next::Settle(_) => prop_assert!(false, "nothing took effect"),
                }
            }
        }
    }
}
