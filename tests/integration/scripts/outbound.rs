//! Tests of the outbox, destination queues and delivery limits.
//!
//! A delivery is queued exactly once, also at the bounds of a queue and on a full Redis.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::event::{NewEvent, StreamId};
use shared::outbound::{DeliveryLimit, DestinationName};
use shared::queue::{
    DeliveryPermit, DestinationKeys, Enqueued, EnqueuedDelivery, GroupState, KeyLayout,
    NewDelivery, OutboxEntry, Queue, SettleOutcome, Settled, blocking_connection, connect,
};

use crate::fixture::{CONSUMER, QueueFixture, UNLIMITED, event, field};

const NO_BOUND: u64 = 1_000_000;

fn delivery(id: &str) -> NewDelivery {
    NewDelivery {
        id: id.to_owned(),
        event_type: "job.completed".into(),
        occurred_at: 1_704_110_730_123,
        origin: StreamId { ms: 5, seq: 1 },
        body: format!("{{\"event\":\"{id}é\"}}"),
        hops: 2,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
    }
}

fn crm(queue: &Queue) -> DestinationKeys {
    queue.layout().destination(&DestinationName::new("crm").unwrap())
}

/// Returns the wait of a limited permit, `None` for a granted one.
fn wait_of(permit: DeliveryPermit) -> Option<Duration> {
    match permit {
        DeliveryPermit::Now => None,
        DeliveryPermit::Limited(wait) => Some(wait),
        other => panic!("{other:?}"),
    }
}

fn forwarded(id: StreamId) -> Settled {
    let forward = OutboxEntry {
        destinations: Arc::from("crm,fans"),
        result: "{\"a\":1}".into(),
        traceparent: None,
    };
    Settled { forward: Some(forward), ..Settled::new(id, SettleOutcome::Processed) }
}

