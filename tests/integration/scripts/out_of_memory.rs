//! Tests of Redis at `maxmemory`: new events are refused, and transitions that free memory work.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::error_code::DeadLetterCode;
use shared::event::StreamId;
use shared::queue::{
    ChangeOutcome, DeadLettered, Enqueued, GroupState, ImportOutcome, NewDeadLetter,
    RegistrationChange, Replayed, SettleOutcome, Settled,
};

use crate::fixture::{CONSUMER, OTHER, QueueFixture, UNLIMITED, event, name};

impl QueueFixture {
    async fn fill(&self) {
        self.redis::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let mut connection = self.server.connection().await;
        let refused: redis::RedisError =
            redis::cmd("SET").arg("x").arg("y").exec_async(&mut connection).await.unwrap_err();
        assert_eq!(refused.code(), Some("OOM"), "Redis is full");
    }
}

#[tokio::test]
async fn full_redis_refuses_only_new_events() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["settled", "retried", "dead", "held", "suspect"]).await;
    fixture.fill().await;
    let (queue, keys) = (fixture.queue.clone(), fixture.keys.clone());

    let fault = queue.enqueue(&keys, &UNLIMITED, &[&event("new")]).await.unwrap_err();
    assert!(fault.is_out_of_memory() && fault.certainly_not_run(), "{fault:?}");

    assert_eq!(
        queue.settle(&keys, &[Settled::new(ids[0], SettleOutcome::Processed)]).await.unwrap(),
        [true]
    );
    assert_eq!(
        queue.schedule_retry(&keys, CONSUMER, &[crate::retry::retry(ids[1], 0)]).await.unwrap(),
        [true]
    );
    assert_eq!(queue.promote_due(&keys, 1000, 10).await.unwrap().moved, 1);
    let letter = NewDeadLetter {
        id: ids[2],
        error_code: DeadLetterCode::InvalidEvent,
        error: "no".into(),
        attempts: 1,
        first_failed_at: None,
        reply: None,
    };
    let outcome = queue.dead_letter(&keys, CONSUMER, "w", &[letter], 10).await.unwrap();
    assert_eq!(outcome, [DeadLettered::Done]);
    assert_eq!(queue.extend_claims(&keys, CONSUMER, &ids[3..4]).await.unwrap(), [true]);
    assert_eq!(queue.hand_back(&keys, CONSUMER, &ids[3..4]).await.unwrap(), [true]);
    assert_eq!(queue.delivery_counts(&keys, CONSUMER, &ids[3..4]).await.unwrap(), [1]);
    let claimed =
        queue.claim(&keys, OTHER, Duration::from_secs(60), StreamId::default(), 10).await.unwrap();
    assert_eq!(claimed.entries.len(), 1);
    assert_eq!(queue.count_isolated_run(&keys, ids[4], uuid::Uuid::new_v4()).await.unwrap(), 1);
    queue.clear_suspects(&keys, &ids[4..]).await.unwrap();
    queue.sweep_orphans_older_than(&keys, None, 0).await.unwrap();
    queue.reap_consumers(&keys, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(queue.create_group(&queue.keys(&name("acme"))).await.unwrap(), GroupState::Created);
    assert!(queue.lease("host-1", "token", Duration::from_secs(60)).await.unwrap());
    assert!(queue.release_lease("host-1", "token").await.unwrap());
    let pause = RegistrationChange::Pause(name("mux"), Some(true));
    assert!(matches!(
        queue.change_registrations(None, &[pause]).await.unwrap(),
        ChangeOutcome::Done(_)
    ));
    assert_eq!(queue.put_meta_if_absent("layout", "single").await.unwrap(), "single");
    assert_eq!(queue.depth(&keys).await.unwrap().dead_letters, 1);

    let dead = queue.dead_letters(&keys, None, 10).await.unwrap()[0].id;
    let replayed = queue.replay(&keys, &[dead], 1000, &BTreeMap::new()).await.unwrap();
    assert!(matches!(replayed[..], [Replayed::Done(_)]));
    assert_eq!(fixture.read_as(CONSUMER).await.len(), 2, "the retry and the replay are delivered");
}

#[tokio::test]
async fn event_refused_by_a_full_redis_can_be_sent_again() {
    let fixture = QueueFixture::start().await;
    fixture.fill().await;
    fixture.queue.enqueue(&fixture.keys, &UNLIMITED, &[&event("a")]).await.unwrap_err();
    fixture.redis::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(
        fixture.enqueue(&UNLIMITED, &[event("a")]).await,
        [Enqueued::Accepted],
        "no marker was left behind"
    );
}

#[tokio::test]
async fn purge_works_on_a_full_redis() {
    let fixture = QueueFixture::start().await;
    let fields = vec![(b"event_id".to_vec(), b"a".to_vec())];
    let exported = StreamId { ms: 1, seq: 1 };
    let imported =
        fixture.queue.import_dead_letter(&fixture.keys, exported, &fields, 9).await.unwrap();
    let ImportOutcome::Done(id) = imported else { panic!("{imported:?}") };
    fixture.fill().await;
    let digest = Some(shared::event::marker_digest("mux", "a"));
    assert_eq!(fixture.queue.purge(&fixture.keys, &[(id, digest)]).await.unwrap(), [true]);
}
