//! Tests of event groups, which are accepted as a whole or not at all.

use std::collections::BTreeMap;

use shared::event::NewEvent;
use shared::queue::{EnqueuePolicy, Enqueued, MAX_BATCH_EVENTS, TypeLimit};

use crate::fixture::{QueueFixture, UNLIMITED, event, field};

fn group(ids: &[&str]) -> Vec<NewEvent> {
    ids.iter().map(|id| event(id)).collect()
}

/// Policy of one event per ten minutes after a burst: the limit does not refill during a test.
fn slow(burst: u32) -> EnqueuePolicy {
    EnqueuePolicy { period_us: 600_000_000, burst, ..UNLIMITED }
}

impl QueueFixture {
    async fn groups(&self, policy: &EnqueuePolicy, groups: &[&[&str]]) -> Vec<Enqueued> {
        let groups: Vec<Vec<NewEvent>> = groups.iter().map(|ids| group(ids)).collect();
        let groups: Vec<&[NewEvent]> = groups.iter().map(Vec::as_slice).collect();
        self.queue.enqueue_groups(&self.keys, policy, &groups).await.unwrap()
    }

    async fn queued(&self) -> Vec<String> {
        let entries = self.fields(&self.keys.incoming).await;
        entries.iter().map(|(_, fields)| field(fields, "event_id").unwrap().to_owned()).collect()
    }

    async fn markers(&self) -> usize {
        self.redis::<Vec<String>>(&["KEYS", "webhook:hash:*"]).await.len()
    }
}

#[tokio::test]
async fn group_is_queued_in_place_and_order() {
    let fixture = QueueFixture::start().await;
    let outcomes =
        fixture.groups(&UNLIMITED, &[&["a"], &["b", "c", "d"], &["e"], &["f", "g"]]).await;
    assert_eq!(outcomes, [Enqueued::Accepted; 4]);
    assert_eq!(fixture.queued().await, ["a", "b", "c", "d", "e", "f", "g"]);
    assert_eq!((fixture.markers().await, fixture.counter("accepted").await), (7, 7));
}

#[tokio::test]
async fn group_queues_only_its_new_events() {
    let fixture = QueueFixture::start().await;
    fixture.groups(&UNLIMITED, &[&["a", "b"]]).await;
    // Duplicates, also within one group, cost nothing. The bounds leave room for two events.
    let policy = EnqueuePolicy { max_backlog: 4, ..slow(2) };
    assert_eq!(
        fixture.groups(&policy, &[&["a", "c", "b", "d", "c"], &["b", "d", "a"]]).await,
        [Enqueued::Accepted, Enqueued::Duplicate]
    );
    assert_eq!(fixture.queued().await, ["a", "b", "c", "d"]);
    assert_eq!((fixture.counter("accepted").await, fixture.counter("duplicate").await), (4, 6));
}

#[tokio::test]
async fn event_without_marker_is_new_each_time() {
    let fixture = QueueFixture::start().await;
    let bare = |id: &str| NewEvent { marker: None, ..event(id) };
    let events = [bare("a"), event("b"), bare("a")];
    for expected in [3, 5] {
        let outcomes =
            fixture.queue.enqueue_groups(&fixture.keys, &UNLIMITED, &[&events[..]]).await.unwrap();
        assert_eq!((outcomes, fixture.length().await), (vec![Enqueued::Accepted], expected));
    }
}

#[tokio::test]
async fn group_beyond_the_backlog_leaves_nothing() {
    let fixture = QueueFixture::start().await;
    let policy = EnqueuePolicy { max_backlog: 3, ..slow(100) };
    // Later events that fit are accepted although the group was refused.
    let outcomes = fixture.groups(&policy, &[&["a", "b"], &["c", "d"], &["c"], &["e"]]).await;
    assert_eq!(
        outcomes,
        [Enqueued::Accepted, Enqueued::Overloaded, Enqueued::Accepted, Enqueued::Overloaded]
    );
    assert_eq!(fixture.queued().await, ["a", "b", "c"]);
    assert_eq!((fixture.markers().await, fixture.counter("overloaded").await), (3, 3));
    // A full backlog still recognizes duplicates.
    assert_eq!(fixture.groups(&policy, &[&["a", "c"]]).await, [Enqueued::Duplicate]);
}

#[tokio::test]
async fn group_passes_the_rate_limit_whole_or_costs_nothing() {
    let fixture = QueueFixture::start().await;
    let outcomes =
        fixture.groups(&slow(5), &[&["a", "b", "c"], &["d", "e", "f"], &["g", "h"], &["i"]]).await;
    let limited = |retry_after_s| Enqueued::RateLimited { retry_after_s };
    // The second group lacks quota for one event, which takes ten minutes. Two remain for the
    // third.
    assert_eq!(outcomes, [Enqueued::Accepted, limited(600), Enqueued::Accepted, limited(600)]);
    assert_eq!(fixture.queued().await, ["a", "b", "c", "g", "h"]);
    assert_eq!((fixture.markers().await, fixture.counter("rate_limited").await), (5, 4));
    // One of the three is a duplicate, so quota for two is missing.
    assert_eq!(fixture.groups(&slow(5), &[&["a", "x", "y"]]).await, [limited(1200)]);
}

