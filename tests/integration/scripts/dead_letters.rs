//! Tests of dead letters: dead-letter, replay, purge, export and import.

use std::collections::BTreeMap;

use shared::error_code::DeadLetterCode;
use shared::event::{EventTime, NewEvent, StreamId, marker_digest};
use shared::queue::{
    DeadLetter, DeadLettered, Enqueued, ImportOutcome, NewDeadLetter, Replayed, decode,
};

use crate::fixture::{CONSUMER, OTHER, QueueFixture, UNLIMITED, event, field, name};

fn new_dead_letter(id: StreamId) -> NewDeadLetter {
    NewDeadLetter {
        id,
        error_code: DeadLetterCode::StoreRejected,
        error: "the row was refused".into(),
        attempts: 5,
        first_failed_at: None,
        reply: None,
    }
}

impl QueueFixture {
    async fn dead_letter_ids(&self, ids: &[StreamId]) -> Vec<DeadLettered> {
        let letters: Vec<_> = ids.iter().map(|id| new_dead_letter(*id)).collect();
        self.queue.dead_letter(&self.keys, CONSUMER, "host-1", &letters, 1000).await.unwrap()
    }

    async fn dead_letters(&self) -> Vec<DeadLetter> {
        let entries = self.queue.dead_letters(&self.keys, None, 1000).await.unwrap();
        entries.into_iter().map(|entry| DeadLetter::decode(&name("mux"), entry)).collect()
    }
}

#[tokio::test]
async fn dead_letter_holds_the_event_and_the_reason() {
    let mut fixture = QueueFixture::consuming().await;
    let before = fixture.queue.now().await.unwrap();
    let id = fixture.deliver(&["a"]).await[0];
    assert_eq!(fixture.dead_letter_ids(&[id]).await, [DeadLettered::Done]);
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.pending, depth.dead_letters), (0, 0, 1));
    assert_eq!(fixture.counter("dead_lettered").await, 1);

    let letter = fixture.dead_letters().await.remove(0);
    assert_eq!(letter.event_id.as_deref(), Some("a"));
    assert_eq!(letter.body.as_ref().map(|body| &body.0), Some(&event("a").body));
    assert_eq!((letter.origin, letter.source_id, letter.replays), (Some(id), Some(id), 0));
    assert_eq!((letter.error_code.as_deref(), letter.attempts), (Some("store_rejected"), Some(5)));
    assert_eq!((letter.worker.as_deref(), letter.v), (Some("host-1"), Some(1)));
    assert!(letter.failed_at.unwrap() >= before);
    assert_eq!(letter.first_failed_at, letter.failed_at, "this is the first failure");
    assert!(letter.extra.is_empty(), "{:?}", letter.extra);
}

#[tokio::test]
async fn dead_letter_keeps_the_time_of_the_first_failure() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    let retry = shared::queue::Retry { first_failed_at: Some(77), ..crate::retry::retry(id, 0) };
    fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry]).await.unwrap();
    fixture.queue.promote_due(&fixture.keys, 1000, 100).await.unwrap();
    let again = fixture.read_as(CONSUMER).await[0].id;
    fixture.dead_letter_ids(&[again]).await;
    let letter = fixture.dead_letters().await.remove(0);
    assert_eq!(
        (letter.first_failed_at, letter.source_id, letter.origin),
        (Some(77), Some(again), Some(id))
    );
    assert_eq!(
        letter.error.as_deref(),
        Some("the row was refused"),
        "the error of the last failure, once"
    );
    assert!(letter.extra.is_empty(), "{:?}", letter.extra);
}

#[tokio::test]
async fn deleted_pending_entry_is_not_dead_lettered() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &id.to_string()]).await;
    assert_eq!(fixture.dead_letter_ids(&[id]).await, [DeadLettered::Gone]);
    assert!(fixture.dead_letters().await.is_empty(), "no fields are left to keep");
    assert_eq!(fixture.counter("dead_lettered").await, 0);
}

#[tokio::test]
async fn dead_letter_clears_every_trace_of_the_entry() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.queue.count_isolated_run(&fixture.keys, id, uuid::Uuid::new_v4()).await.unwrap();
    // Setting the group back delivers an entry again while it waits for a retry.
    fixture.redis::<()>(&["ZADD", &fixture.keys.retry, "0", &id.to_string()]).await;
    fixture.redis::<()>(&["HSET", &fixture.keys.failures, &id.to_string(), "{}"]).await;
    assert_eq!(fixture.dead_letter_ids(&[id]).await, [DeadLettered::Done]);
    for key in [&fixture.keys.retry, &fixture.keys.failures, &fixture.keys.suspects] {
        assert_eq!(fixture.redis::<u64>(&["EXISTS", key]).await, 0, "{key}");
    }
}

