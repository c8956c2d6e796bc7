//! Tests of the rate limit, a GCRA decided per event in arrival order by Redis's clock.

use std::time::Duration;

use shared::event::NewEvent;
use shared::platform::RateLimit;
use shared::queue::{EnqueuePolicy, Enqueued, TypeLimit};
use tests::poll;

use crate::fixture::{QueueFixture, UNLIMITED, event};

fn policy(period_us: u64, burst: u32) -> EnqueuePolicy {
    EnqueuePolicy { period_us, burst, ..UNLIMITED }
}

fn accepted(outcomes: &[Enqueued]) -> usize {
    outcomes.iter().filter(|one| **one == Enqueued::Accepted).count()
}

#[tokio::test]
async fn burst_is_exact_for_any_batching() {
    let fixture = QueueFixture::start().await;
    // One event per ten minutes: the limit does not refill during the test.
    let policy = policy(600_000_000, 100);
    let mut through = 0;
    for (batch, size) in [1, 64, 3, 128, 40].into_iter().enumerate() {
        let events: Vec<_> = (0..size).map(|n| event(&format!("{batch}-{n}"))).collect();
        let outcomes = fixture.enqueue(&policy, &events).await;
        let first_refusal =
            outcomes.iter().position(|one| *one != Enqueued::Accepted).unwrap_or(size);
        assert_eq!(accepted(&outcomes), first_refusal, "in arrival order");
        through += accepted(&outcomes);
    }
    assert_eq!(through, 100);
    assert_eq!(fixture.length().await, 100);
    assert_eq!(fixture.counter("rate_limited").await, 136);
}

#[tokio::test]
async fn rate_limit_state_keeps_every_digit() {
    let fixture = QueueFixture::start().await;
    let before = redis_micros(&fixture).await;
    fixture.enqueue(&policy(1_000_003, 1000), &["a", "b", "c"].map(event)).await;
    let after = redis_micros(&fixture).await;
    let stored: String = fixture.redis(&["GET", &fixture.keys.limit]).await;
    let tat: i64 = stored.parse().expect("all its digits, no exponent");
    // The state is exactly three periods after the time of the call.
    assert!((before + 3 * 1_000_003..=after + 3 * 1_000_003).contains(&tat), "{stored}");

    // The stored state is read without loss: the next event adds exactly one period.
    fixture.enqueue(&policy(1_000_003, 1000), &[event("d")]).await;
    let again: i64 = fixture.redis::<String>(&["GET", &fixture.keys.limit]).await.parse().unwrap();
    assert_eq!(again, tat + 1_000_003);
}

