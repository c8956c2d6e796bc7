//! Tests of verified requests that are not usable events: they become dead letters at once, with
//! the limits and the deduplication of events.

use shared::event::{EventTime, NewEvent, marker_digest};
use shared::queue::{
    CallError, DecodeError, EnqueuePolicy, EnqueueSection, Enqueued, Replayed, decode,
};

use crate::cluster::{connect_to, one_node};
use crate::fixture::{CONSUMER, QueueFixture, UNLIMITED, event, field, name};

fn unusable(id: &str, kind: &str) -> NewEvent {
    NewEvent {
        event_type: kind.into(),
        body: [&b"\xff\0not json "[..], id.as_bytes()].concat().into(),
        unusable: Some("not JSON at line 1, column 1".into()),
        ..event(id)
    }
}

#[tokio::test]
async fn unusable_event_is_a_dead_letter_with_its_bytes() {
    let fixture = QueueFixture::start().await;
    let given = NewEvent { delivery_id: Some("d".into()), hops: 2, ..unusable("a", "t") };
    assert_eq!(
        fixture.enqueue(&UNLIMITED, &[given.clone(), unusable("b", "")]).await,
        [Enqueued::Accepted; 2]
    );
    assert_eq!(fixture.length().await, 0, "neither is in the queue");

    let dead = fixture.queue.dead_letters(&fixture.keys, None, 10).await.unwrap();
    let letters: Vec<_> = dead
        .into_iter()
        .map(|entry| shared::queue::DeadLetter::decode(&fixture.keys.platform, entry))
        .collect();
    let first = &letters[0];
    assert_eq!((first.event_id.as_deref(), first.event_type.as_deref()), (Some("a"), Some("t")));
    assert_eq!(first.body.as_ref().unwrap().0, given.body);
    assert_eq!(
        (first.v, first.attempt, first.attempts, first.replays),
        (Some(1), Some(1), Some(0), 0)
    );
    assert_eq!(first.error_code.as_deref(), Some("invalid_event"));
    assert_eq!(first.error.as_deref(), Some("not JSON at line 1, column 1"));
    assert_eq!(
        (first.worker.as_deref(), first.delivery_id.as_deref()),
        (Some("ingress"), Some("d"))
    );
    assert_eq!(first.origin, Some(first.id), "the origin is its first id");
    let now = first.received_at;
    assert_eq!((first.occurred_at, first.first_failed_at, first.failed_at), (now, now, now));
    assert_eq!(letters[1].event_type, None, "no type was identified");

    let exceptions: Vec<String> = fixture.redis(&["HVALS", &fixture.keys.exceptions]).await;
    assert!(exceptions.contains(&format!("dead:{}", first.id)), "{exceptions:?}");
    assert_eq!((fixture.counter("accepted").await, fixture.counter("dead_lettered").await), (2, 2));
    assert_eq!(fixture.queue.platforms().await.unwrap(), [name("mux")]);

    // A purge deletes the dedup marker, so that the sender may retry.
    let digest = marker_digest("mux", "a");
    assert_eq!(
        fixture.enqueue(&UNLIMITED, std::slice::from_ref(&given)).await,
        [Enqueued::Duplicate]
    );
    assert_eq!(
        fixture.queue.purge(&fixture.keys, &[(first.id, Some(digest))]).await.unwrap(),
        [true]
    );
    assert_eq!(fixture.enqueue(&UNLIMITED, &[given]).await, [Enqueued::Accepted]);
}

