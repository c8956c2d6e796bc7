//! Tests of retries, promotion and the orphan sweep.

use std::time::Duration;

use shared::error_code::DeadLetterCode;
use shared::event::StreamId;
use shared::queue::{Retry, SettleOutcome, Settled, decode};
use tests::poll;

use crate::fixture::{CONSUMER, OTHER, QueueFixture, event, field};

const HOUR_MS: u64 = 3_600_000;

pub fn retry(id: StreamId, delay_ms: u64) -> Retry {
    Retry {
        id,
        delay_ms,
        attempt: 2,
        first_failed_at: None,
        error_code: DeadLetterCode::SessionNotFound,
        error: "no session \"room\"\nyet".into(),
    }
}

#[tokio::test]
async fn retry_returns_with_its_failure() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    assert_eq!(
        fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(id, 0)]).await.unwrap(),
        [true]
    );
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.pending, depth.retrying, depth.backlog), (1, 0, 1, 0));
    assert!(fixture.read_as(CONSUMER).await.is_empty(), "not before it is promoted");

    let promoted = fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap();
    assert_eq!((promoted.moved, promoted.vanished, promoted.next_due), (1, 0, None));
    let entry = fixture.read_as(OTHER).await.remove(0);
    let (_, fields) = fixture.fields(&fixture.keys.incoming).await.remove(0);
    assert_eq!(field(&fields, "error_code"), Some("session_not_found"));
    assert_eq!(field(&fields, "error"), Some("no session \"room\"\nyet"));
    let envelope = decode(entry).unwrap();
    assert_eq!((envelope.attempt, envelope.origin, envelope.event_id.as_str()), (2, id, "a"));
    assert_eq!(envelope.body, event("a").body);
    assert!(envelope.id > id);
    assert_eq!(envelope.first_failed_at, None, "a free wait does not set the first failure");
    for key in [&fixture.keys.retry, &fixture.keys.failures] {
        assert_eq!(fixture.redis::<u64>(&["EXISTS", key]).await, 0, "{key}");
    }
    assert_eq!(fixture.counter("retried").await, 1);
}

#[tokio::test]
async fn second_failure_replaces_the_error_and_keeps_the_first_time() {
    let mut fixture = QueueFixture::consuming().await;
    let origin = fixture.deliver(&["a"]).await[0];
    let mut id = origin;
    for attempt in 2..=4 {
        let one = Retry { attempt, first_failed_at: Some(77), ..retry(id, 0) };
        assert_eq!(
            fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[one]).await.unwrap(),
            [true]
        );
        fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap();
        let envelope = decode(fixture.read_as(CONSUMER).await.remove(0)).unwrap();
        assert_eq!(
            (envelope.attempt, envelope.first_failed_at, envelope.origin),
            (attempt, Some(77), origin)
        );
        id = envelope.id;
    }
    let (_, fields) = fixture.fields(&fixture.keys.incoming).await.remove(0);
    let mut names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "no field twice: {fields:?}");
}

#[tokio::test]
async fn retry_keeps_fields_of_a_later_release() {
    let mut fixture = QueueFixture::consuming().await;
    let id: String = fixture
        .redis(&[
            "XADD",
            &fixture.keys.incoming,
            "*",
            "v",
            "9",
            "attempt",
            "1",
            "new",
            "1",
            "new",
            "2",
            "body",
            "x",
        ])
        .await;
    fixture.read_as(CONSUMER).await;
    let one = Retry { attempt: 1, ..retry(id.parse().unwrap(), 0) };
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[one]).await.unwrap();
    fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap();
    let (_, fields) = fixture.fields(&fixture.keys.incoming).await.remove(0);
    let pairs: Vec<_> =
        fields[..5].iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("v", "9"), ("attempt", "1"), ("new", "1"), ("new", "2"), ("body", "x")]);
}

#[tokio::test]
async fn entry_of_another_consumer_is_left_alone() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    let done = fixture.queue.schedule_retry(&fixture.keys, OTHER, &[retry(id, 0)]).await.unwrap();
    assert_eq!(done, [false]);
    assert_eq!((fixture.pending().await, fixture.retrying().await), (1, 0));
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.failures]).await, 0);

    // Claimed by another while this consumer was frozen.
    fixture
        .queue
        .claim(&fixture.keys, OTHER, Duration::ZERO, StreamId::default(), 10)
        .await
        .unwrap();
    let done =
        fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(id, 0)]).await.unwrap();
    assert_eq!(done, [false]);
    assert_eq!((fixture.pending().await, fixture.retrying().await), (1, 0));
}