#[tokio::test]
async fn rate_limit_refusal_names_the_wait() {
    let fixture = QueueFixture::start().await;
    // One event per 10 minutes, two at once.
    let slow = policy(600_000_000, 2);
    let outcomes = fixture.enqueue(&slow, &["a", "b", "c", "d"].map(event)).await;
    assert_eq!(outcomes[..2], [Enqueued::Accepted; 2]);
    assert_eq!(outcomes[2..], [Enqueued::RateLimited { retry_after_s: 600 }; 2]);

    // The wait is rounded up to whole seconds, at least one.
    let quick = policy(1_500_000, 1);
    let other = fixture.queue.keys(&crate::fixture::name("acme"));
    let events = [event("x"), event("y")];
    let outcomes =
        fixture.queue.enqueue(&other, &quick, &events.iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(outcomes, [Enqueued::Accepted, Enqueued::RateLimited { retry_after_s: 2 }]);
}

#[tokio::test]
async fn duplicate_of_a_refused_event_is_refused() {
    let fixture = QueueFixture::start().await;
    let outcomes =
        fixture.enqueue(&policy(600_000_000, 1), &[event("a"), event("b"), event("b")]).await;
    assert_eq!(outcomes[0], Enqueued::Accepted);
    assert!(
        outcomes[1..].iter().all(|one| matches!(one, Enqueued::RateLimited { .. })),
        "{outcomes:?}"
    );

    let full = EnqueuePolicy { max_backlog: 1, ..UNLIMITED };
    assert_eq!(fixture.enqueue(&full, &[event("c"), event("c")]).await, [Enqueued::Overloaded; 2]);
}

#[tokio::test]
async fn backlog_refusal_costs_no_quota() {
    let fixture = QueueFixture::start().await;
    let limited = EnqueuePolicy { max_backlog: 1, ..policy(600_000_000, 2) };
    assert_eq!(
        fixture.enqueue(&limited, &["a", "b", "c"].map(event)).await,
        [Enqueued::Accepted, Enqueued::Overloaded, Enqueued::Overloaded]
    );
    let larger = EnqueuePolicy { max_backlog: 10, ..limited };
    assert_eq!(fixture.enqueue(&larger, &[event("b")]).await, [Enqueued::Accepted]);
}

#[tokio::test]
async fn rate_limit_state_is_cut_after_a_clock_step_back() {
    let fixture = QueueFixture::start().await;
    let future = redis_micros(&fixture).await + 86_400_000_000;
    fixture.redis::<()>(&["SET", &fixture.keys.limit, &future.to_string()]).await;
    // The state is cut to one used-up burst instead of blocking for a day.
    let outcomes = fixture.enqueue(&policy(1_000_000, 3), &[event("a")]).await;
    assert_eq!(outcomes, [Enqueued::RateLimited { retry_after_s: 1 }]);
}

/// A refusal must write the cut state, or every later call would find the limit reached again.
#[tokio::test]
async fn rate_limit_state_drains_after_a_cut() {
    let fixture = QueueFixture::start().await;
    let future = redis_micros(&fixture).await + 86_400_000_000;
    fixture.redis::<()>(&["SET", &fixture.keys.limit, &future.to_string()]).await;
    let quick = policy(50_000, 3);
    assert!(matches!(
        fixture.enqueue(&quick, &[event("a")]).await[..],
        [Enqueued::RateLimited { .. }]
    ));
    poll::until("the limit admits an event", Duration::from_secs(5), async || {
        match fixture.enqueue(&quick, &[event("a")]).await[..] {
            [Enqueued::Accepted] => Ok(()),
            ref other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn rate_limit_state_that_is_unreadable_counts_as_none() {
    let fixture = QueueFixture::start().await;
    for garbage in ["", "nan", "-5", "a text"] {
        fixture.redis::<()>(&["SET", &fixture.keys.limit, garbage]).await;
        let outcomes =
            fixture.enqueue(&policy(600_000_000, 1), &[event(&format!("e{garbage}"))]).await;
        assert_eq!(outcomes, [Enqueued::Accepted], "{garbage:?}");
    }
}

#[tokio::test]
async fn rate_limit_state_expires_at_rest() {
    let fixture = QueueFixture::start().await;
    fixture.enqueue(&policy(10_000_000, 5), &["a", "b"].map(event)).await;
    let ttl: i64 = fixture.redis(&["PTTL", &fixture.keys.limit]).await;
    assert!((20_000..=21_001).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn rate_limit_refills_with_time() {
    let fixture = QueueFixture::start().await;
    let fast = EnqueuePolicy::new(
        RateLimit { per_minute: Some(6000), burst: 1 },
        Duration::from_secs(60),
        1000,
    );
    let mut through = 0;
    let begin = redis_micros(&fixture).await;
    // The limit is one per 10 ms. Send until ten are accepted.
    for n in 0.. {
        through += accepted(&fixture.enqueue(&fast, &[event(&n.to_string())]).await);
        if through == 10 {
            break;
        }
        assert!(redis_micros(&fixture).await < begin + 20_000_000, "only {through} in 20 s");
    }
    assert!(redis_micros(&fixture).await - begin >= 9 * 10_000, "never faster than the limit");
}

#[tokio::test]
async fn unlimited_policy_keeps_no_state() {
    let fixture = QueueFixture::start().await;
    let events: Vec<_> = (0..100).map(|n| event(&n.to_string())).collect();
    assert_eq!(accepted(&fixture.enqueue(&UNLIMITED, &events).await), 100);
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.limit]).await, 0);
}

/// A removed limit has no effect, and its state is kept. Setting it again uses that state.
#[tokio::test]
async fn removed_rate_limit_limits_nothing() {
    let fixture = QueueFixture::start().await;
    let (seconds, _): (i64, i64) = fixture.redis(&["TIME"]).await;
    let left = format!("{} 3600000000", (seconds + 3600) * 1_000_000);
    fixture.redis::<()>(&["SET", &fixture.keys.limit, &left]).await;
    assert_eq!(fixture.enqueue(&UNLIMITED, &["a", "b"].map(event)).await, [Enqueued::Accepted; 2]);
    assert_eq!(fixture.redis::<String>(&["GET", &fixture.keys.limit]).await, left);
    assert!(matches!(
        fixture.enqueue(&policy(1_000_000, 1), &[event("c")]).await[..],
        [Enqueued::RateLimited { .. }]
    ));
}

/// Adds limits per event type to `policy`: each its burst, then one event per ten minutes.
fn with_types(policy: EnqueuePolicy, types: &[(&str, u32)]) -> EnqueuePolicy {
    let limit = |(kind, burst): &(&str, u32)| {
        ((*kind).to_owned(), TypeLimit { period_us: 600_000_000, burst: *burst })
    };
    EnqueuePolicy { types: types.iter().map(limit).collect(), ..policy }
}

/// Distinct events of the given types.
fn of_types(kinds: &[&str]) -> Vec<NewEvent> {
    let ids = || format!("{:032x}", rand::random::<u128>());
    kinds.iter().map(|kind| NewEvent { event_type: (*kind).to_owned(), ..event(&ids()) }).collect()
}

/// Returns one letter per outcome: `a` for accepted, `-` for rate limited.
fn outcome_letters(outcomes: &[Enqueued]) -> String {
    let one = |outcome: &Enqueued| match outcome {
        Enqueued::Accepted => 'a',
        Enqueued::RateLimited { .. } => '-',
        other => panic!("{other:?}"),
    };
    outcomes.iter().map(one).collect()
}

#[tokio::test]
async fn event_type_has_its_own_limit_within_the_platform_limit() {
    let fixture = QueueFixture::start().await;
    let policy = with_types(policy(600_000_000, 8), &[("chat", 2), ("typing", 1)]);
    let events =
        of_types(&["chat", "typing", "chat", "chat", "stream.up", "typing", "chat", "stream.up"]);
    assert_eq!(outcome_letters(&fixture.enqueue(&policy, &events).await), "aaa-a--a");
    // The state persists between calls. Unlimited types use the rest of the platform limit.
    let events = of_types(&["chat", "stream.up", "typing", "stream.up", "stream.up", "stream.up"]);
    assert_eq!(outcome_letters(&fixture.enqueue(&policy, &events).await), "-a-aa-");
    assert_eq!(fixture.length().await, 8);
    assert_eq!(fixture.counter("rate_limited").await, 6);
}

#[tokio::test]
async fn rate_limits_are_checked_before_either_is_charged() {
    let fixture = QueueFixture::start().await;
    // A refusal by the type limit costs no platform quota.
    let narrow = with_types(policy(600_000_000, 3), &[("chat", 1)]);
    let events = of_types(&["chat", "chat", "chat", "stream.up", "stream.up", "stream.up"]);
    assert_eq!(outcome_letters(&fixture.enqueue(&narrow, &events).await), "a--aa-");

    // A refusal by the platform limit costs no type quota.
    let keys = fixture.queue.keys(&crate::fixture::name("acme"));
    let enqueue = async |policy: &EnqueuePolicy, kinds: &[&str]| {
        let events = of_types(kinds);
        outcome_letters(
            &fixture
                .queue
                .enqueue(&keys, policy, &events.iter().collect::<Vec<_>>())
                .await
                .unwrap(),
        )
    };
    let full = with_types(policy(600_000_000, 1), &[("chat", 1)]);
    assert_eq!(enqueue(&full, &["stream.up", "chat", "chat"]).await, "a--");
    let wider = with_types(policy(600_000_000, 10), &[("chat", 1)]);
    assert_eq!(enqueue(&wider, &["chat", "chat"]).await, "a-");

    // Duplicates and refusals by the backlog cost no quota.
    let duplicate = of_types(&["typing"]);
    let once = with_types(UNLIMITED, &[("typing", 2)]);
    assert_eq!(fixture.enqueue(&once, &duplicate).await, [Enqueued::Accepted]);
    assert_eq!(fixture.enqueue(&once, &duplicate).await, [Enqueued::Duplicate]);
    let bounded = EnqueuePolicy { max_backlog: 1, ..once.clone() };
    assert_eq!(fixture.enqueue(&bounded, &of_types(&["typing"])).await, [Enqueued::Overloaded]);
    assert_eq!(
        outcome_letters(&fixture.enqueue(&once, &of_types(&["typing", "typing"])).await),
        "a-"
    );
}

#[tokio::test]
async fn event_type_limit_has_its_own_key_written_once() {
    let fixture = QueueFixture::start().await;
    let types = [("chat".to_owned(), TypeLimit { period_us: 1_000_003, burst: 50 })].into();
    let policy = EnqueuePolicy { types, ..policy(2_000_003, 100) };
    let before = redis_micros(&fixture).await;
    fixture.redis::<()>(&["CONFIG", "RESETSTAT"]).await;
    fixture.enqueue(&policy, &of_types(&["chat", "stream.up", "chat", "chat"])).await;
    let stats: String = fixture.redis(&["INFO", "commandstats"]).await;
    let sets = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_set:calls="))
        .expect("SET was called");
    assert_eq!(
        sets.split(',').next(),
        Some("6"),
        "one SET per dedup marker and per limit state: {stats}"
    );
    let after = redis_micros(&fixture).await;
    for (key, charged) in [
        (fixture.keys.type_limit("chat"), 3 * 1_000_003),
        (fixture.keys.limit.clone(), 4 * 2_000_003),
    ] {
        let state: String = fixture.redis(&["GET", &key]).await;
        let tat: i64 = state.parse().expect("all its digits, no exponent");
        assert!((before + charged..=after + charged).contains(&tat), "{key}: {state}");
        let ttl: i64 = fixture.redis(&["PTTL", &key]).await;
        assert!((charged / 1000 - 1000..=charged / 1000 + 1001).contains(&ttl), "{key}: {ttl}");
    }
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.type_limit("stream.up")]).await, 0);
}

#[tokio::test]
async fn rate_limit_refusal_names_the_longer_wait() {
    let fixture = QueueFixture::start().await;
    let events = of_types(&["chat", "chat"]);
    let type_is_slower = with_types(policy(1_000_000, 1), &[("chat", 1)]);
    let outcomes = fixture.enqueue(&type_is_slower, &events).await;
    assert_eq!(outcomes[1], Enqueued::RateLimited { retry_after_s: 600 });

    let other = fixture.queue.keys(&crate::fixture::name("acme"));
    let types = [("chat".to_owned(), TypeLimit { period_us: 1_000_000, burst: 1 })].into();
    let platform_is_slower = EnqueuePolicy { types, ..policy(300_000_000, 1) };
    let events = of_types(&["chat", "chat"]);
    let outcomes = fixture
        .queue
        .enqueue(&other, &platform_is_slower, &events.iter().collect::<Vec<_>>())
        .await
        .unwrap();
    assert_eq!(outcomes[1], Enqueued::RateLimited { retry_after_s: 300 });
}

async fn redis_micros(fixture: &QueueFixture) -> i64 {
    let (seconds, micros): (i64, i64) = fixture.redis(&["TIME"]).await;
    seconds * 1_000_000 + micros
}
