//! Tests of the enqueue script: entries, dedup markers, order and the clamped event time.

use shared::event::{EventTime, MAX_FUTURE_MS, NewEvent, StreamId, marker_digest};
use shared::queue::{EnqueuePolicy, Enqueued, MAX_BATCH_EVENTS, decode};

use crate::fixture::{CONSUMER, QueueFixture, UNLIMITED, event, field, name};

#[tokio::test]
async fn accepted_event_reads_back_unchanged() {
    let mut fixture = QueueFixture::consuming().await;
    let before = fixture.queue.now().await.unwrap();
    let given = NewEvent {
        event_id: "evt-ü".into(),
        event_type: "video.asset.ready".into(),
        occurred_at: EventTime::Known(before - 5000),
        body: (0..=255u8).collect::<Vec<u8>>().into(),
        marker: Some(marker_digest("mux", "evt-ü")),
        delivery_id: Some("d-1".into()),
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        reply_to: None,
        hops: 0,
        unusable: None,
    };
    assert_eq!(
        fixture.enqueue(&UNLIMITED, std::slice::from_ref(&given)).await,
        [Enqueued::Accepted]
    );
    let after = fixture.queue.now().await.unwrap();

    let entry = fixture.read_as(CONSUMER).await.pop().unwrap();
    let id = entry.id;
    let envelope = decode(entry).unwrap();
    assert_eq!(envelope.event_id, given.event_id);
    assert_eq!(envelope.event_type, given.event_type);
    assert_eq!(Some(envelope.occurred_at), given.occurred_at.known());
    assert_eq!(envelope.body, given.body);
    assert_eq!(envelope.delivery_id, given.delivery_id);
    assert_eq!(envelope.traceparent, given.traceparent);
    assert_eq!((envelope.id, envelope.origin), (id, id), "the first id is the origin");
    assert_eq!((envelope.attempt, envelope.replays, envelope.first_failed_at), (1, 0, None));
    assert!((before..=after).contains(&envelope.received_at));
    assert_eq!(i64::try_from(id.ms).unwrap(), envelope.received_at);
}

#[tokio::test]
async fn absent_optional_fields_are_not_written() {
    let fixture = QueueFixture::start().await;
    for (id, delivery_id, traceparent) in [
        ("a", None, None),
        ("b", Some("d"), None),
        ("c", None, Some("t")),
        ("d", Some("d"), Some("t")),
    ] {
        let given = NewEvent {
            delivery_id: delivery_id.map(str::to_owned),
            traceparent: traceparent.map(str::to_owned),
            ..event(id)
        };
        assert_eq!(fixture.enqueue(&UNLIMITED, &[given]).await, [Enqueued::Accepted]);
        let (_, fields) = fixture.fields(&fixture.keys.incoming).await.pop().unwrap();
        assert_eq!(field(&fields, "event_id"), Some(id));
        assert_eq!(
            (field(&fields, "delivery_id"), field(&fields, "traceparent")),
            (delivery_id, traceparent)
        );
    }
}

/// The script parses the type together with other values, so unusual types must not break it.
#[tokio::test]
async fn event_type_of_any_text_is_kept() {
    let mut fixture = QueueFixture::consuming().await;
    let types = ["", " ", "1 2 3 t", "%d(.*)$", "two\nlines\r\n", "a\0b", "\u{e4}\u{1f600}"];
    let given: Vec<NewEvent> = (0..)
        .zip(types)
        .flat_map(|(n, kind)| {
            let bare =
                NewEvent { event_type: kind.into(), marker: None, ..event(&format!("bare {n}")) };
            let hops = NewEvent { hops: 3, ..bare.clone() };
            let full = NewEvent {
                delivery_id: Some(String::new()),
                marker: event(kind).marker,
                ..hops.clone()
            };
            [bare, hops, full]
        })
        .collect();
    assert_eq!(fixture.enqueue(&UNLIMITED, &given).await, vec![Enqueued::Accepted; given.len()]);
    for (given, entry) in given.iter().zip(fixture.read_as(CONSUMER).await) {
        let fields = entry.fields.unwrap();
        let field = |name: &str| {
            fields.iter().find(|(field, _)| *field == name.as_bytes()).map(|(_, value)| value)
        };
        assert_eq!(field("event_type"), Some(given.event_type.as_bytes()));
        assert_eq!(field("body"), Some(&*given.body));
        assert_eq!(field("hops").is_some(), given.hops > 0, "{:?}", given.event_type);
        assert_eq!(
            field("delivery_id").is_some(),
            given.delivery_id.is_some(),
            "{:?}",
            given.event_type
        );
    }
}