#[tokio::test]
async fn settled_or_undelivered_entry_is_not_scheduled() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture
        .queue
        .settle(&fixture.keys, &[Settled::new(id, SettleOutcome::Processed)])
        .await
        .unwrap();
    fixture.accept(&["b"]).await;
    let waiting: StreamId = fixture.fields(&fixture.keys.incoming).await[0].0.parse().unwrap();
    let done = fixture
        .queue
        .schedule_retry(&fixture.keys, CONSUMER, &[retry(id, 0), retry(waiting, 0)])
        .await
        .unwrap();
    assert_eq!(done, [false, false]);
    assert_eq!(fixture.retrying().await, 0);
}

#[tokio::test]
async fn deleted_pending_entry_is_not_scheduled() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &id.to_string()]).await;
    let done =
        fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(id, 0)]).await.unwrap();
    assert_eq!((done, fixture.retrying().await), (vec![false], 0));
}

#[tokio::test]
async fn retry_scheduled_twice_waits_once() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    let twice = [retry(id, 0), retry(id, 0)];
    assert_eq!(
        fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &twice).await.unwrap(),
        [true, false]
    );
    assert_eq!(fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap().moved, 1);
    assert_eq!(fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap().moved, 0);
    assert_eq!(fixture.length().await, 1);
}

/// Redis does not roll scripts back, so a move writes to its target before it deletes its source.
#[tokio::test]
async fn forbidden_retry_or_promotion_moves_nothing() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(ids[0], 0)]).await.unwrap();
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "-zadd", "-xadd"]).await;
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(ids[1], 0)]).await.unwrap_err();
    fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap_err();
    assert_eq!(
        (fixture.length().await, fixture.pending().await, fixture.retrying().await),
        (2, 1, 1)
    );
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "+zadd", "+xadd"]).await;
    assert_eq!(fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap().moved, 1);
}

/// Setting the group back delivers an entry again while it waits for a retry.
#[tokio::test]
async fn promotion_clears_every_trace_of_the_old_entry() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(id, 0)]).await.unwrap();
    fixture
        .redis::<()>(&["XGROUP", "SETID", &fixture.keys.incoming, "webhook-processors", "0"])
        .await;
    assert_eq!(fixture.read_as(OTHER).await[0].id, id);
    fixture.queue.count_isolated_run(&fixture.keys, id, uuid::Uuid::new_v4()).await.unwrap();
    assert_eq!(fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap().moved, 1);
    assert_eq!((fixture.length().await, fixture.pending().await), (1, 0));
    for key in [&fixture.keys.retry, &fixture.keys.failures, &fixture.keys.suspects] {
        assert_eq!(fixture.redis::<u64>(&["EXISTS", key]).await, 0, "{key}");
    }
}

#[tokio::test]
async fn retry_is_not_promoted_before_it_is_due() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    let entries = [retry(ids[0], 60_000), retry(ids[1], 400)];
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &entries).await.unwrap();
    let first = fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap();
    assert_eq!(first.moved, 0);
    assert!(first.next_due.unwrap() <= Duration::from_millis(400));
    let promoted = poll::until("the second is due", Duration::from_secs(10), async || {
        let promoted = fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap();
        if promoted.moved > 0 { Ok(promoted) } else { Err("nothing moved") }
    })
    .await;
    assert_eq!(promoted.moved, 1);
    let next = promoted.next_due.unwrap();
    assert!(next > Duration::from_secs(40) && next <= Duration::from_secs(60), "{next:?}");
    assert_eq!(decode(fixture.read_as(CONSUMER).await.remove(0)).unwrap().event_id, "b");
}

#[tokio::test]
async fn promotion_round_is_bounded() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let entries: Vec<Retry> = ids.iter().map(|id| retry(*id, 0)).collect();
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &entries).await.unwrap();
    let first = fixture.queue.promote_due(&fixture.keys, HOUR_MS, 2).await.unwrap();
    assert_eq!((first.moved, first.next_due), (2, Some(Duration::ZERO)));
    assert_eq!(fixture.queue.promote_due(&fixture.keys, HOUR_MS, 2).await.unwrap().moved, 1);
}

#[tokio::test]
async fn retry_member_without_an_entry_is_removed() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(id, 0)]).await.unwrap();
    fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &id.to_string()]).await;
    let promoted = fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap();
    assert_eq!((promoted.moved, promoted.vanished, promoted.next_due), (0, 1, None));
    assert_eq!((fixture.length().await, fixture.retrying().await), (0, 0));
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.failures]).await, 0);
}

