//! Tests of replies to waiting requests, and of the index of retrying and dead events.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde_json::value::to_raw_value;
use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, NewEvent, StreamId, marker_digest};
use shared::queue::keys::reply_channel;
use shared::queue::{
    AddressedReply, ChannelSubscription, DeadLettered, Enqueued, EventReply, GroupState,
    ImportOutcome, NewDeadLetter, Replayed, ReplyOutcome, SettleOutcome, Settled,
    SubscriptionEvent, UnfinishedState, decode,
};
use tests::poll;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fixture::{CONSUMER, OTHER, QueueFixture, UNLIMITED, event, field};

const TEST_TIMEOUT: Duration = Duration::from_secs(10);

fn reply(event_id: &str, outcome: ReplyOutcome) -> EventReply {
    EventReply { platform: "mux".into(), event_id: event_id.into(), outcome }
}

fn processed_reply(channel: &str, event_id: &str) -> Option<AddressedReply> {
    let results = to_raw_value(&serde_json::json!({"event_id": event_id})).unwrap();
    Some(AddressedReply {
        channel: channel.into(),
        reply: reply(event_id, ReplyOutcome::Processed(results)),
    })
}

pub fn dead_reply(channel: &str, event_id: &str) -> Option<AddressedReply> {
    let outcome = ReplyOutcome::Dead("store_rejected".into());
    Some(AddressedReply { channel: channel.into(), reply: reply(event_id, outcome) })
}

pub fn settled_with_reply(id: StreamId, channel: &str, event_id: &str) -> Settled {
    Settled {
        reply: processed_reply(channel, event_id),
        ..Settled::new(id, SettleOutcome::Processed)
    }
}

pub fn new_dead_letter(id: StreamId, reply: Option<AddressedReply>) -> NewDeadLetter {
    let error_code = DeadLetterCode::StoreRejected;
    NewDeadLetter { id, error_code, error: "no".into(), attempts: 5, first_failed_at: None, reply }
}

/// Subscription to a reply channel.
struct ReplySubscription {
    events: UnboundedReceiver<SubscriptionEvent>,
    stop: CancellationToken,
}

impl ReplySubscription {
    async fn open(fixture: &QueueFixture, channel: &str) -> Self {
        let (sender, events) = unbounded_channel();
        let stop = CancellationToken::new();
        let url = fixture.server.url().into();
        let subscription = ChannelSubscription::new(&url, false, channel.to_owned()).unwrap();
        tokio::spawn(subscription.run(stop.clone(), move |event| drop(sender.send(event))));
        let mut subscriber = Self { events, stop };
        subscriber.listening().await;
        subscriber
    }

    async fn next(&mut self) -> SubscriptionEvent {
        timeout(TEST_TIMEOUT, self.events.recv())
            .await
            .expect("an event in time")
            .expect("the subscription runs")
    }

    async fn listening(&mut self) {
        while !matches!(self.next().await, SubscriptionEvent::Listening) {}
    }

