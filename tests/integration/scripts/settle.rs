//! Tests of the settle script.

use std::time::Duration;

use shared::event::StreamId;
use shared::queue::SettleOutcome::{Duplicate, Processed, Stale};
use shared::queue::{OutboxEntry, SettleOutcome, Settled};

use crate::fixture::{CONSUMER, OTHER, QueueFixture, field};

fn processed(ids: &[StreamId]) -> Vec<Settled> {
    ids.iter().map(|id| Settled::new(*id, Processed)).collect()
}

fn forwarded(id: StreamId) -> Settled {
    let forward =
        OutboxEntry { destinations: "crm".into(), result: String::new(), traceparent: None };
    Settled { forward: Some(forward), ..Settled::new(id, Processed) }
}

impl QueueFixture {
    async fn settle(&self, entries: &[Settled]) -> Vec<bool> {
        self.queue.settle(&self.keys, entries).await.unwrap()
    }

    async fn delete_by_hand(&self, id: StreamId) {
        assert_eq!(self.redis::<u64>(&["XDEL", &self.keys.incoming, &id.to_string()]).await, 1);
    }

    /// Returns the event ids in the outbox.
    async fn outbox(&self) -> Vec<String> {
        let entries = self.fields(&self.keys.outbox).await;
        entries.iter().map(|(_, fields)| field(fields, "event_id").unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn settled_event_leaves_the_queue() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let batch = [
        Settled::new(ids[0], Processed),
        Settled::new(ids[1], Stale),
        Settled::new(ids[2], Duplicate),
    ];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true; 3]);
    assert_eq!((fixture.length().await, fixture.pending().await), (0, 0));
    assert_eq!(
        (fixture.counter("processed").await, fixture.counter("stale").await),
        (1, 1),
        "duplicates are not counted"
    );
}

#[tokio::test]
async fn settle_twice_counts_once() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    let batch = [Settled::new(ids[0], Processed), Settled::new(ids[0], Processed)];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true, false]);
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch[..1]).await.unwrap(), [false]);
    assert_eq!(fixture.counter("processed").await, 1);
}

#[tokio::test]
async fn settle_of_a_repeated_id_forwards_once() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    let batch = [forwarded(ids[0]), Settled::new(ids[1], Processed), forwarded(ids[0])];
    assert_eq!(fixture.settle(&batch).await, [true, true, false]);
    assert_eq!(
        (fixture.outbox().await, fixture.counter("processed").await),
        (vec!["a".to_owned()], 2)
    );
}

#[tokio::test]
async fn settle_counts_mixed_outcomes() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c", "d", "e", "f", "g"]).await;
    let kinds: [SettleOutcome; 7] =
        [Stale, Processed, Processed, Duplicate, Duplicate, Processed, Stale];
    let batch: Vec<_> = ids.iter().zip(kinds).map(|(id, kind)| Settled::new(*id, kind)).collect();
    assert_eq!(fixture.settle(&batch).await, [true; 7]);
    assert_eq!((fixture.counter("processed").await, fixture.counter("stale").await), (3, 2));
    assert_eq!((fixture.length().await, fixture.pending().await), (0, 0));
}

/// Another worker claimed and settled two of the entries first. Only those return `false`.
#[tokio::test]
async fn settle_reports_entries_settled_by_another_worker() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c", "d"]).await;
    fixture
        .queue
        .claim(&fixture.keys, OTHER, Duration::ZERO, Default::default(), 10)
        .await
        .unwrap();
    assert_eq!(fixture.settle(&processed(&ids[1..3])).await, [true, true]);
    assert_eq!(fixture.settle(&processed(&ids)).await, [true, false, false, true]);
    assert_eq!(fixture.counter("processed").await, 4);
}