#[tokio::test]
async fn due_time_beyond_its_own_delay_is_due_now() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    let entries = [retry(ids[0], 60_000), retry(ids[1], HOUR_MS / 2)];
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &entries).await.unwrap();
    // The first retry looks as if scheduled while the clock was a year ahead.
    let due: f64 = fixture.redis(&["ZSCORE", &fixture.keys.retry, &ids[0].to_string()]).await;
    let ahead = (due + 365.0 * 24.0 * 3_600_000.0).to_string();
    fixture.redis::<u64>(&["ZADD", &fixture.keys.retry, &ahead, &ids[0].to_string()]).await;
    // A worker with a shorter maximum delay must not promote a longer retry of another worker.
    let promoted = fixture.queue.promote_due(&fixture.keys, 1_000, 100).await.unwrap();
    assert_eq!(promoted.moved, 1);
    assert_eq!(decode(fixture.read_as(CONSUMER).await.remove(0)).unwrap().event_id, "a");
    assert_eq!(fixture.retrying().await, 1);
}

#[tokio::test]
async fn unreadable_failure_does_not_block_promotion() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(id, 0)]).await.unwrap();
    for garbage in ["", "{", "7", "null"] {
        let entries: Vec<String> = fixture.redis(&["ZRANGE", &fixture.keys.retry, "0", "-1"]).await;
        fixture.redis::<()>(&["HSET", &fixture.keys.failures, &entries[0], garbage]).await;
        assert_eq!(
            fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap().moved,
            1,
            "{garbage:?}"
        );
        let envelope = decode(fixture.read_as(CONSUMER).await.remove(0)).unwrap();
        assert_eq!(envelope.attempt, 1);
        fixture
            .queue
            .schedule_retry(&fixture.keys, CONSUMER, &[retry(envelope.id, 0)])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn orphan_is_found_and_rescheduled() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["orphan", "pending", "retrying"]).await;
    fixture
        .redis::<()>(&["XACK", &fixture.keys.incoming, "webhook-processors", &ids[0].to_string()])
        .await;
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry(ids[2], HOUR_MS)]).await.unwrap();
    fixture.accept(&["undelivered"]).await;

    let young = fixture.queue.sweep_orphans(&fixture.keys, None).await.unwrap();
    assert_eq!(
        (young.rescheduled, young.cursor),
        (0, None),
        "orphans younger than ten minutes stay"
    );

    let swept = fixture.queue.sweep_orphans_older_than(&fixture.keys, None, 0).await.unwrap();
    assert_eq!((swept.rescheduled, swept.cursor), (1, None));
    assert_eq!(fixture.counter("orphaned").await, 1);
    assert_eq!(fixture.queue.promote_due(&fixture.keys, HOUR_MS, 100).await.unwrap().moved, 1);
    let read: Vec<_> = fixture
        .read_as(OTHER)
        .await
        .into_iter()
        .map(|entry| decode(entry).unwrap().event_id)
        .collect();
    assert_eq!(read, ["undelivered", "orphan"]);
}

#[tokio::test]
async fn orphan_is_found_by_its_age() {
    for id in ["1000000000000-1", "9999999999999-1"] {
        let mut fixture = QueueFixture::consuming().await;
        fixture.redis::<()>(&["XADD", &fixture.keys.incoming, id, "v", "1"]).await;
        fixture.read_as(CONSUMER).await;
        fixture.redis::<()>(&["XACK", &fixture.keys.incoming, "webhook-processors", id]).await;
        assert_eq!(
            fixture.queue.sweep_orphans(&fixture.keys, None).await.unwrap().rescheduled,
            1,
            "{id}"
        );
    }
}

#[tokio::test]
async fn orphan_sweep_is_bounded_and_continues_at_its_cursor() {
    let mut fixture = QueueFixture::consuming().await;
    let names: Vec<String> = (0..128).map(|n| n.to_string()).collect();
    let ids = fixture.deliver(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    fixture
        .redis::<()>(&["XACK", &fixture.keys.incoming, "webhook-processors", &ids[127].to_string()])
        .await;
    let (mut cursor, mut rounds, mut found) = (None, 0, 0);
    loop {
        let swept = fixture.queue.sweep_orphans_older_than(&fixture.keys, cursor, 0).await.unwrap();
        rounds += 1;
        found += swept.rescheduled;
        match swept.cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    assert!(rounds > 1, "one round covers fewer than 128 entries");
    assert_eq!(found, 1);
}

#[tokio::test]
async fn orphan_sweep_without_a_group_fails() {
    let fixture = QueueFixture::start().await;
    assert!(fixture.queue.sweep_orphans(&fixture.keys, None).await.unwrap_err().is_no_group());
    fixture.accept(&["a"]).await;
    assert!(fixture.queue.sweep_orphans(&fixture.keys, None).await.unwrap_err().is_no_group());
}