#[tokio::test]
async fn delivery_is_queued_once_like_an_event() {
    let fixture = QueueFixture::start().await;
    let keys = crm(&fixture.queue);
    let both = [delivery("one"), delivery("two")];
    let outcomes =
        fixture.queue.enqueue_deliveries(&keys, &both[..1], NO_BOUND, NO_BOUND).await.unwrap();
    assert_eq!(outcomes, [EnqueuedDelivery::Queued]);
    // A relay killed before its acknowledgment enqueues the same deliveries again.
    let outcomes =
        fixture.queue.enqueue_deliveries(&keys, &both, NO_BOUND, NO_BOUND).await.unwrap();
    assert_eq!(outcomes, [EnqueuedDelivery::AlreadyQueued, EnqueuedDelivery::Queued]);
    let twice = [delivery("three"), delivery("three")];
    let outcomes =
        fixture.queue.enqueue_deliveries(&keys, &twice, NO_BOUND, NO_BOUND).await.unwrap();
    assert_eq!(outcomes, [EnqueuedDelivery::Queued, EnqueuedDelivery::AlreadyQueued]);

    let entries = fixture.fields("webhooks:outgoing:crm").await;
    assert_eq!(entries.len(), 3);
    let fields = &entries[0].1;
    for (name, value) in [
        ("v", "1"),
        ("event_id", "one"),
        ("event_type", "job.completed"),
        ("occurred_at", "1704110730123"),
        ("attempt", "1"),
        ("origin", "5-1"),
        ("body", "{\"event\":\"oneé\"}"),
        ("hops", "2"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ] {
        assert_eq!(field(fields, name), Some(value), "{name}");
    }
    let ttl: i64 = fixture.redis(&["TTL", "webhooks:forwarded:out:crm:one"]).await;
    assert!((590..=600).contains(&ttl), "{ttl}");
    let index: Vec<String> = fixture.redis(&["SMEMBERS", "webhooks:destinations"]).await;
    assert_eq!(index, ["crm"]);
    let queues: Vec<String> =
        fixture.queue.queues().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(queues, ["out:crm"]);
}

#[tokio::test]
async fn delivery_beyond_the_bound_is_dead_lettered_then_counted() {
    let fixture = QueueFixture::start().await;
    let keys = crm(&fixture.queue);
    let all: Vec<NewDelivery> = ["a", "b", "c", "d", "e", "f"].map(delivery).into();
    let outcomes = fixture.queue.enqueue_deliveries(&keys, &all, 2, 1).await.unwrap();
    use EnqueuedDelivery::{AlreadyQueued, DeadLettered, Overflowed, Queued};
    assert_eq!(outcomes, [Queued, Queued, DeadLettered, Overflowed, Overflowed, Overflowed]);
    // A repeated call of the relay counts none of them again.
    assert_eq!(
        fixture.queue.enqueue_deliveries(&keys, &all, 2, 1).await.unwrap(),
        [AlreadyQueued; 6]
    );

    let letters = fixture.fields("webhooks:dlq:out:crm").await;
    assert_eq!(letters.len(), 1);
    for (name, value) in
        [("event_id", "c"), ("error_code", "overflow"), ("attempts", "0"), ("replays", "0")]
    {
        assert_eq!(field(&letters[0].1, name), Some(value), "{name}");
    }
    let state = fixture.queue.destination_state(&keys).await.unwrap();
    assert_eq!(
        (state.overflow, state.overflow_first.as_deref(), state.overflow_last.as_deref()),
        (3, Some("d"), Some("f"))
    );
    let counters = fixture.queue.counters(&keys.queue).await.unwrap();
    assert_eq!(counters.get("dead_lettered"), Some(&1));
    // Resuming the destination resets its overflow counter.
    fixture.queue.pause_destination(&keys, true).await.unwrap();
    assert_eq!(fixture.queue.destination_state(&keys).await.unwrap().overflow, 3);
    fixture.queue.pause_destination(&keys, false).await.unwrap();
    let state = fixture.queue.destination_state(&keys).await.unwrap();
    assert_eq!((state.overflow, state.overflow_first, state.paused), (0, None, Some(false)));
}

/// A single call would exceed the response timeout and be repeated forever.
#[tokio::test]
async fn large_deliveries_are_split_into_bounded_calls() {
    let fixture = QueueFixture::start().await;
    let keys = crm(&fixture.queue);
    let large = |number: usize| NewDelivery {
        body: "x".repeat(1_000_000),
        ..delivery(&number.to_string())
    };
    let all: Vec<NewDelivery> = (0..9).map(large).collect();
    fixture
        .queue
        .enqueue_deliveries(&keys, &[delivery("loads the script")], NO_BOUND, NO_BOUND)
        .await
        .unwrap();
    fixture.redis::<()>(&["CONFIG", "RESETSTAT"]).await;
    let outcomes = fixture.queue.enqueue_deliveries(&keys, &all, NO_BOUND, NO_BOUND).await.unwrap();
    assert_eq!(outcomes, [EnqueuedDelivery::Queued; 9]);
    let order: Vec<String> = fixture
        .fields("webhooks:outgoing:crm")
        .await
        .into_iter()
        .skip(1)
        .map(|entry| field(&entry.1, "event_id").unwrap().to_owned())
        .collect();
    assert_eq!(order, ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    let stats: String = fixture.redis(&["INFO", "commandstats"]).await;
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
    assert_eq!(calls, Some("5"), "two megabytes each: {stats}");
}

/// The queue counts as full, so that the relay goes on with other destinations.
#[tokio::test]
async fn destination_queue_of_wrong_type_fails_no_other() {
    let fixture = QueueFixture::start().await;
    let keys = crm(&fixture.queue);
    fixture.redis::<()>(&["SET", "webhooks:outgoing:crm", "somebody's"]).await;
    let outcomes = fixture
        .queue
        .enqueue_deliveries(&keys, &[delivery("one"), delivery("two")], NO_BOUND, 1)
        .await
        .unwrap();
    assert_eq!(outcomes, [EnqueuedDelivery::DeadLettered, EnqueuedDelivery::Overflowed]);
    let letters = fixture.fields("webhooks:dlq:out:crm").await;
    assert_eq!(field(&letters[0].1, "error"), Some("destination queue is not a stream"));
    for key in [
        "webhooks:dlq:out:crm",
        "webhooks:destinations",
        "webhooks:counters:out:crm",
        "webhooks:state:out:crm",
    ] {
        fixture.redis::<()>(&["DEL", key]).await;
        fixture.redis::<()>(&["SET", key, "somebody's"]).await;
    }
    let outcomes = fixture
        .queue
        .enqueue_deliveries(&keys, &[delivery("three")], NO_BOUND, NO_BOUND)
        .await
        .unwrap();
    assert_eq!(outcomes, [EnqueuedDelivery::Overflowed], "with every other key damaged too");
}

#[tokio::test]
async fn full_redis_refuses_deliveries_and_still_settles() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    let keys = crm(&fixture.queue);
    fixture.redis::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let fault = fixture
        .queue
        .enqueue_deliveries(&keys, &[delivery("one")], NO_BOUND, NO_BOUND)
        .await
        .unwrap_err();
    assert!(fault.is_out_of_memory() && fault.certainly_not_run(), "{fault:?}");
    assert_eq!(fixture.queue.settle(&fixture.keys, &[forwarded(ids[0])]).await.unwrap(), [true]);
    assert_eq!(fixture.fields("webhooks:outbox:mux").await.len(), 1);
    let limit = DeliveryLimit { max: 1, window: Duration::from_secs(60) };
    assert_eq!(
        fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap(),
        DeliveryPermit::Now
    );
    fixture.redis::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let outcomes = fixture
        .queue
        .enqueue_deliveries(&keys, &[delivery("one")], NO_BOUND, NO_BOUND)
        .await
        .unwrap();
    assert_eq!(outcomes, [EnqueuedDelivery::Queued], "the refused call left no marker");
}

#[tokio::test]
async fn settled_event_moves_to_the_outbox_once_and_unchanged() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let before = fixture.fields(&fixture.keys.incoming).await;
    let batch =
        [forwarded(ids[0]), Settled::new(ids[1], SettleOutcome::Processed), forwarded(ids[2])];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true; 3]);
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [false; 3]);

    let outbox = fixture.fields("webhooks:outbox:mux").await;
    assert_eq!(outbox.len(), 2, "{outbox:?}");
    for (entry, original) in outbox.iter().zip([&before[0], &before[2]]) {
        let (kept, added) = entry.1.split_at(original.1.len());
        assert_eq!(kept, &original.1[..], "verbatim");
        assert_eq!(field(added, "destinations"), Some("crm,fans"));
        assert_eq!(field(added, "result"), Some("{\"a\":1}"));
        let at: u64 = field(added, "forwarded_at").unwrap().parse().unwrap();
        let id: StreamId = entry.0.parse().unwrap();
        assert!(id.ms.abs_diff(at) < 1_000, "Redis's clock: {at}");
    }
}

