//! Tests of queue statistics and of the meta hash.

use shared::queue::Depth;
use tests::redis::RedisOptions;

use crate::fixture::{CONSUMER, QueueFixture, UNLIMITED, event};

#[tokio::test]
async fn empty_queue_has_zero_depth() {
    let fixture = QueueFixture::start().await;
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!(depth, Depth { now: depth.now, ..Depth::default() });
    assert!(fixture.queue.counters(&fixture.keys).await.unwrap().is_empty());
    fixture.queue.create_group(&fixture.keys).await.unwrap();
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!(depth, Depth { now: depth.now, ..Depth::default() });
}

#[tokio::test]
async fn backlog_without_a_group_is_every_entry() {
    let fixture = QueueFixture::start().await;
    fixture.accept(&["a", "b"]).await;
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.backlog, depth.pending), (2, 2, 0));
    assert!(depth.oldest_age_ms().is_some());
}

#[tokio::test]
async fn depth_parts_add_up() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    fixture
        .queue
        .schedule_retry(&fixture.keys, CONSUMER, &[crate::retry::retry(ids[0], 60_000)])
        .await
        .unwrap();
    fixture.accept(&["d", "e", "f", "g"]).await;
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.pending, depth.retrying, depth.backlog), (7, 2, 1, 4));
}

#[tokio::test]
async fn backlog_is_never_below_zero() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    // Delete pending entries by hand.
    for id in &ids {
        fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &id.to_string()]).await;
    }
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.pending, depth.backlog), (0, 2, 0));
    assert_eq!(depth.oldest_received_at, None);
}

#[tokio::test]
async fn oldest_entry_leaves_out_scheduled_retries() {
    let mut fixture = QueueFixture::consuming().await;
    for (id, received_at) in [("1000-1", "1000"), ("2000-1", "2000"), ("3000-1", "3000")] {
        fixture
            .redis::<()>(&[
                "XADD",
                &fixture.keys.incoming,
                id,
                "v",
                "1",
                "received_at",
                received_at,
            ])
            .await;
    }
    let ids: Vec<_> = fixture.read_as(CONSUMER).await.iter().map(|entry| entry.id).collect();
    fixture
        .redis::<()>(&["XADD", &fixture.keys.incoming, "4000-1", "received_at", "illegible"])
        .await;
    let oldest = async |fixture: &QueueFixture| {
        let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
        (depth.oldest_received_at, depth.head_received_at)
    };
    assert_eq!(oldest(&fixture).await, (Some(1000), Some(1000)));
    fixture
        .queue
        .schedule_retry(&fixture.keys, CONSUMER, &[crate::retry::retry(ids[0], 60_000)])
        .await
        .unwrap();
    assert_eq!(
        oldest(&fixture).await,
        (Some(2000), Some(1000)),
        "a scheduled retry does not count"
    );
    let rest = [crate::retry::retry(ids[1], 60_000), crate::retry::retry(ids[2], 60_000)];
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &rest).await.unwrap();
    assert_eq!(
        oldest(&fixture).await,
        (Some(4000), Some(1000)),
        "an entry with an unreadable time is as old as its id"
    );
}

#[tokio::test]
async fn meta_field_keeps_its_first_value() {
    let fixture = QueueFixture::start().await;
    assert_eq!(fixture.queue.meta("database").await.unwrap(), None);
    assert_eq!(fixture.queue.put_meta_if_absent("database", "one").await.unwrap(), "one");
    assert_eq!(fixture.queue.put_meta_if_absent("database", "two").await.unwrap(), "one");
    fixture.queue.set_meta("database", "two").await.unwrap();
    assert_eq!(fixture.queue.meta("database").await.unwrap().as_deref(), Some("two"));
}

#[tokio::test]
async fn statistics_change_nothing() {
    let mut fixture =
        QueueFixture::with(RedisOptions::fast().set("enable-debug-command", "yes")).await;
    fixture.queue.create_group(&fixture.keys).await.unwrap();
    fixture.deliver(&["a"]).await;
    fixture.enqueue(&UNLIMITED, &[event("b")]).await;
    let digest: String = fixture.redis(&["DEBUG", "DIGEST"]).await;
    fixture.queue.depth(&fixture.keys).await.unwrap();
    fixture.queue.counters(&fixture.keys).await.unwrap();
    assert_eq!(fixture.redis::<String>(&["DEBUG", "DIGEST"]).await, digest);
}