#[tokio::test]
async fn undecodable_entry_keeps_its_raw_fields() {
    let mut fixture = QueueFixture::consuming().await;
    let mut connection = fixture.server.connection().await;
    let id: String = redis::cmd("XADD")
        .arg(&fixture.keys.incoming)
        .arg("*")
        .arg(b"\xff\x00name")
        .arg(b"\xfe\x00value")
        .arg("again")
        .arg("1")
        .arg("again")
        .arg("2")
        .query_async(&mut connection)
        .await
        .unwrap();
    fixture.read_as(CONSUMER).await;
    assert_eq!(fixture.dead_letter_ids(&[id.parse().unwrap()]).await, [DeadLettered::Done]);
    let pair = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    let extra = fixture.dead_letters().await.remove(0).extra;
    assert_eq!(
        extra,
        [pair(b"\xff\x00name", b"\xfe\x00value"), pair(b"again", b"1"), pair(b"again", b"2")]
    );
}

#[tokio::test]
async fn entry_with_too_many_fields_is_kept_packed() {
    let mut fixture = QueueFixture::consuming().await;
    let mut add = redis::cmd("XADD");
    add.arg(&fixture.keys.incoming).arg("*");
    for n in 0..5000 {
        add.arg(format!("f{n}")).arg("x");
    }
    let id: String = add.query_async(&mut fixture.server.connection().await).await.unwrap();
    fixture.read_as(CONSUMER).await;
    assert_eq!(fixture.dead_letter_ids(&[id.parse().unwrap()]).await, [DeadLettered::Done]);
    let extra = fixture.dead_letters().await.remove(0).extra;
    assert_eq!(extra.len(), 1);
    assert!(extra[0].1.len() > 5000 * 5, "every field is kept");
}

#[tokio::test]
async fn dead_letter_beyond_the_bound_changes_nothing() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let letters: Vec<_> = ids.iter().map(|id| new_dead_letter(*id)).collect();
    let outcomes =
        fixture.queue.dead_letter(&fixture.keys, CONSUMER, "w", &letters, 2).await.unwrap();
    assert_eq!(outcomes, [DeadLettered::Done, DeadLettered::Done, DeadLettered::Full]);
    let depth = fixture.queue.depth(&fixture.keys).await.unwrap();
    assert_eq!((depth.length, depth.pending, depth.dead_letters), (1, 1, 2));
    // The caller can still schedule a retry.
    let retry = crate::retry::retry(ids[2], 1000);
    assert_eq!(
        fixture.queue.schedule_retry(&fixture.keys, CONSUMER, &[retry]).await.unwrap(),
        [true]
    );
}

#[tokio::test]
async fn entry_of_another_consumer_is_left_alone() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    let other = fixture
        .queue
        .dead_letter(&fixture.keys, OTHER, "w", &[new_dead_letter(id)], 1000)
        .await
        .unwrap();
    assert_eq!(other, [DeadLettered::Gone]);
    assert_eq!((fixture.length().await, fixture.pending().await), (1, 1));
    assert_eq!(fixture.dead_letter_ids(&[id, id]).await, [DeadLettered::Done, DeadLettered::Gone]);
    assert_eq!(fixture.dead_letters().await.len(), 1);
}

#[tokio::test]
async fn replay_resets_attempts_and_keeps_the_origin() {
    let mut fixture = QueueFixture::consuming().await;
    let hour_ago = fixture.queue.now().await.unwrap() - 3_600_000;
    fixture
        .enqueue(&UNLIMITED, &[NewEvent { occurred_at: EventTime::Known(hour_ago), ..event("a") }])
        .await;
    let origin = fixture.read_as(CONSUMER).await[0].id;
    let mut id = origin;
    for replays in 1..=2 {
        let letter = NewDeadLetter { first_failed_at: Some(77), ..new_dead_letter(id) };
        fixture.queue.dead_letter(&fixture.keys, CONSUMER, "w", &[letter], 1000).await.unwrap();
        let dead = fixture.dead_letters().await.remove(0);
        let replayed =
            fixture.queue.replay(&fixture.keys, &[dead.id], 1000, &BTreeMap::new()).await.unwrap();
        let Replayed::Done(new) = replayed[0] else { panic!("{replayed:?}") };
        assert!(fixture.dead_letters().await.is_empty());
        let entry = fixture.read_as(CONSUMER).await.remove(0);
        assert_eq!(entry.id, new);
        let envelope = decode(entry).unwrap();
        assert_eq!((envelope.attempt, envelope.replays, envelope.origin), (1, replays, origin));
        assert_eq!(envelope.occurred_at, hour_ago, "a replay keeps the event time");
        assert_eq!((envelope.first_failed_at, envelope.body), (None, event("a").body));
        let (_, fields) = fixture.fields(&fixture.keys.incoming).await.remove(0);
        for gone in [
            "error_code",
            "error",
            "attempts",
            "first_failed_at",
            "failed_at",
            "worker",
            "source_id",
        ] {
            assert_eq!(field(&fields, gone), None, "{gone}");
        }
        id = new;
    }
    assert_eq!(fixture.counter("replayed").await, 2);
}

