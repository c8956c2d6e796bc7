//! The rate limit: a GCRA decided per event, in arrival order, by Redis's clock.

use shared::platform::RateLimit;
use shared::queue::{EnqueuePolicy, Enqueued};

use crate::fixture::{Fixture, OPEN, event};

fn policy(period_us: u64, burst: u32) -> EnqueuePolicy {
    EnqueuePolicy { period_us, burst, ..OPEN }
}

fn accepted(outcomes: &[Enqueued]) -> usize {
    outcomes.iter().filter(|one| **one == Enqueued::Accepted).count()
}

#[tokio::test]
async fn exactly_the_burst_gets_through_however_it_is_batched() {
    let fixture = Fixture::start().await;
    // Far below one event per second, so that no time passes as far as the limit is concerned.
    let policy = policy(600_000_000, 100);
    let mut through = 0;
    for (batch, size) in [1, 64, 3, 128, 40].into_iter().enumerate() {
        let events: Vec<_> = (0..size).map(|n| event(&format!("{batch}-{n}"))).collect();
        let outcomes = fixture.enqueue(&policy, &events).await;
        let first_refusal = outcomes.iter().position(|one| *one != Enqueued::Accepted).unwrap_or(size);
        assert_eq!(accepted(&outcomes), first_refusal, "in arrival order");
        through += accepted(&outcomes);
    }
    assert_eq!(through, 100);
    assert_eq!(fixture.length().await, 100);
    assert_eq!(fixture.counter("rate_limited").await, 136);
}

#[tokio::test]
async fn no_digit_of_the_state_is_lost() {
    let fixture = Fixture::start().await;
    let before = micros(&fixture).await;
    fixture.enqueue(&policy(1_000_003, 1000), &["a", "b", "c"].map(event)).await;
    let after = micros(&fixture).await;
    let stored: String = fixture.redis(&["GET", &fixture.keys.limit]).await;
    let tat: i64 = stored.parse().expect("all its digits, no exponent");
    // Three periods past the time of the call, to the microsecond.
    assert!((before + 3 * 1_000_003..=after + 3 * 1_000_003).contains(&tat), "{stored}");

    // And it is exact when read: with a burst of what is left, exactly one more fits at that very state.
    fixture.enqueue(&policy(1_000_003, 1000), &[event("d")]).await;
    let again: i64 = fixture.redis::<String>(&["GET", &fixture.keys.limit]).await.parse().unwrap();
    assert_eq!(again, tat + 1_000_003);
}

#[tokio::test]
async fn a_refusal_tells_when_to_come_again() {
    let fixture = Fixture::start().await;
    // One per 10 minutes, 2 at once.
    let slow = policy(600_000_000, 2);
    let outcomes = fixture.enqueue(&slow, &["a", "b", "c", "d"].map(event)).await;
    assert_eq!(outcomes[..2], [Enqueued::Accepted; 2]);
    assert_eq!(outcomes[2..], [Enqueued::RateLimited { retry_after_s: 600 }; 2]);

    // The wait is rounded up, never to nothing.
    let quick = policy(1_500_000, 1);
    let other = fixture.queue.keys(&crate::fixture::name("acme"));
    let events = [event("x"), event("y")];
    let outcomes = fixture.queue.enqueue(&other, &quick, &events.iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(outcomes, [Enqueued::Accepted, Enqueued::RateLimited { retry_after_s: 2 }]);
}

#[tokio::test]
async fn the_twin_of_a_refused_event_is_refused_too() {
    let fixture = Fixture::start().await;
    let outcomes = fixture.enqueue(&policy(600_000_000, 1), &[event("a"), event("b"), event("b")]).await;
    assert_eq!(outcomes[0], Enqueued::Accepted);
    assert!(outcomes[1..].iter().all(|one| matches!(one, Enqueued::RateLimited { .. })), "{outcomes:?}");

    let full = EnqueuePolicy { max_backlog: 1, ..OPEN };
    assert_eq!(fixture.enqueue(&full, &[event("c"), event("c")]).await, [Enqueued::Overloaded; 2]);
}

#[tokio::test]
async fn what_is_refused_for_the_backlog_is_not_charged() {
    let fixture = Fixture::start().await;
    let limited = EnqueuePolicy { max_backlog: 1, ..policy(600_000_000, 2) };
    assert_eq!(
        fixture.enqueue(&limited, &["a", "b", "c"].map(event)).await,
        [Enqueued::Accepted, Enqueued::Overloaded, Enqueued::Overloaded]
    );
    let room = EnqueuePolicy { max_backlog: 10, ..limited };
    assert_eq!(fixture.enqueue(&room, &[event("b")]).await, [Enqueued::Accepted]);
}

#[tokio::test]
async fn a_state_from_a_clock_that_was_set_back_is_cut() {
    let fixture = Fixture::start().await;
    let future = micros(&fixture).await + 86_400_000_000;
    fixture.redis::<()>(&["SET", &fixture.keys.limit, &future.to_string()]).await;
    // At worst the whole burst is used up: not blocked for the day that the clock was ahead.
    let outcomes = fixture.enqueue(&policy(1_000_000, 3), &[event("a")]).await;
    assert_eq!(outcomes, [Enqueued::RateLimited { retry_after_s: 1 }]);
}

#[tokio::test]
async fn an_illegible_state_is_none() {
    let fixture = Fixture::start().await;
    for garbage in ["", "nan", "-5", "a text"] {
        fixture.redis::<()>(&["SET", &fixture.keys.limit, garbage]).await;
        let outcomes = fixture.enqueue(&policy(600_000_000, 1), &[event(&format!("e{garbage}"))]).await;
        assert_eq!(outcomes, [Enqueued::Accepted], "{garbage:?}");
    }
}

#[tokio::test]
async fn the_state_goes_when_the_limit_is_at_rest() {
    let fixture = Fixture::start().await;
    fixture.enqueue(&policy(10_000_000, 5), &["a", "b"].map(event)).await;
    let ttl: i64 = fixture.redis(&["PTTL", &fixture.keys.limit]).await;
    assert!((20_000..=21_001).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn the_limit_comes_back_with_time() {
    let fixture = Fixture::start().await;
    let fast = EnqueuePolicy::new(
        RateLimit { per_minute: Some(6000), burst: 1 },
        std::time::Duration::from_secs(60),
        1000,
    );
    let mut through = 0;
    let begin = micros(&fixture).await;
    // One per 10 ms: ask until ten went through.
    for n in 0.. {
        through += accepted(&fixture.enqueue(&fast, &[event(&n.to_string())]).await);
        if through == 10 {
            break;
        }
        assert!(micros(&fixture).await < begin + 20_000_000, "only {through} in 20 s");
    }
    assert!(micros(&fixture).await - begin >= 9 * 10_000, "never faster than the limit");
}

#[tokio::test]
async fn no_limit_keeps_no_state() {
    let fixture = Fixture::start().await;
    let events: Vec<_> = (0..100).map(|n| event(&n.to_string())).collect();
    assert_eq!(accepted(&fixture.enqueue(&OPEN, &events).await), 100);
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.limit]).await, 0);
}

async fn micros(fixture: &Fixture) -> i64 {
    let (seconds, micros): (i64, i64) = fixture.redis(&["TIME"]).await;
    seconds * 1_000_000 + micros
}