#[tokio::test]
async fn unusable_events_share_the_limit_and_have_their_bound() {
    let fixture = QueueFixture::start().await;
    let policy = EnqueuePolicy {
        period_us: 600_000_000,
        burst: 3,
        max_dead_letters: 2,
        max_backlog: 1,
        ..UNLIMITED
    };
    let dead = |id: &str| [unusable(id, "t")];
    assert_eq!(fixture.enqueue(&policy, &dead("a")).await, [Enqueued::Accepted]);
    assert_eq!(
        fixture.enqueue(&policy, &[event("b")]).await,
        [Enqueued::Accepted],
        "backlog and dead letters have separate bounds"
    );
    assert_eq!(fixture.enqueue(&policy, &dead("c")).await, [Enqueued::Accepted]);
    assert_eq!(fixture.enqueue(&policy, &dead("d")).await, [Enqueued::Overloaded]);
    assert_eq!(fixture.enqueue(&policy, &dead("a")).await, [Enqueued::Duplicate], "costs nothing");
    let roomy = EnqueuePolicy { max_dead_letters: 10, max_backlog: 10, ..policy };
    assert!(matches!(
        fixture.enqueue(&roomy, &dead("d")).await[..],
        [Enqueued::RateLimited { .. }]
    ));
    assert!(matches!(
        fixture.enqueue(&roomy, &[event("e")]).await[..],
        [Enqueued::RateLimited { .. }]
    ));
    assert_eq!((fixture.counter("accepted").await, fixture.counter("dead_lettered").await), (3, 2));
    let dead: u64 = fixture.redis(&["XLEN", &fixture.keys.dlq]).await;
    assert_eq!(dead, 2);
}

#[tokio::test]
async fn usable_and_unusable_events_share_a_call_in_two_sections() {
    let fixture = QueueFixture::start().await;
    let (good, bad, other) = ([event("a")], [unusable("b", "t")], [event("c")]);
    let acme = fixture.queue.keys(&name("acme"));
    let groups: [[&[NewEvent]; 1]; 3] = [[&good], [&bad], [&other]];
    let policy = &UNLIMITED;
    let section = |keys, groups| EnqueueSection { keys, policy, groups };
    let sections = [
        section(&fixture.keys, &groups[0][..]),
        section(&fixture.keys, &groups[1]),
        section(&acme, &groups[2]),
    ];
    assert_eq!(fixture.queue.enqueue_sections(&sections).await.unwrap(), [Enqueued::Accepted; 3]);
    let entries = fixture.fields(&acme.incoming).await;
    assert_eq!(
        field(&entries[0].1, "event_id"),
        Some("c"),
        "sections behind dead letters keep their keys"
    );
    let dead: u64 = fixture.redis(&["XLEN", &fixture.keys.dlq]).await;
    assert_eq!((fixture.length().await, dead), (1, 1));

    let mixed: [&[NewEvent]; 2] = [&good, &bad];
    let refused =
        fixture.queue.enqueue_sections(&[section(&fixture.keys, &mixed)]).await.unwrap_err();
    assert!(matches!(refused, CallError::NotRun(_)), "{refused:?}");
}

#[tokio::test]
async fn unusable_event_can_be_replayed() {
    let mut fixture = QueueFixture::consuming().await;
    let time = EventTime::Known(fixture.queue.now().await.unwrap() - 1000);
    fixture
        .enqueue(
            &UNLIMITED,
            &[NewEvent { occurred_at: time, ..unusable("a", "t") }, unusable("b", "")],
        )
        .await;
    let dead = fixture.queue.dead_letters(&fixture.keys, None, 10).await.unwrap();
    let ids: Vec<_> = dead.iter().map(|entry| entry.id).collect();
    let replayed =
        fixture.queue.replay(&fixture.keys, &ids, 100, &Default::default()).await.unwrap();
    assert!(replayed.iter().all(|one| matches!(one, Replayed::Done(_))), "{replayed:?}");
    let entries = fixture.read_as(CONSUMER).await;
    let [first, second] = <[_; 2]>::try_from(entries).unwrap();
    let envelope = decode(first).unwrap();
    assert_eq!((envelope.event_id.as_str(), envelope.origin, envelope.replays), ("a", ids[0], 1));
    assert_eq!((Some(envelope.occurred_at), envelope.first_failed_at), (time.known(), None));
    assert_eq!(decode(second).unwrap_err(), DecodeError::Missing("event_type"));
}

#[tokio::test]
async fn unusable_event_is_kept_on_a_cluster() {
    let server = one_node().await;
    let (queue, _) = connect_to(&server);
    let keys = queue.keys(&name("mux"));
    assert_eq!(
        queue.enqueue(&keys, &UNLIMITED, &[&unusable("a", "t")]).await.unwrap(),
        [Enqueued::Accepted]
    );
    assert_eq!(queue.dead_letters(&keys, None, 10).await.unwrap().len(), 1);
}