/// Another worker rescheduled one of the entries. It exists and is not pending, and is settled too.
#[tokio::test]
async fn settle_includes_entries_rescheduled_by_another_worker() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let retries = [crate::retry::retry(ids[1], 60_000)];
    assert_eq!(
        fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &retries).await.unwrap(),
        [true]
    );
    assert_eq!(fixture.settle(&processed(&ids)).await, [true; 3]);
    assert_eq!(
        (fixture.length().await, fixture.retrying().await, fixture.counter("processed").await),
        (0, 0, 3)
    );
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.failures]).await, 0);
}

/// Without forwarding, the script knows only how many entries were removed, not which.
#[tokio::test]
async fn settle_skips_entries_deleted_by_hand() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    fixture.delete_by_hand(ids[1]).await;
    let removed = fixture.settle(&processed(&ids)).await;
    assert_eq!(removed.iter().filter(|removed| **removed).count(), 2, "{removed:?}");
    assert_eq!((fixture.counter("processed").await, fixture.pending().await), (2, 0));

    let ids = fixture.deliver(&["d", "e", "f"]).await;
    fixture.delete_by_hand(ids[0]).await;
    let batch: Vec<_> = ids.iter().map(|id| forwarded(*id)).collect();
    assert_eq!(fixture.settle(&batch).await, [false, true, true]);
    assert_eq!(
        (fixture.outbox().await, fixture.counter("processed").await),
        (vec!["e".into(), "f".into()], 4)
    );
}

#[tokio::test]
async fn settle_clears_every_trace_of_the_entry() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    let id = ids[0].to_string();
    assert_eq!(
        fixture
            .queue
            .count_isolated_run(&fixture.keys, ids[0], uuid::Uuid::new_v4())
            .await
            .unwrap(),
        1
    );
    fixture.redis::<()>(&["ZADD", &fixture.keys.retry, "0", &id]).await;
    fixture.redis::<()>(&["HSET", &fixture.keys.failures, &id, "{}"]).await;
    fixture.queue.settle(&fixture.keys, &[Settled::new(ids[0], Processed)]).await.unwrap();
    for key in [&fixture.keys.retry, &fixture.keys.failures, &fixture.keys.suspects] {
        assert_eq!(fixture.redis::<u64>(&["EXISTS", key]).await, 0, "{key}");
    }
}

#[tokio::test]
async fn settle_removes_an_entry_claimed_by_another_worker() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    // Another worker claims the entry while this one is frozen between commit and settle.
    fixture
        .queue
        .claim(&fixture.keys, OTHER, Duration::ZERO, Default::default(), 10)
        .await
        .unwrap();
    assert_eq!(
        fixture.queue.settle(&fixture.keys, &[Settled::new(ids[0], Processed)]).await.unwrap(),
        [true]
    );
    assert_eq!((fixture.length().await, fixture.pending().await), (0, 0));
}

#[tokio::test]
async fn settle_of_several_chunks_keeps_the_order() {
    let mut fixture = QueueFixture::consuming().await;
    let names: Vec<String> = (0..600).map(|n| n.to_string()).collect();
    let mut ids = Vec::new();
    for part in names.chunks(100) {
        ids.extend(fixture.deliver(&part.iter().map(String::as_str).collect::<Vec<_>>()).await);
    }
    // One repeated id in the same chunk, one in a later chunk.
    ids.insert(64, ids[0]);
    ids.push(ids[1]);
    let removed = fixture.settle(&processed(&ids)).await;
    let expected: Vec<bool> = (0..602).map(|n| n != 64 && n != 601).collect();
    assert_eq!(removed, expected);
    assert_eq!(fixture.counter("processed").await, 600);
}

#[tokio::test]
async fn settle_removes_a_deleted_entry_from_the_pending_list() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &ids[0].to_string()]).await;
    let own = fixture
        .queue
        .read_own_pending(&fixture.keys, CONSUMER, Default::default(), 10)
        .await
        .unwrap();
    assert_eq!(own.iter().map(|entry| entry.fields.is_some()).collect::<Vec<_>>(), [false, true]);
    assert_eq!(
        fixture.queue.settle(&fixture.keys, &[Settled::new(ids[0], Processed)]).await.unwrap(),
        [false]
    );
    assert_eq!(fixture.pending().await, 1);
}