/// Deliveries continue the trace of the execution, or that of the entry if it was not traced.
#[tokio::test]
async fn delivery_trace_continues_from_the_execution() {
    let mut fixture = QueueFixture::consuming().await;
    let traced = |id: &str, traceparent: Option<&str>| NewEvent {
        traceparent: traceparent.map(str::to_owned),
        ..event(id)
    };
    let events =
        [traced("bare", None), traced("kept", Some("caller")), traced("traced", Some("caller"))];
    assert_eq!(fixture.enqueue(&UNLIMITED, &events).await, [Enqueued::Accepted; 3]);
    let ids: Vec<StreamId> =
        fixture.read_as(CONSUMER).await.into_iter().map(|entry| entry.id).collect();
    let given = |id, traceparent: Option<&str>| {
        let mut settled = forwarded(id);
        settled
            .forward
            .iter_mut()
            .for_each(|forward| forward.traceparent = traceparent.map(str::to_owned));
        settled
    };
    let all =
        [given(ids[0], Some("executed")), given(ids[1], None), given(ids[2], Some("executed"))];
    assert_eq!(fixture.queue.settle(&fixture.keys, &all).await.unwrap(), [true; 3]);
    let added = fixture.fields("webhooks:outbox:mux").await;
    let contexts = |(_, fields): &(String, Vec<(String, String)>)| -> Vec<String> {
        fields
            .iter()
            .filter(|(name, _)| name == "traceparent")
            .map(|(_, value)| value.clone())
            .collect()
    };
    let contexts: Vec<_> = added.iter().map(contexts).collect();
    assert_eq!(contexts, [["executed"], ["caller"], ["executed"]]);
}

#[tokio::test]
async fn entry_removed_by_another_worker_is_not_forwarded() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    fixture.redis::<u64>(&["XDEL", &fixture.keys.incoming, &ids[0].to_string()]).await;
    assert_eq!(fixture.queue.settle(&fixture.keys, &[forwarded(ids[0])]).await.unwrap(), [false]);
    assert_eq!(fixture.redis::<u64>(&["EXISTS", "webhooks:outbox:mux"]).await, 0);
}

/// The script checks the outbox first. Otherwise the event would leave the queue and be lost.
#[tokio::test]
async fn outbox_of_wrong_type_loses_nothing() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    fixture.redis::<()>(&["SET", "webhooks:outbox:mux", "not a stream"]).await;
    let fault = fixture.queue.settle(&fixture.keys, &[forwarded(ids[0])]).await.unwrap_err();
    assert!(fault.is_wrong_type(), "{fault:?}");
    assert_eq!((fixture.length().await, fixture.pending().await), (1, 1));
    fixture.redis::<u64>(&["DEL", "webhooks:outbox:mux"]).await;
    assert_eq!(fixture.queue.settle(&fixture.keys, &[forwarded(ids[0])]).await.unwrap(), [true]);
    assert_eq!(fixture.fields("webhooks:outbox:mux").await.len(), 1);
}