#[tokio::test]
async fn group_type_limits_are_checked_before_any_is_charged() {
    let fixture = QueueFixture::start().await;
    let limit = |burst| TypeLimit { period_us: 600_000_000, burst };
    let types: BTreeMap<String, TypeLimit> =
        [("chat".to_owned(), limit(3)), ("typing".to_owned(), limit(1))].into();
    let policy = EnqueuePolicy { types, ..slow(6) };
    let run = async |kinds: &[&str]| {
        let unique = || format!("{:032x}", rand::random::<u128>());
        let of = |kind: &&str| NewEvent { event_type: (*kind).to_owned(), ..event(&unique()) };
        let events: Vec<NewEvent> = kinds.iter().map(of).collect();
        fixture.queue.enqueue_groups(&fixture.keys, &policy, &[&events]).await.unwrap()[0]
    };
    let is_limited = |outcome| matches!(outcome, Enqueued::RateLimited { .. });
    assert_eq!(run(&["chat", "chat", "typing", "stream.up"]).await, Enqueued::Accepted);
    // Left: two events of the platform limit, one of chat, none of typing.
    assert!(is_limited(run(&["chat", "chat"]).await));
    assert!(is_limited(run(&["chat", "typing"]).await));
    assert!(is_limited(run(&["chat", "stream.up", "stream.up"]).await));
    assert_eq!(run(&["chat", "stream.up"]).await, Enqueued::Accepted);
    assert!(is_limited(run(&["stream.up"]).await));
    assert_eq!(fixture.length().await, 6);
}

#[tokio::test]
async fn group_above_the_burst_passes_at_rest_and_costs_in_full() {
    let fixture = QueueFixture::start().await;
    let policy = slow(2);
    let limited = |retry_after_s| Enqueued::RateLimited { retry_after_s };
    let five = ["a", "b", "c", "d", "e"];
    assert_eq!(fixture.groups(&policy, &[&["z"], &five]).await, [Enqueued::Accepted, limited(600)]);
    fixture.redis::<()>(&["DEL", &fixture.keys.limit]).await;
    assert_eq!(fixture.groups(&policy, &[&five]).await, [Enqueued::Accepted]);
    // Five periods are charged and the burst allows two: one fits after four periods, two after
    // five.
    let near = |outcome, seconds: u64| match outcome {
        Enqueued::RateLimited { retry_after_s } => {
            assert!((seconds - 5..=seconds).contains(&retry_after_s))
        }
        other => panic!("{other:?}"),
    };
    near(fixture.groups(&policy, &[&["f"]]).await[0], 4 * 600);
    near(fixture.groups(&policy, &[&["f", "g"]]).await[0], 5 * 600);
    near(fixture.groups(&policy, &[&["f", "g", "h", "i"]]).await[0], 5 * 600);
    let ttl: i64 = fixture.redis(&["PTTL", &fixture.keys.limit]).await;
    assert!((5 * 600_000 - 5000..=5 * 600_000 + 1001).contains(&ttl), "{ttl}");

    // After a clock step back, the charge is cut to the size of the group.
    let (seconds, _): (i64, i64) = fixture.redis(&["TIME"]).await;
    let ahead = format!("{} 3000000000", (seconds + 86_400) * 1_000_000);
    fixture.redis::<()>(&["SET", &fixture.keys.limit, &ahead]).await;
    near(fixture.groups(&policy, &[&["f"]]).await[0], 4 * 600);
}

#[tokio::test]
async fn group_marker_needs_its_entries() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["SET", &fixture.keys.incoming, "not a stream"]).await;
    assert_eq!(fixture.groups(&slow(3), &[&["a", "b"], &["c"]]).await, [Enqueued::Refused; 2]);
    assert_eq!(fixture.markers().await, 0);
    fixture.redis::<()>(&["DEL", &fixture.keys.incoming]).await;
    assert_eq!(fixture.groups(&slow(3), &[&["a", "b"], &["c"]]).await, [Enqueued::Accepted; 2]);
}

#[tokio::test]
async fn group_of_no_or_too_many_events_is_not_sent() {
    let fixture = QueueFixture::start().await;
    let many: Vec<NewEvent> = (0..=MAX_BATCH_EVENTS).map(|n| event(&n.to_string())).collect();
    for groups in [&[&many[..]][..], &[&many[..1], &[]], &[&many[..2], &many[2..]]] {
        let fault =
            fixture.queue.enqueue_groups(&fixture.keys, &UNLIMITED, groups).await.unwrap_err();
        assert!(fault.certainly_not_run());
    }
    assert_eq!(fixture.length().await, 0);
    let full = &many[1..];
    let outcomes = fixture.queue.enqueue_groups(&fixture.keys, &UNLIMITED, &[full]).await.unwrap();
    assert_eq!(
        (outcomes, fixture.length().await),
        (vec![Enqueued::Accepted], MAX_BATCH_EVENTS as u64)
    );
}