    async fn message(&mut self) -> EventReply {
        match self.next().await {
            SubscriptionEvent::Message(text) => EventReply::decode(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for ReplySubscription {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl QueueFixture {
    async fn index(&self) -> HashMap<String, String> {
        self.redis(&["HGETALL", &self.keys.exceptions]).await
    }

    async fn unfinished(&self, event_id: &str) -> Option<UnfinishedState> {
        self.queue.unfinished(&self.keys, event_id).await.unwrap()
    }

    async fn stored_outcome(&self, event_id: &str) -> Option<ReplyOutcome> {
        self.queue.stored_reply(&self.keys, event_id).await.unwrap().map(|reply| reply.outcome)
    }

    async fn retry_later(&self, id: StreamId) {
        let retry = [crate::retry::retry(id, 0)];
        assert_eq!(self.queue.schedule_retry(&self.keys, CONSUMER, &retry).await.unwrap(), [true]);
    }

    /// Promotes due retries and reads the first one.
    async fn promote_and_read(&mut self) -> Envelope {
        self.queue.promote_due(&self.keys, 1000, 100).await.unwrap();
        decode(self.read_as(CONSUMER).await.remove(0)).unwrap()
    }

    async fn dead_letter_one(&self, id: StreamId) -> StreamId {
        let outcome = self
            .queue
            .dead_letter(&self.keys, CONSUMER, "w", &[new_dead_letter(id, None)], 100)
            .await
            .unwrap();
        assert_eq!(outcome, [DeadLettered::Done]);
        self.queue.dead_letters(&self.keys, None, 100).await.unwrap().last().unwrap().id
    }

    /// Returns the number of calls of each command since `CONFIG RESETSTAT`.
    async fn calls(&self) -> HashMap<String, u64> {
        let stats: String = self.redis(&["INFO", "commandstats"]).await;
        let count = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        stats.lines().filter_map(count).collect()
    }
}

#[tokio::test]
async fn reply_channel_is_kept_in_the_entry_and_through_retries() {
    let mut fixture = QueueFixture::consuming().await;
    let channel = reply_channel(Uuid::new_v4());
    let some = |text: &str| Some(text.to_owned());
    let awaited = |id: &str| NewEvent { reply_to: Some(channel.clone()), ..event(id) };
    let given = [
        awaited("a"),
        NewEvent { delivery_id: some("d"), ..awaited("b") },
        NewEvent { traceparent: some("t"), ..awaited("c") },
        NewEvent { delivery_id: some("d"), traceparent: some("t"), marker: None, ..awaited("d") },
        event("e"),
    ];
    assert_eq!(fixture.enqueue(&UNLIMITED, &given).await, [Enqueued::Accepted; 5]);
    assert_eq!(
        fixture.enqueue(&UNLIMITED, &given[..1]).await,
        [Enqueued::Duplicate],
        "an awaited event has a dedup marker"
    );
    let read: Vec<Envelope> =
        fixture.read_as(CONSUMER).await.into_iter().map(|one| decode(one).unwrap()).collect();
    for (given, read) in given.iter().zip(&read) {
        assert_eq!((&given.reply_to, &given.event_id), (&read.reply_to, &read.event_id));
        assert_eq!(
            (&given.delivery_id, &given.traceparent),
            (&read.delivery_id, &read.traceparent)
        );
        assert_eq!((&given.body, read.id), (&read.body, read.origin));
        assert!(!read.was_requeued());
    }
    let (_, fields) = fixture.fields(&fixture.keys.incoming).await.pop().unwrap();
    assert_eq!(field(&fields, "reply_to"), None);
    fixture.retry_later(read[0].id).await;
    let again = fixture.promote_and_read().await;
    assert_eq!((again.reply_to, again.event_id.as_str()), (Some(channel), "a"));
}

#[tokio::test]
async fn settled_event_is_published_once_to_its_waiter() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let (here, there) = (reply_channel(Uuid::new_v4()), reply_channel(Uuid::new_v4()));
    let (mut waiter, mut other) = (
        ReplySubscription::open(&fixture, &here).await,
        ReplySubscription::open(&fixture, &there).await,
    );
    let batch = [
        settled_with_reply(ids[0], &here, "a"),
        Settled::new(ids[1], SettleOutcome::Processed),
        settled_with_reply(ids[2], &there, "c"),
    ];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true; 3]);
    for (waiter, id) in [(&mut waiter, "a"), (&mut other, "c")] {
        let told = waiter.message().await;
        assert_eq!((told.platform.as_str(), told.event_id.as_str()), ("mux", id));
        let ReplyOutcome::Processed(results) = told.outcome else { panic!("{id}") };
        assert_eq!(results.get(), format!("{{\"event_id\":\"{id}\"}}"));
        assert!(matches!(
            fixture.stored_outcome(id).await,
            Some(ReplyOutcome::Processed(stored)) if stored.get() == results.get()
        ));
        let left: i64 = fixture.redis(&["TTL", &fixture.keys.result(id)]).await;
        assert!((1..=60).contains(&left), "{left}");
    }
    assert!(fixture.stored_outcome("b").await.is_none(), "event b has no waiter");

    // Another worker settled first and has published the reply.
    fixture.redis::<()>(&["DEL", &fixture.keys.result("a")]).await;
    let late = [settled_with_reply(ids[0], &here, "a")];
    assert_eq!(fixture.queue.settle(&fixture.keys, &late).await.unwrap(), [false]);
    assert!(fixture.stored_outcome("a").await.is_none());
    fixture
        .redis::<()>(&["PUBLISH", &here, &reply("end", ReplyOutcome::Dead(String::new())).encode()])
        .await;
    assert_eq!(waiter.message().await.event_id, "end", "nothing was published twice");
}

#[tokio::test]
async fn dead_letter_is_published_and_drops_its_reply_channel() {
    let mut fixture = QueueFixture::consuming().await;
    let channel = reply_channel(Uuid::new_v4());
    let given: Vec<NewEvent> =
        ["a", "b", "c"].map(|id| NewEvent { reply_to: Some(channel.clone()), ..event(id) }).into();
    fixture.enqueue(&UNLIMITED, &given).await;
    let ids: Vec<StreamId> = fixture.read_as(CONSUMER).await.iter().map(|entry| entry.id).collect();
    let mut waiter = ReplySubscription::open(&fixture, &channel).await;
    let foreign = StreamId { ms: 1, seq: 1 };
    let letters = [
        new_dead_letter(foreign, dead_reply(&channel, "nobody")),
        new_dead_letter(ids[0], None),
        new_dead_letter(ids[1], dead_reply(&channel, "b")),
        new_dead_letter(ids[2], dead_reply(&channel, "c")),
    ];
    let outcomes =
        fixture.queue.dead_letter(&fixture.keys, CONSUMER, "w", &letters, 2).await.unwrap();
    assert_eq!(
        outcomes,
        [DeadLettered::Gone, DeadLettered::Done, DeadLettered::Done, DeadLettered::Full]
    );
    let told = waiter.message().await;
    assert_eq!(told.event_id, "b");
    assert!(matches!(told.outcome, ReplyOutcome::Dead(code) if code == "store_rejected"));
    assert!(matches!(fixture.stored_outcome("b").await, Some(ReplyOutcome::Dead(_))));
    let left: i64 = fixture.redis(&["TTL", &fixture.keys.result("b")]).await;
    assert!((1..=60).contains(&left), "{left}");
    for id in ["nobody", "a", "c"] {
        assert!(fixture.stored_outcome(id).await.is_none(), "{id}");
    }
    for (_, fields) in fixture.fields(&fixture.keys.dlq).await {
        assert_eq!(field(&fields, "reply_to"), None, "{fields:?}");
    }
}

/// A reply that cannot be stored or published must not prevent a transition.
#[tokio::test]
async fn settle_needs_no_permission_to_publish_and_no_memory() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let channel = reply_channel(Uuid::new_v4());
    fixture.redis::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_eq!(
        fixture
            .queue
            .settle(&fixture.keys, &[settled_with_reply(ids[0], &channel, "a")])
            .await
            .unwrap(),
        [true]
    );
    assert!(fixture.stored_outcome("a").await.is_some());
    fixture.redis::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "-publish", "-set"]).await;
    assert_eq!(
        fixture
            .queue
            .settle(&fixture.keys, &[settled_with_reply(ids[1], &channel, "b")])
            .await
            .unwrap(),
        [true]
    );
    let letters = [new_dead_letter(ids[2], dead_reply(&channel, "c"))];
    let outcomes =
        fixture.queue.dead_letter(&fixture.keys, CONSUMER, "w", &letters, 9).await.unwrap();
    assert_eq!(outcomes, [DeadLettered::Done]);
    assert_eq!((fixture.length().await, fixture.pending().await), (0, 0));
}

