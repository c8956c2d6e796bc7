//! Finishing events.

use shared::queue::SettleOutcome::{Duplicate, Processed, Stale};
use shared::queue::Settled;

use crate::fixture::{CONSUMER, Fixture, OTHER};

#[tokio::test]
async fn a_settled_event_is_nowhere() {
    let mut fixture = Fixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let batch = [Settled::new(ids[0], Processed), Settled::new(ids[1], Stale), Settled::new(ids[2], Duplicate)];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true; 3]);
    assert_eq!((fixture.length().await, fixture.pending().await), (0, 0));
    assert_eq!(
        (fixture.counter("processed").await, fixture.counter("stale").await),
        (1, 1),
        "duplicates count nowhere"
    );
}

#[tokio::test]
async fn settling_twice_counts_once() {
    let mut fixture = Fixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    let batch = [Settled::new(ids[0], Processed), Settled::new(ids[0], Processed)];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true, false]);
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch[..1]).await.unwrap(), [false]);
    assert_eq!(fixture.counter("processed").await, 1);
}

#[tokio::test]
async fn a_settle_clears_every_trace_of_the_entry() {
    let mut fixture = Fixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    let id = ids[0].to_string();
    assert_eq!(fixture.queue.suspect(&fixture.keys, ids[0], uuid::Uuid::new_v4()).await.unwrap(), 1);
    fixture.redis::<()>(&["ZADD", &fixture.keys.retry, "0", &id]).await;
    fixture.redis::<()>(&["HSET", &fixture.keys.failures, &id, "{}"]).await;
    fixture.queue.settle(&fixture.keys, &[Settled::new(ids[0], Processed)]).await.unwrap();
    for key in [&fixture.keys.retry, &fixture.keys.failures, &fixture.keys.suspects] {
        assert_eq!(fixture.redis::<u64>(&["EXISTS", key]).await, 0, "{key}");
    }
}

#[tokio::test]
async fn whoever_holds_it_the_database_has_decided() {
    let mut fixture = Fixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    // Frozen between commit and settle, and claimed by another meanwhile.
    fixture.queue.claim(&fixture.keys, OTHER, std::time::Duration::ZERO, Default::default(), 10).await.unwrap();
    assert_eq!(fixture.queue.settle(&fixture.keys, &[Settled::new(ids[0], Processed)]).await.unwrap(), [true]);
    assert_eq!((fixture.length().await, fixture.pending().await), (0, 0));
}

#[tokio::test]
async fn more_than_a_chunk_is_settled_in_order() {
    let mut fixture = Fixture::consuming().await;
    let names: Vec<String> = (0..128).map(|n| n.to_string()).collect();
    let mut ids = fixture.deliver(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    ids.insert(64, ids[0]);
    let batch: Vec<_> = ids.iter().map(|id| Settled::new(*id, Processed)).collect();
    let removed = fixture.queue.settle(&fixture.keys, &batch).await.unwrap();
    let expected: Vec<bool> = (0..129).map(|n| n != 64).collect();
    assert_eq!(removed, expected);
    assert_eq!(fixture.counter("processed").await, 128);
}

#[tokio::test]
async fn a_deleted_entry_leaves_the_pending_list() {
    let mut fixture = Fixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &ids[0].to_string()]).await;
    let own = fixture.queue.read_own_pending(&fixture.keys, CONSUMER, Default::default(), 10).await.unwrap();
    assert_eq!(own.iter().map(|entry| entry.fields.is_some()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(fixture.queue.settle(&fixture.keys, &[Settled::new(ids[0], Processed)]).await.unwrap(), [false]);
    assert_eq!(fixture.pending().await, 1);
}