/// Redis does not roll scripts back, so a move writes to its target before it deletes its source.
#[tokio::test]
async fn forbidden_dead_letter_or_replay_moves_nothing() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture.dead_letter_ids(&ids[..1]).await;
    let dead = fixture.dead_letters().await[0].id;
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "-xadd"]).await;
    fixture
        .queue
        .dead_letter(&fixture.keys, CONSUMER, "w", &[new_dead_letter(ids[1])], 1000)
        .await
        .unwrap_err();
    fixture.queue.replay(&fixture.keys, &[dead], 1000, &BTreeMap::new()).await.unwrap_err();
    assert_eq!(
        (fixture.length().await, fixture.pending().await, fixture.dead_letters().await.len()),
        (1, 1, 1)
    );
    fixture.redis::<()>(&["ACL", "SETUSER", "default", "+xadd"]).await;
    assert_eq!(fixture.dead_letter_ids(&ids[1..]).await, [DeadLettered::Done]);
}

#[tokio::test]
async fn replay_ignores_and_keeps_the_dedup_marker() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.dead_letter_ids(&[id]).await;
    let dead = fixture.dead_letters().await[0].id;
    let replayed =
        fixture.queue.replay(&fixture.keys, &[dead], 1000, &BTreeMap::new()).await.unwrap();
    assert!(matches!(replayed[0], Replayed::Done(_)));
    assert_eq!(fixture.enqueue(&UNLIMITED, &[event("a")]).await, [Enqueued::Duplicate]);
}

#[tokio::test]
async fn replay_pauses_at_its_bound_and_runs_once_per_id() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture.dead_letter_ids(&ids).await;
    fixture.accept(&["new"]).await;
    let dead: Vec<StreamId> = fixture.dead_letters().await.iter().map(|one| one.id).collect();
    let batch = [dead[0], dead[0], dead[1]];
    let replayed = fixture.queue.replay(&fixture.keys, &batch, 2, &BTreeMap::new()).await.unwrap();
    assert!(
        matches!(replayed[..], [Replayed::Done(_), Replayed::Gone, Replayed::Paused]),
        "{replayed:?}"
    );
    assert_eq!((fixture.length().await, fixture.dead_letters().await.len()), (2, 1));
}

#[tokio::test]
async fn replay_with_edits_replaces_and_adds_fields() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.dead_letter_ids(&[id]).await;
    let dead = fixture.dead_letters().await[0].id;
    let edit = BTreeMap::from([
        ("body".to_owned(), b"\xffnew".to_vec()),
        ("edited".to_owned(), b"1".to_vec()),
    ]);
    fixture.queue.replay(&fixture.keys, &[dead], 1000, &edit).await.unwrap();
    let entry = fixture.read_as(CONSUMER).await.remove(0);
    let fields = entry.fields.as_ref().unwrap().to_fields();
    assert!(fields.contains(&(b"edited".to_vec(), b"1".to_vec())));
    let envelope = decode(entry).unwrap();
    assert_eq!(
        (&envelope.body[..], envelope.event_id.as_str(), envelope.origin),
        (&b"\xffnew"[..], "a", id)
    );
}

#[tokio::test]
async fn purge_lets_the_provider_send_the_event_again() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture.dead_letter_ids(&ids[..1]).await;
    let dead = fixture.dead_letters().await[0].id;
    let digest = |id| Some(marker_digest("mux", id));
    // The second id is not a dead letter, so its marker stays.
    let batch = [(dead, digest("a")), (ids[1], digest("b")), (dead, None)];
    assert_eq!(fixture.queue.purge(&fixture.keys, &batch).await.unwrap(), [true, false, false]);
    assert_eq!(
        fixture.enqueue(&UNLIMITED, &[event("a"), event("b")]).await,
        [Enqueued::Accepted, Enqueued::Duplicate]
    );
}

#[tokio::test]
async fn dead_letters_are_found_by_page_and_by_id() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    fixture.dead_letter_ids(&ids).await;
    let first = fixture.queue.dead_letters(&fixture.keys, None, 2).await.unwrap();
    let rest = fixture.queue.dead_letters(&fixture.keys, Some(first[1].id), 2).await.unwrap();
    assert_eq!((first.len(), rest.len()), (2, 1));
    let found = fixture.queue.find_dead_letter(&fixture.keys, rest[0].id).await.unwrap();
    assert_eq!(found.as_ref(), Some(&rest[0]));
    assert_eq!(fixture.queue.find_dead_letter(&fixture.keys, ids[0]).await.unwrap(), None);
}

#[tokio::test]
async fn imported_dead_letter_equals_the_exported_one() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    fixture.dead_letter_ids(&[id]).await;
    let exported = fixture.queue.dead_letters(&fixture.keys, None, 10).await.unwrap().remove(0);
    fixture.queue.purge(&fixture.keys, &[(exported.id, None)]).await.unwrap();
    let fields = exported.fields.unwrap();
    let given = fields.to_fields();
    let imported =
        fixture.queue.import_dead_letter(&fixture.keys, exported.id, &given, 9).await.unwrap();
    let ImportOutcome::Done(new) = imported else { panic!("{imported:?}") };
    let found = fixture.queue.find_dead_letter(&fixture.keys, new).await.unwrap().unwrap();
    assert_eq!(found.fields, Some(fields));
}
