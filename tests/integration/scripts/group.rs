//! Tests of the consumer group and of reads over several streams.

use std::time::Duration;

use shared::queue::{GroupState, decode};

use crate::fixture::{CONSUMER, OTHER, QueueFixture, UNLIMITED, event, name};

#[tokio::test]
async fn consumer_group_starts_at_the_first_entry() {
    let mut fixture = QueueFixture::start().await;
    fixture.accept(&["before"]).await;
    assert_eq!(fixture.queue.create_group(&fixture.keys).await.unwrap(), GroupState::Created);
    assert_eq!(fixture.queue.create_group(&fixture.keys).await.unwrap(), GroupState::Existed);
    assert_eq!(fixture.read_as(CONSUMER).await.len(), 1);
}

#[tokio::test]
async fn consumer_group_can_precede_the_first_event() {
    let mut fixture = QueueFixture::consuming().await;
    fixture.accept(&["a"]).await;
    assert_eq!(fixture.read_as(CONSUMER).await.len(), 1);
}

#[tokio::test]
async fn foreign_consumer_group_is_ignored() {
    let fixture = QueueFixture::start().await;
    fixture
        .redis::<()>(&["XGROUP", "CREATE", &fixture.keys.incoming, "audit", "0", "MKSTREAM"])
        .await;
    assert_eq!(fixture.queue.create_group(&fixture.keys).await.unwrap(), GroupState::Created);
}

#[tokio::test]
async fn create_group_again_drops_the_retry_set_and_loses_nothing() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["retrying", "pending"]).await;
    fixture
        .queue
        .schedule_retry(&fixture.keys, CONSUMER, &[crate::retry::retry(ids[0], 0)])
        .await
        .unwrap();
    fixture.redis::<()>(&["XGROUP", "DESTROY", &fixture.keys.incoming, "webhook-processors"]).await;

    let fault = fixture
        .queue
        .read_new(&mut fixture.reader, &[&fixture.keys], CONSUMER, 10, Duration::ZERO)
        .await;
    assert!(fault.unwrap_err().is_no_group());
    assert_eq!(fixture.queue.create_group(&fixture.keys).await.unwrap(), GroupState::Created);
    assert_eq!(fixture.retrying().await, 0);
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.failures]).await, 0);
    // The new group delivers every entry, so nothing is promoted a second time.
    assert_eq!(fixture.queue.promote_due(&fixture.keys, 1000, 10).await.unwrap().moved, 0);
    let read: Vec<_> = fixture
        .read_as(OTHER)
        .await
        .into_iter()
        .map(|entry| decode(entry).unwrap().event_id)
        .collect();
    assert_eq!(read, ["retrying", "pending"]);
}

#[tokio::test]
async fn existing_group_keeps_its_retry_set() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    fixture
        .queue
        .schedule_retry(&fixture.keys, CONSUMER, &[crate::retry::retry(ids[0], 0)])
        .await
        .unwrap();
    assert_eq!(fixture.queue.create_group(&fixture.keys).await.unwrap(), GroupState::Existed);
    assert_eq!(fixture.retrying().await, 1);
}

#[tokio::test]
async fn transitions_without_a_group_fail_and_change_nothing() {
    let fixture = QueueFixture::start().await;
    fixture.accept(&["a"]).await;
    let id = fixture.fields(&fixture.keys.incoming).await[0].0.parse().unwrap();
    let retry = [crate::retry::retry(id, 0)];
    assert!(
        fixture
            .queue
            .schedule_retry(&fixture.keys, CONSUMER, &retry)
            .await
            .unwrap_err()
            .is_no_group()
    );
    assert!(
        fixture
            .queue
            .extend_claims(&fixture.keys, CONSUMER, &[id])
            .await
            .unwrap_err()
            .is_no_group()
    );
    assert!(fixture.queue.reap_consumers(&fixture.keys, Duration::ZERO).await.is_err());
    assert_eq!((fixture.length().await, fixture.retrying().await), (1, 0));
}

#[tokio::test]
async fn stream_of_wrong_type_is_found_and_others_are_read() {
    let mut fixture = QueueFixture::consuming().await;
    let all = ["mux", "acme", "wrong"].map(|platform| fixture.queue.keys(&name(platform)));
    fixture.accept(&["a"]).await;
    fixture.queue.enqueue(&all[1], &UNLIMITED, &[&event("b")]).await.unwrap();
    fixture.redis::<()>(&["SET", &all[2].incoming, "not a stream"]).await;
    let streams: Vec<_> = all.iter().collect();
    let read =
        fixture.queue.read_new(&mut fixture.reader, &streams, CONSUMER, 10, Duration::ZERO).await;
    read.expect_err("a read of several streams fails as a whole");

    let mut states = Vec::new();
    for keys in &all {
        states.push(fixture.queue.create_group(keys).await.unwrap());
    }
    assert_eq!(states, [GroupState::Existed, GroupState::Created, GroupState::WrongType]);
    let read = fixture
        .queue
        .read_new(&mut fixture.reader, &streams[..2], CONSUMER, 10, Duration::ZERO)
        .await
        .unwrap();
    let read: Vec<_> = read.into_iter().map(|(stream, entries)| (stream, entries.len())).collect();
    assert_eq!(read, [(0, 1), (1, 1)]);
}

#[tokio::test]
async fn blocking_read_waits_and_wakes() {
    let mut fixture = QueueFixture::consuming().await;
    let begin = std::time::Instant::now();
    let block = Duration::from_millis(700);
    let read = fixture
        .queue
        .read_new(&mut fixture.reader, &[&fixture.keys], CONSUMER, 10, block)
        .await
        .unwrap();
    assert!(read.is_empty());
    // Longer than redis-rs's own response timeout of 500 ms.
    assert!(begin.elapsed() >= Duration::from_millis(650), "{:?}", begin.elapsed());

    let (queue, keys) = (fixture.queue.clone(), fixture.keys.clone());
    let hour = Duration::from_secs(3600);
    let streams = [&keys];
    let read = queue.read_new(&mut fixture.reader, &streams, CONSUMER, 10, hour);
    let given = event("a");
    let events = [&given];
    let open = UNLIMITED;
    let (read, _) = tokio::join!(read, queue.enqueue(&keys, &open, &events));
    assert_eq!(read.unwrap()[0].1.len(), 1);
}
