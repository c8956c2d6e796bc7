//! Tests of claims, hand-backs, suspects, consumer leases and consumer removal.

use std::time::Duration;

use shared::error_code::DeadLetterCode;
use shared::event::StreamId;
use shared::queue::{NewDeadLetter, SettleOutcome, Settled};
use tests::{pending_entries, poll};

use crate::fixture::{CONSUMER, OTHER, QueueFixture};

const MINUTE: Duration = Duration::from_secs(60);
const START: StreamId = StreamId { ms: 0, seq: 0 };

impl QueueFixture {
    async fn holder(&self, id: StreamId) -> (String, u64) {
        let id = id.to_string();
        let group = "webhook-processors";
        let held: Vec<(String, String, u64, u64)> =
            self.redis(&["XPENDING", &self.keys.incoming, group, &id, &id, "1"]).await;
        (held[0].1.clone(), held[0].3)
    }
}

#[tokio::test]
async fn own_pending_entries_are_read_page_by_page() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let first = fixture.queue.read_own_pending(&fixture.keys, CONSUMER, START, 2).await.unwrap();
    let rest = fixture.queue.read_own_pending(&fixture.keys, CONSUMER, ids[1], 2).await.unwrap();
    let read: Vec<_> = first.iter().chain(&rest).map(|entry| entry.id).collect();
    assert_eq!(read, ids);
    assert!(
        fixture
            .queue
            .read_own_pending(&fixture.keys, CONSUMER, ids[2], 2)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(
        fixture.queue.read_own_pending(&fixture.keys, OTHER, START, 2).await.unwrap().is_empty()
    );
}

#[tokio::test]
async fn claim_takes_idle_entries_and_counts_the_delivery() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    let none = fixture.queue.claim(&fixture.keys, OTHER, MINUTE, START, 10).await.unwrap();
    assert!(none.entries.is_empty());
    assert_eq!(none.cursor, START);

    let claimed =
        fixture.queue.claim(&fixture.keys, OTHER, Duration::ZERO, START, 10).await.unwrap();
    let counts: Vec<_> = claimed.entries.iter().map(|(entry, count)| (entry.id, *count)).collect();
    assert_eq!(counts, [(ids[0], 2), (ids[1], 2)]);
    assert!(claimed.entries.iter().all(|(entry, _)| entry.fields.is_some()));
    assert_eq!(fixture.queue.delivery_counts(&fixture.keys, CONSUMER, &ids).await.unwrap(), [0, 0]);
    assert_eq!(
        fixture.queue.delivery_counts(&fixture.keys, OTHER, &[ids[1], START]).await.unwrap(),
        [2, 0]
    );
}

#[tokio::test]
async fn claim_continues_at_its_cursor_and_reports_deleted_ids() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    fixture.redis::<()>(&["XDEL", &fixture.keys.incoming, &ids[1].to_string()]).await;
    let (mut cursor, mut claimed, mut deleted) = (START, Vec::new(), Vec::new());
    loop {
        let page =
            fixture.queue.claim(&fixture.keys, OTHER, Duration::ZERO, cursor, 1).await.unwrap();
        assert!(page.entries.len() <= 1);
        claimed.extend(page.entries.iter().map(|(entry, _)| entry.id));
        deleted.extend(page.deleted);
        cursor = page.cursor;
        if cursor == START {
            break;
        }
    }
    assert_eq!((claimed, deleted), (vec![ids[0], ids[2]], vec![ids[1]]));
    assert_eq!(fixture.pending().await, 2);
}

#[tokio::test]
async fn extended_claim_blocks_others_and_keeps_the_count() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    fixture.queue.hand_back(&fixture.keys, CONSUMER, &ids).await.unwrap();
    assert_eq!(
        fixture.queue.extend_claims(&fixture.keys, CONSUMER, &ids[..1]).await.unwrap(),
        [true]
    );
    let claimed = fixture.queue.claim(&fixture.keys, OTHER, MINUTE, START, 10).await.unwrap();
    assert_eq!(claimed.entries.iter().map(|(entry, _)| entry.id).collect::<Vec<_>>(), ids[1..]);
    assert_eq!(fixture.holder(ids[0]).await, (CONSUMER.into(), 1));
}