#[tokio::test]
async fn batch_keeps_its_order() {
    let mut fixture = QueueFixture::consuming().await;
    let ids: Vec<String> = (0..MAX_BATCH_EVENTS).map(|n| format!("e{n}")).collect();
    for batch in [&ids[..], &["later".to_owned()][..]] {
        fixture.accept(&batch.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let entries = fixture.read_as(CONSUMER).await;
    assert!(entries.is_sorted_by(|a, b| a.id < b.id));
    let read: Vec<String> =
        entries.into_iter().map(|entry| decode(entry).unwrap().event_id).collect();
    assert_eq!(read, [ids, vec!["later".into()]].concat());
}

#[tokio::test]
async fn batch_above_the_maximum_is_not_sent() {
    let fixture = QueueFixture::start().await;
    let one = event("x");
    let fault = fixture
        .queue
        .enqueue(&fixture.keys, &UNLIMITED, &[&one; MAX_BATCH_EVENTS + 1])
        .await
        .unwrap_err();
    assert!(fault.certainly_not_run());
    assert_eq!(fixture.length().await, 0);
}

#[tokio::test]
async fn duplicate_is_reported_and_costs_nothing() {
    let fixture = QueueFixture::start().await;
    let policy = EnqueuePolicy { period_us: 60_000_000, burst: 2, max_backlog: 2, ..UNLIMITED };
    assert_eq!(
        fixture.enqueue(&policy, &[event("a"), event("a")]).await,
        [Enqueued::Accepted, Enqueued::Duplicate]
    );
    for _ in 0..5 {
        assert_eq!(fixture.enqueue(&policy, &[event("a")]).await, [Enqueued::Duplicate]);
    }
    // Limit and backlog allow two events. Duplicates use neither and are never refused for them.
    assert_eq!(fixture.enqueue(&policy, &[event("b")]).await, [Enqueued::Accepted]);
    assert_eq!(
        fixture.enqueue(&policy, &[event("c"), event("a")]).await,
        [Enqueued::Overloaded, Enqueued::Duplicate]
    );
    assert_eq!(fixture.length().await, 2);
    assert_eq!((fixture.counter("accepted").await, fixture.counter("duplicate").await), (2, 7));
}

#[tokio::test]
async fn same_id_of_another_platform_is_another_event() {
    let fixture = QueueFixture::start().await;
    fixture.accept(&["a"]).await;
    let other = NewEvent { marker: Some(marker_digest("acme", "a")), ..event("a") };
    let keys = fixture.queue.keys(&name("acme"));
    assert_eq!(
        fixture.queue.enqueue(&keys, &UNLIMITED, &[&other]).await.unwrap(),
        [Enqueued::Accepted]
    );
}

#[tokio::test]
async fn events_without_identity_are_all_accepted() {
    let fixture = QueueFixture::start().await;
    let given = NewEvent { marker: None, ..event("a") };
    // Events without a marker must not shift the markers of their neighbors.
    let batch = [event("x"), given.clone(), given, event("y"), event("x")];
    let outcomes = fixture.enqueue(&UNLIMITED, &batch).await;
    assert_eq!(outcomes[..4], [Enqueued::Accepted; 4]);
    assert_eq!(outcomes[4], Enqueued::Duplicate);
    for (id, there) in [("x", 1), ("y", 1), ("a", 0)] {
        let marker = fixture.keys.marker(&marker_digest("mux", id));
        assert_eq!(fixture.redis::<u64>(&["EXISTS", &marker]).await, there, "{id}");
    }
}

#[tokio::test]
async fn dedup_marker_has_the_configured_ttl() {
    let fixture = QueueFixture::start().await;
    fixture.enqueue(&EnqueuePolicy { dedup_ttl_s: 1000, ..UNLIMITED }, &[event("a")]).await;
    let marker = fixture.keys.marker(&marker_digest("mux", "a"));
    assert!((990..=1000).contains(&fixture.redis::<i64>(&["TTL", &marker]).await));
    assert_eq!(fixture.redis::<String>(&["GET", &marker]).await, "1");
}

#[tokio::test]
async fn dedup_marker_needs_its_entry() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["SET", &fixture.keys.incoming, "not a stream"]).await;
    assert_eq!(
        fixture.enqueue(&UNLIMITED, &[event("a"), event("b")]).await,
        [Enqueued::Refused; 2]
    );
    assert_eq!(
        fixture.redis::<Vec<String>>(&["KEYS", "webhook:hash:*"]).await,
        Vec::<String>::new()
    );

    fixture.redis::<()>(&["DEL", &fixture.keys.incoming]).await;
    assert_eq!(
        fixture.enqueue(&UNLIMITED, &[event("a")]).await,
        [Enqueued::Accepted],
        "the provider's retry is accepted"
    );
}