#[tokio::test]
async fn event_without_a_waiter_costs_no_extra_command() {
    let mut fixture = QueueFixture::consuming().await;
    let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    let given: Vec<NewEvent> = names.iter().map(|id| event(id)).collect();
    fixture.redis::<()>(&["CONFIG", "RESETSTAT"]).await;
    fixture.enqueue(&UNLIMITED, &given).await;
    let calls = fixture.calls().await;
    assert_eq!((calls["xadd"], calls["set"], calls["exists"]), (100, 100, 1), "{calls:?}");
    assert_eq!(
        (calls.get("hset"), calls.get("publish"), calls.get("hget")),
        (None, None, None),
        "{calls:?}"
    );
    let ids: Vec<StreamId> = fixture.read_as(CONSUMER).await.iter().map(|entry| entry.id).collect();
    fixture.redis::<()>(&["CONFIG", "RESETSTAT"]).await;
    let batch: Vec<Settled> =
        ids.iter().map(|id| Settled::new(*id, SettleOutcome::Processed)).collect();
    fixture.queue.settle(&fixture.keys, &batch).await.unwrap();
    let mut calls = fixture.calls().await;
    calls.retain(|name, _| {
        !["config|resetstat", "info", "evalsha", "eval", "script|load", "hello"].contains(&&**name)
    });
    calls.retain(|name, _| !name.starts_with("client"));
    let expected = [("xack", 1), ("exists", 1), ("xdel", 1), ("hincrby", 1)];
    assert_eq!(calls, expected.map(|(name, count)| (name.to_owned(), count)).into());
}