#[tokio::test]
async fn extend_claims_leaves_entries_of_other_consumers() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    fixture.queue.claim(&fixture.keys, OTHER, Duration::ZERO, START, 1).await.unwrap();
    fixture
        .queue
        .settle(&fixture.keys, &[Settled::new(ids[1], SettleOutcome::Processed)])
        .await
        .unwrap();
    for held in [
        fixture.queue.extend_claims(&fixture.keys, CONSUMER, &ids).await.unwrap(),
        fixture.queue.hand_back(&fixture.keys, CONSUMER, &ids).await.unwrap(),
    ] {
        assert_eq!(held, [false, false, true]);
    }
    assert_eq!(fixture.holder(ids[0]).await.0, OTHER);
}

#[tokio::test]
async fn hand_back_allows_a_claim_at_once_and_keeps_the_count() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    assert_eq!(fixture.queue.hand_back(&fixture.keys, CONSUMER, &ids).await.unwrap(), [true, true]);
    assert_eq!(fixture.holder(ids[0]).await, (CONSUMER.into(), 1));
    let claimed = fixture.queue.claim(&fixture.keys, OTHER, MINUTE, START, 10).await.unwrap();
    assert_eq!(claimed.entries.len(), 2);
    assert_eq!(fixture.holder(ids[0]).await, (OTHER.into(), 2), "only the claim counts");
}

#[tokio::test]
async fn suspect_is_counted_until_an_orderly_outcome() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["settled", "retried", "dead", "outage", "kept"]).await;
    for id in &ids {
        for run in 1..=2 {
            assert_eq!(
                fixture
                    .queue
                    .count_isolated_run(&fixture.keys, *id, uuid::Uuid::new_v4())
                    .await
                    .unwrap(),
                run
            );
        }
    }
    fixture
        .queue
        .settle(&fixture.keys, &[Settled::new(ids[0], SettleOutcome::Processed)])
        .await
        .unwrap();
    fixture
        .queue
        .schedule_retry(&fixture.keys, CONSUMER, &[crate::retry::retry(ids[1], 0)])
        .await
        .unwrap();
    let letter = NewDeadLetter {
        id: ids[2],
        error_code: DeadLetterCode::CrashLoop,
        error: String::new(),
        attempts: 1,
        first_failed_at: None,
        reply: None,
    };
    fixture.queue.dead_letter(&fixture.keys, CONSUMER, "w", &[letter], 10).await.unwrap();
    fixture.queue.clear_suspects(&fixture.keys, &ids[3..4]).await.unwrap();
    let left: Vec<String> = fixture.redis(&["HKEYS", &fixture.keys.suspects]).await;
    assert_eq!(left, [ids[4].to_string()]);
    assert_eq!(
        fixture
            .queue
            .count_isolated_run(&fixture.keys, ids[4], uuid::Uuid::new_v4())
            .await
            .unwrap(),
        3
    );
    assert_eq!(
        fixture
            .queue
            .count_isolated_run(&fixture.keys, ids[3], uuid::Uuid::new_v4())
            .await
            .unwrap(),
        1,
        "a cleared suspect is counted from the start"
    );
}

/// A stalled Redis may run a call whose reply timed out, and each repetition of it.
#[tokio::test]
async fn isolated_run_counts_once_for_a_repeated_call() {
    let mut fixture = QueueFixture::consuming().await;
    let id = fixture.deliver(&["a"]).await[0];
    let (first, second) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
    for (run, count) in [(first, 1), (first, 1), (first, 1), (second, 2), (second, 2)] {
        assert_eq!(fixture.queue.count_isolated_run(&fixture.keys, id, run).await.unwrap(), count);
    }
}

#[tokio::test]
async fn settled_entry_is_no_suspect() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a"]).await;
    fixture
        .queue
        .settle(&fixture.keys, &[Settled::new(ids[0], SettleOutcome::Processed)])
        .await
        .unwrap();
    assert_eq!(
        fixture
            .queue
            .count_isolated_run(&fixture.keys, ids[0], uuid::Uuid::new_v4())
            .await
            .unwrap(),
        0
    );
    assert_eq!(fixture.redis::<u64>(&["EXISTS", &fixture.keys.suspects]).await, 0);
}

#[tokio::test]
async fn lease_has_one_holder() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    assert!(queue.lease("host-1", "token-a", MINUTE).await.unwrap());
    assert!(!queue.lease("host-1", "token-b", MINUTE).await.unwrap());
    assert!(queue.lease("host-2", "token-b", MINUTE).await.unwrap());
    assert!(queue.lease("host-1", "token-a", MINUTE).await.unwrap(), "renewed");
    assert!(
        !queue.release_lease("host-1", "token-b").await.unwrap(),
        "token-b does not hold the lease"
    );
    assert!(queue.release_lease("host-1", "token-a").await.unwrap());
    assert!(queue.lease("host-1", "token-b", MINUTE).await.unwrap());
}