#[tokio::test]
async fn refused_entry_costs_no_quota() {
    let fixture = QueueFixture::start().await;
    let policy = EnqueuePolicy { period_us: 60_000_000, burst: 1, ..UNLIMITED };
    fixture.redis::<()>(&["SET", &fixture.keys.incoming, "not a stream"]).await;
    assert_eq!(fixture.enqueue(&policy, &[event("a")]).await, [Enqueued::Refused]);
    assert_eq!(
        fixture.redis::<Vec<String>>(&["KEYS", "webhooks:limit:*"]).await,
        Vec::<String>::new()
    );
    fixture.redis::<()>(&["DEL", &fixture.keys.incoming]).await;
    assert_eq!(fixture.enqueue(&policy, &[event("a")]).await, [Enqueued::Accepted]);
}

/// An event that fails does not affect events accepted before it in the same call.
#[tokio::test]
async fn event_whose_marker_is_unreadable_is_refused_alone() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "-exists"]).await;
    let repeatable = NewEvent { marker: None, ..event("a") };
    let outcomes = fixture.enqueue(&UNLIMITED, &[repeatable, event("b")]).await;
    assert_eq!(outcomes, [Enqueued::Accepted, Enqueued::Refused]);
    assert_eq!(fixture.length().await, 1);
}

#[tokio::test]
async fn backlog_bound_holds_inside_a_batch_and_counts_all_entries() {
    let mut fixture = QueueFixture::consuming().await;
    let policy = EnqueuePolicy { max_backlog: 3, ..UNLIMITED };
    let outcomes = fixture.enqueue(&policy, &["a", "b", "c", "d"].map(event)).await;
    assert_eq!(
        outcomes,
        [Enqueued::Accepted, Enqueued::Accepted, Enqueued::Accepted, Enqueued::Overloaded]
    );
    // The bound counts every entry in Redis, delivered or not.
    assert_eq!(fixture.read_as(CONSUMER).await.len(), 3);
    assert_eq!(fixture.enqueue(&policy, &[event("d")]).await, [Enqueued::Overloaded]);
    assert_eq!(fixture.counter("overloaded").await, 2);
}