#[tokio::test]
async fn exception_index_follows_retry_dead_letter_and_replay() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    assert_eq!(
        fixture.unfinished("a").await,
        Some(UnfinishedState::Pending),
        "known by its dedup marker"
    );
    assert_eq!(fixture.unfinished("b").await, None);
    fixture.retry_later(id).await;
    assert_eq!(fixture.unfinished("a").await, Some(UnfinishedState::Retrying));
    let again = fixture.promote_and_read().await;
    assert!(again.was_requeued());
    assert_eq!(
        fixture.unfinished("a").await,
        Some(UnfinishedState::Retrying),
        "retrying until it is settled"
    );
    let dead = fixture.dead_letter_one(again.id).await;
    assert_eq!(fixture.unfinished("a").await, Some(UnfinishedState::Dead(dead)));
    fixture.redis::<()>(&["DEL", &fixture.keys.marker(&marker_digest("mux", "a"))]).await;
    let replayed =
        fixture.queue.replay(&fixture.keys, &[dead], 100, &BTreeMap::new()).await.unwrap();
    assert!(matches!(replayed[..], [Replayed::Done(_)]));
    assert_eq!(
        fixture.unfinished("a").await,
        Some(UnfinishedState::Pending),
        "known without its dedup marker"
    );
    let last = fixture.promote_and_read().await;
    let moved = Some(last.event_id.clone());
    let batch = [Settled { moved, ..Settled::new(last.id, SettleOutcome::Processed) }];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true]);
    assert_eq!(fixture.unfinished("a").await, None);
    assert!(fixture.index().await.is_empty());
}

#[tokio::test]
async fn late_settle_keeps_the_dead_letter_in_the_index() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.retry_later(id).await;
    let again = fixture.promote_and_read().await;
    let dead = fixture.dead_letter_one(again.id).await;
    let late =
        [Settled { moved: Some("a".into()), ..Settled::new(again.id, SettleOutcome::Processed) }];
    assert_eq!(fixture.queue.settle(&fixture.keys, &late).await.unwrap(), [false]);
    assert_eq!(fixture.unfinished("a").await, Some(UnfinishedState::Dead(dead)));
}

/// Another worker found the session missing and rescheduled the event while this one was frozen
/// between commit and settle.
#[tokio::test]
async fn late_settle_of_a_rescheduled_entry_clears_the_index() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture
        .queue
        .claim(&fixture.keys, OTHER, Duration::ZERO, StreamId::default(), 10)
        .await
        .unwrap();
    let retries = ids.iter().map(|id| crate::retry::retry(*id, 60_000)).collect::<Vec<_>>();
    assert_eq!(
        fixture.queue.schedule_retry(&fixture.keys, OTHER, &retries).await.unwrap(),
        [true; 2]
    );
    let batch = [Settled::new(ids[0], SettleOutcome::Processed)];
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true]);
    assert_eq!(fixture.index().await, HashMap::from([("b".to_owned(), "retrying".to_owned())]));
}

#[tokio::test]
async fn purge_clears_only_its_own_dead_letter_from_the_index() {
    let mut fixture = QueueFixture::consuming().await;
    let first = fixture.deliver(&["a"]).await[0];
    let first = fixture.dead_letter_one(first).await;
    // After its dedup marker expired, the provider's retry becomes a second dead letter.
    fixture.redis::<()>(&["DEL", &fixture.keys.marker(&marker_digest("mux", "a"))]).await;
    let second = fixture.deliver(&["a"]).await[0];
    let second = fixture.dead_letter_one(second).await;
    assert_eq!(fixture.queue.purge(&fixture.keys, &[(first, None)]).await.unwrap(), [true]);
    assert_eq!(fixture.unfinished("a").await, Some(UnfinishedState::Dead(second)));
    let digest = Some(marker_digest("mux", "a"));
    assert_eq!(fixture.queue.purge(&fixture.keys, &[(second, digest)]).await.unwrap(), [true]);
    assert_eq!(fixture.unfinished("a").await, None);
    assert!(fixture.index().await.is_empty());
}