#[tokio::test]
async fn delivery_limit_is_exact() {
    let fixture = QueueFixture::start().await;
    let keys = crm(&fixture.queue);
    // Five at once, then one per 200 ms.
    let limit = DeliveryLimit { max: 5, window: Duration::from_secs(1) };
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(
            fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap(),
            DeliveryPermit::Now
        );
    }
    let wait = wait_of(fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap())
        .expect("a wait");
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
    let mut given = 0_u32;
    while given < 10 {
        match wait_of(fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap()) {
            None => given += 1,
            Some(wait) => tokio::time::sleep(wait).await,
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(2_000), "{:?}", begun.elapsed());
    // Refused permits cost nothing, so repeated requests do not postpone the next permit.
    for _ in 0..50 {
        let _ = fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap();
    }
    let wait = wait_of(fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap())
        .unwrap_or_default();
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
}

#[tokio::test]
async fn delivery_limit_recovers_within_a_window_of_a_clock_step() {
    let fixture = QueueFixture::start().await;
    let keys = crm(&fixture.queue);
    let limit = DeliveryLimit { max: 2, window: Duration::from_secs(1) };
    for stored in ["9999999999999999", "nan", "-5", "text", "inf"] {
        fixture.redis::<()>(&["SET", &keys.queue.limit, stored]).await;
        let wait = wait_of(fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap())
            .unwrap_or_default();
        assert!(wait <= Duration::from_millis(500), "{stored}: {wait:?}");
    }
    let ttl: i64 = {
        fixture.redis::<u64>(&["DEL", &keys.queue.limit]).await;
        assert_eq!(
            fixture.queue.acquire_delivery_permit(&keys, limit).await.unwrap(),
            DeliveryPermit::Now
        );
        fixture.redis(&["PTTL", &keys.queue.limit]).await
    };
    assert!((1_000..=1_600).contains(&ttl), "the state expires: {ttl}");
}

#[tokio::test]
async fn destination_keeps_to_its_slot_on_a_cluster() {
    let server = crate::cluster::one_node().await;
    let url = server.url().into();
    let queue = Queue::new(KeyLayout::Cluster, connect(&url, true).unwrap());
    let mut reader = blocking_connection(&url, true).unwrap();
    let keys = crm(&queue);
    assert_eq!(queue.create_group(&keys.queue).await.unwrap(), GroupState::Created);
    let all: Vec<NewDelivery> = ["a", "b", "c", "d"].map(delivery).into();
    let outcomes = queue.enqueue_deliveries(&keys, &all, 2, 1).await.unwrap();
    assert_eq!(
        outcomes,
        [
            EnqueuedDelivery::Queued,
            EnqueuedDelivery::Queued,
            EnqueuedDelivery::DeadLettered,
            EnqueuedDelivery::Overflowed
        ]
    );
    assert_eq!(
        queue
            .acquire_delivery_permit(
                &keys,
                DeliveryLimit { max: 1, window: Duration::from_secs(9) }
            )
            .await
            .unwrap(),
        DeliveryPermit::Now
    );
    let pages =
        queue.read_new(&mut reader, &[&keys.queue], CONSUMER, 10, Duration::ZERO).await.unwrap();
    let ids: Vec<StreamId> = pages[0].1.iter().map(|entry| entry.id).collect();
    assert_eq!(
        queue.settle(&keys.queue, &[Settled::new(ids[0], SettleOutcome::Processed)]).await.unwrap(),
        [true]
    );
    let retry = [crate::retry::retry(ids[1], 0)];
    assert_eq!(queue.schedule_retry(&keys.queue, CONSUMER, &retry).await.unwrap(), [true]);
    assert_eq!(queue.promote_due(&keys.queue, 1000, 10).await.unwrap().moved, 1);
    assert_eq!(queue.depth(&keys.queue).await.unwrap().dead_letters, 1);
    assert_eq!(queue.destination_state(&keys).await.unwrap().overflow, 1);
    let index: Vec<String> = server.command(&["SMEMBERS", "webhooks:destinations"]).await;
    assert_eq!(index, ["crm"]);

    // An outbox shares the slot of its platform.
    let mux = queue.keys(&crate::fixture::name("mux"));
    let outbox = queue.layout().outbox(&mux.platform);
    queue.create_group(&mux).await.unwrap();
    queue.create_group(&outbox).await.unwrap();
    queue.enqueue(&mux, &UNLIMITED, &[&event("a")]).await.unwrap();
    let pages = queue.read_new(&mut reader, &[&mux], CONSUMER, 10, Duration::ZERO).await.unwrap();
    assert_eq!(queue.settle(&mux, &[forwarded(pages[0].1[0].id)]).await.unwrap(), [true]);
    let pages =
        queue.read_new(&mut reader, &[&outbox], CONSUMER, 10, Duration::ZERO).await.unwrap();
    let moved = Settled::new(pages[0].1[0].id, SettleOutcome::Duplicate);
    assert_eq!(queue.settle(&outbox, &[moved]).await.unwrap(), [true]);
}