#[tokio::test]
async fn lease_expires_and_renewal_restarts_it() {
    let fixture = QueueFixture::start().await;
    let queue = &fixture.queue;
    assert!(queue.lease("host-1", "token-a", Duration::from_millis(50)).await.unwrap());
    assert!(queue.lease("host-1", "token-a", MINUTE).await.unwrap());
    assert!(fixture.redis::<i64>(&["PTTL", "webhooks:lease:host-1"]).await > 50_000);
    assert!(queue.lease("host-1", "token-a", Duration::from_millis(50)).await.unwrap());
    poll::until("the lease expires", Duration::from_secs(10), async || {
        if queue.lease("host-1", "token-b", MINUTE).await.unwrap() {
            Ok(())
        } else {
            Err("still held")
        }
    })
    .await;
}

#[tokio::test]
async fn reap_deletes_only_idle_consumers_without_entries() {
    let mut fixture = QueueFixture::consuming().await;
    fixture.accept(&["b"]).await;
    let finished = fixture.read_as(OTHER).await[0].id;
    fixture
        .queue
        .settle(&fixture.keys, &[Settled::new(finished, SettleOutcome::Processed)])
        .await
        .unwrap();
    fixture.deliver(&["a"]).await;
    assert_eq!(
        fixture.queue.reap_consumers(&fixture.keys, MINUTE).await.unwrap(),
        0,
        "the consumer was active just now"
    );
    let reaped =
        poll::until("an idle consumer is reaped", Duration::from_secs(10), async || match fixture
            .queue
            .reap_consumers(&fixture.keys, Duration::from_millis(20))
            .await
            .unwrap()
        {
            0 => Err("none reaped yet"),
            reaped => Ok(reaped),
        })
        .await;
    assert_eq!(reaped, 1);
    // The consumer with a pending entry remains, and so does its entry.
    assert_eq!(fixture.pending().await, 1);
    assert_eq!(
        fixture.queue.read_own_pending(&fixture.keys, CONSUMER, START, 10).await.unwrap().len(),
        1
    );
}

#[tokio::test]
async fn own_pending_ids_are_listed_without_a_delivery() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b", "c"]).await;
    let first = fixture.queue.own_pending_ids(&fixture.keys, CONSUMER, START, 2).await.unwrap();
    let rest = fixture.queue.own_pending_ids(&fixture.keys, CONSUMER, ids[1], 2).await.unwrap();
    assert_eq!([first, rest].concat(), ids);
    assert!(
        fixture.queue.own_pending_ids(&fixture.keys, OTHER, START, 2).await.unwrap().is_empty()
    );
    assert_eq!(
        fixture.queue.delivery_counts(&fixture.keys, CONSUMER, &ids).await.unwrap(),
        [1, 1, 1]
    );
    let one =
        fixture.queue.read_own_pending(&fixture.keys, CONSUMER, ids[1].before(), 1).await.unwrap();
    assert_eq!(one[0].id, ids[1], "a single entry can be read");
}

/// A clock step back leaves deliveries with a time in the future.
#[tokio::test]
async fn entry_delivered_in_the_future_can_be_claimed() {
    let mut fixture = QueueFixture::consuming().await;
    let ids = fixture.deliver(&["a", "b"]).await;
    pending_entries::move_delivery_into_future(
        &fixture.server,
        &fixture.keys.incoming,
        CONSUMER,
        &ids,
    )
    .await;

    let claim = async || {
        fixture
            .queue
            .claim(&fixture.keys, OTHER, Duration::from_millis(20), START, 10)
            .await
            .unwrap()
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert!(claim().await.entries.is_empty(), "the idle time stays 0 until it is reset");

    fixture.queue.reset_idle(&fixture.keys).await.unwrap();
    let claimed =
        poll::until("both entries can be claimed", MINUTE, async || match claim().await.entries {
            entries if entries.len() == 2 => Ok(entries),
            entries => Err(entries.len()),
        });
    let claimed = claimed.await;
    assert_eq!(claimed[0].1, 2, "only the claim counts as a delivery");
}