#[tokio::test]
async fn future_event_time_counts_as_arrival() {
    let mut fixture = QueueFixture::consuming().await;
    let now = fixture.queue.now().await.unwrap();
    let times = [
        None,
        Some(now - 86_400_000),
        Some(now + MAX_FUTURE_MS - 10_000),
        Some(now + MAX_FUTURE_MS + 60_000),
    ];
    let batch: Vec<NewEvent> = times
        .iter()
        .enumerate()
        .map(|(n, at)| NewEvent { occurred_at: (*at).into(), ..event(&format!("e{n}")) })
        .collect();
    fixture.enqueue(&UNLIMITED, &batch).await;
    let read: Vec<_> =
        fixture.read_as(CONSUMER).await.into_iter().map(|entry| decode(entry).unwrap()).collect();
    assert_eq!(read[0].occurred_at, read[0].received_at, "no time");
    assert_eq!(Some(read[1].occurred_at), times[1], "past time");
    assert_eq!(Some(read[2].occurred_at), times[2], "inside the allowance");
    assert_eq!(read[3].occurred_at, read[3].received_at, "beyond it");
}

#[tokio::test]
async fn event_time_before_1970_is_kept() {
    let mut fixture = QueueFixture::consuming().await;
    fixture
        .enqueue(&UNLIMITED, &[NewEvent { occurred_at: EventTime::Known(-1), ..event("a") }])
        .await;
    assert_eq!(decode(fixture.read_as(CONSUMER).await.remove(0)).unwrap().occurred_at, -1);
}

#[tokio::test]
async fn entry_ids_continue_after_a_clock_step_back() {
    for last in
        ["9999999999999-7", "9999999999999-9007199254740991", "9999999999999-18446744073709551615"]
    {
        let mut fixture = QueueFixture::consuming().await;
        fixture.redis::<String>(&["XADD", &fixture.keys.incoming, last, "v", "1"]).await;
        fixture.accept(&["a", "b"]).await;
        fixture.accept(&["c"]).await;
        let entries = fixture.read_as(CONSUMER).await;
        assert!(entries.is_sorted_by(|a, b| a.id < b.id), "{last}");
        let read: Vec<_> =
            entries.into_iter().skip(1).map(|entry| decode(entry).unwrap()).collect();
        assert_eq!(
            read.iter().map(|one| one.event_id.as_str()).collect::<Vec<_>>(),
            ["a", "b", "c"],
            "{last}"
        );
        assert!(
            read.iter().all(|one| one.origin == one.id && one.id.ms >= 9_999_999_999_999),
            "{last}"
        );
        // Only the id is ahead, the arrival time is not.
        assert!(read.iter().all(|one| one.received_at < 9_999_999_999_999), "{last}");
    }
}

#[tokio::test]
async fn stream_without_free_ids_refuses() {
    let fixture = QueueFixture::start().await;
    let end = StreamId { ms: u64::MAX, seq: u64::MAX }.to_string();
    fixture.redis::<String>(&["XADD", &fixture.keys.incoming, &end, "v", "1"]).await;
    assert_eq!(fixture.enqueue(&UNLIMITED, &[event("a")]).await, [Enqueued::Refused]);
    assert_eq!(
        fixture.redis::<Vec<String>>(&["KEYS", "webhook:hash:*"]).await,
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn platform_index_names_every_platform_with_an_event() {
    let fixture = QueueFixture::start().await;
    fixture.redis::<()>(&["SADD", "webhooks:platforms", "Not A Name"]).await;
    fixture.accept(&["a"]).await;
    fixture.queue.register_platform(&name("acme")).await.unwrap();
    assert_eq!(fixture.queue.platforms().await.unwrap(), [name("acme"), name("mux")]);
    // After an emptied Redis, the next event adds its platform again.
    fixture.redis::<()>(&["FLUSHALL"]).await;
    fixture.accept(&["b"]).await;
    assert_eq!(fixture.queue.platforms().await.unwrap(), [name("mux")]);
}
