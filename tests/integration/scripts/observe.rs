//! Depth, age, and what is noted about Redis as a whole.

use shared::queue::Depth;
use tests::redis::RedisOptions;

use crate::fixture::{CONSUMER, Fixture, OPEN, event};

#[tokio::test]
async fn nothing_is_an_empty_queue() {
    let fixture = Fixture::start().await;
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!(depth, Depth { now: depth.now, ..Depth::default() });
    assert!(fixture.queue.counters(&fixture.keys).await.unwrap().is_empty());
    fixture.queue.create_group(&fixture.keys).await.unwrap();
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!(depth, Depth { now: depth.now, ..Depth::default() });
}

#[tokio::test]
async fn without_a_group_everything_is_backlog() {
    let fixture = Fixture::start().await;
    fixture.accept(&["a", "b"]).await;
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.backlog, depth.pending), (2, 2, 0));
    assert!(depth.oldest_age_ms().is_some());
}

#[tokio::test]
async fn the_parts_add_up() {
    let mut fixture = Fixture::consuming().await;
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
async fn the_backlog_never_goes_below_zero() {
    let mut fixture = Fixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    // Pending, but deleted behind our back.
    for id in &ids {
        fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &id.to_string()]).await;
    }
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.pending, depth.backlog), (0, 2, 0));
    assert_eq!(depth.oldest_received_at, None);
}

#[tokio::test]
async fn the_oldest_is_the_oldest_that_waits_for_no_retry() {
    let mut fixture = Fixture::consuming().await;
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
    let oldest = async |fixture: &Fixture| {
        let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
        (depth.oldest_received_at, depth.head_received_at)
    };
    assert_eq!(oldest(&fixture).await, (Some(1000), Some(1000)));
    fixture
        .queue
        .schedule_retry(&fixture.keys, CONSUMER, &[crate::retry::retry(ids[0], 60_000)])
        .await
        .unwrap();
    assert_eq!(oldest(&fixture).await, (Some(2000), Some(1000)), "a scheduled retry is not late");
    let rest = [crate::retry::retry(ids[1], 60_000), crate::retry::retry(ids[2], 60_000)];
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &rest).await.unwrap();
    assert_eq!(
        oldest(&fixture).await,
        (Some(4000), Some(1000)),
        "an illegible one is as old as its id"
    );
}

#[tokio::test]
async fn what_was_agreed_first_stands() {
    let fixture = Fixture::start().await;
    assert_eq!(fixture.queue.meta("database").await.unwrap(), None);
    assert_eq!(fixture.queue.put_meta_if_absent("database", "one").await.unwrap(), "one");
    assert_eq!(fixture.queue.put_meta_if_absent("database", "two").await.unwrap(), "one");
    fixture.queue.set_meta("database", "two").await.unwrap();
    assert_eq!(fixture.queue.meta("database").await.unwrap().as_deref(), Some("two"));
}

#[tokio::test]
async fn looking_changes_nothing() {
    let mut fixture = Fixture::with(RedisOptions::fast().set("enable-debug-command", "yes")).await;
    fixture.queue.create_group(&fixture.keys).await.unwrap();
    fixture.deliver(&["a"]).await;
    fixture.enqueue(&OPEN, &[event("b")]).await;
    let digest: String = fixture.redis(&["DEBUG", "DIGEST"]).await;
    fixture.queue.depth(&fixture.keys).await.unwrap();
    fixture.queue.counters(&fixture.keys).await.unwrap();
    assert_eq!(fixture.redis::<String>(&["DEBUG", "DIGEST"]).await, digest);
}