#[tokio::test]
async fn imported_dead_letter_is_in_the_index() {
    let fixture = QueueFixture::start().await;
    let fields = vec![(b"event_id".to_vec(), b"a".to_vec()), (b"body".to_vec(), b"{}".to_vec())];
    let exported = StreamId { ms: 1, seq: 1 };
    let imported =
        fixture.queue.import_dead_letter(&fixture.keys, exported, &fields, 9).await.unwrap();
    let ImportOutcome::Done(id) = imported else { panic!("{imported:?}") };
    assert_eq!(fixture.unfinished("a").await, Some(UnfinishedState::Dead(id)));
}

#[tokio::test]
async fn new_group_clears_retries_from_the_index_not_dead_letters() {
    let mut fixture = QueueFixture::consuming().await;
    let names: Vec<String> = (0..100).map(|n| format!("event {n}")).collect();
    let ids = fixture.deliver(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let dead = fixture.dead_letter_one(ids[0]).await;
    for id in &ids[1..] {
        fixture.retry_later(*id).await;
    }
    assert_eq!(fixture.index().await.len(), 100);
    fixture.redis::<()>(&["XGROUP", "DESTROY", &fixture.keys.incoming, "webhook-processors"]).await;
    assert_eq!(fixture.queue.create_group(&fixture.keys).await.unwrap(), GroupState::Created);
    assert_eq!(
        fixture.index().await,
        HashMap::from([("event 0".to_owned(), format!("dead:{dead}"))])
    );
}

#[tokio::test]
async fn entry_deleted_by_hand_leaves_the_index() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.retry_later(id).await;
    fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &id.to_string()]).await;
    assert_eq!(fixture.queue.promote_due(&fixture.keys, 1000, 10).await.unwrap().vanished, 1);
    assert!(fixture.index().await.is_empty());
}

#[tokio::test]
async fn entry_without_a_usable_id_is_not_in_the_index() {
    let mut fixture = QueueFixture::consuming().await;
    let long = "x".repeat(257);
    for fields in [&["v", "9"][..], &["event_id", ""], &["event_id", &long]] {
        let words = [&["XADD", &fixture.keys.incoming, "*"][..], fields].concat();
        fixture.redis::<String>(&words).await;
    }
    let ids: Vec<StreamId> = fixture.read_as(CONSUMER).await.iter().map(|entry| entry.id).collect();
    for id in ids {
        fixture.retry_later(id).await;
        fixture.queue.promote_due(&fixture.keys, 1000, 10).await.unwrap();
        let again = fixture.read_as(CONSUMER).await.remove(0).id;
        let dead = fixture.dead_letter_one(again).await;
        fixture.queue.replay(&fixture.keys, &[dead], 100, &BTreeMap::new()).await.unwrap();
    }
    assert!(fixture.index().await.is_empty());
}

#[tokio::test]
async fn foreign_reply_channel_is_ignored() {
    let mut fixture = QueueFixture::consuming().await;
    let given = [NewEvent { reply_to: Some("webhooks:reply:everybody".into()), ..event("a") }];
    fixture.enqueue(&UNLIMITED, &given).await;
    assert_eq!(decode(fixture.read_as(CONSUMER).await.remove(0)).unwrap().reply_to, None);
}

#[tokio::test]
async fn subscription_reconnects() {
    let mut fixture = QueueFixture::start().await;
    let channel = reply_channel(Uuid::new_v4());
    let mut waiter = ReplySubscription::open(&fixture, &channel).await;
    fixture.redis::<u64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    waiter.listening().await;
    assert_eq!(
        fixture
            .redis::<u64>(&[
                "PUBLISH",
                &channel,
                &reply("a", ReplyOutcome::Dead("x".into())).encode()
            ])
            .await,
        1
    );
    assert_eq!(waiter.message().await.event_id, "a");

    fixture.server.kill();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fixture.server.restart().await;
    waiter.listening().await;
    fixture
        .redis::<u64>(&["PUBLISH", &channel, &reply("b", ReplyOutcome::Dead("x".into())).encode()])
        .await;
    assert_eq!(waiter.message().await.event_id, "b");

    waiter.stop.cancel();
    poll::until("no channel has a subscriber", TEST_TIMEOUT, async || {
        match fixture.redis::<Vec<String>>(&["PUBSUB", "CHANNELS"]).await {
            none if none.is_empty() => Ok(()),
            left => Err(format!("{left:?}")),
        }
    })
    .await;
}
