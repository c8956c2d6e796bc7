//! Connections that come and go, and what their errors mean.

use std::time::Duration;

use shared::queue::{Enqueued, Fault, InvalidTarget, Layout, Queue, SettleOutcome, Settled, connect};
use tests::poll;

use crate::fixture::{CONSUMER, Fixture, OPEN, event, name};

#[tokio::test]
async fn scripts_are_loaded_again_when_redis_forgot_them() {
    let mut fixture = Fixture::consuming().await;
    for id in ["a", "b"] {
        fixture.redis::<()>(&["SCRIPT", "FLUSH"]).await;
        fixture.accept(&[id]).await;
    }
    let ids: Vec<_> = fixture.read_as(CONSUMER).await.iter().map(|entry| entry.id).collect();
    fixture.redis::<()>(&["SCRIPT", "FLUSH"]).await;
    let batch: Vec<_> = ids.iter().map(|id| Settled::new(*id, SettleOutcome::Processed)).collect();
    assert_eq!(fixture.queue.settle(&fixture.keys, &batch).await.unwrap(), [true, true]);
}

#[tokio::test]
async fn a_process_may_start_before_redis() {
    let mut fixture = Fixture::start().await;
    fixture.server.kill();
    let queue = Queue::new(Layout::Single, connect(&fixture.server.url().into(), false).unwrap());
    let fault = queue.enqueue(&fixture.keys, &OPEN, &[&event("a")]).await.unwrap_err();
    assert!(fault.certainly_not_run(), "{fault:?}");
    fixture.server.restart().await;
    answers(&queue).await;
}

#[tokio::test]
async fn calls_to_an_absent_redis_fail_fast_and_together() {
    let mut fixture = Fixture::start().await;
    fixture.server.kill();
    let queue = Queue::new(Layout::Single, connect(&fixture.server.url().into(), false).unwrap());
    let begin = std::time::Instant::now();
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.now().await })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap().unwrap_err().certainly_not_run());
    }
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_restarted_redis_is_found_again() {
    let mut fixture = Fixture::start().await;
    assert_eq!(fixture.enqueue(&OPEN, &[event("a")]).await, [Enqueued::Accepted]);
    let before = fixture.queue.connection().established();
    fixture.server.restart().await;
    answers(&fixture.queue).await;
    assert!(fixture.queue.connection().established() > before);
    fixture.accept(&["b"]).await;
    fixture.queue.create_group(&fixture.keys).await.unwrap();
    poll::until("the reader finds it too", Duration::from_secs(10), async || {
        let read =
            fixture.queue.read_new(&mut fixture.reader, &[&fixture.keys], CONSUMER, 10, Duration::ZERO).await;
        match read {
            Ok(read) if !read.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_refusal_while_connecting_is_not_for_ever() {
    let fixture = Fixture::start().await;
    // One connection holds the only place.
    let mut keeper = fixture.server.connection().await;
    redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(1).exec_async(&mut keeper).await.unwrap();
    let queue = Queue::new(Layout::Single, connect(&fixture.server.url().into(), false).unwrap());
    let fault = queue.now().await.unwrap_err();
    assert!(fault.certainly_not_run(), "{fault:?}");
    redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(100).exec_async(&mut keeper).await.unwrap();
    answers(&queue).await;
}

#[tokio::test]
async fn a_lost_reply_is_an_unknown_outcome() {
    let fixture = Fixture::start().await;
    fixture.accept(&["a"]).await;
    // Redis takes the command and does not answer in time, as a frozen one would.
    fixture.redis::<()>(&["CLIENT", "PAUSE", "4000", "ALL"]).await;
    let fault = fixture.queue.enqueue(&fixture.keys, &OPEN, &[&event("b")]).await.unwrap_err();
    assert!(matches!(fault, Fault::Unknown(_)), "{fault:?}");
    // It happened all the same, so the provider's retry is a duplicate.
    let outcome = poll::until("Redis answers again", Duration::from_secs(20), async || {
        let given = event("b");
        fixture.queue.enqueue(&fixture.keys, &OPEN, &[&given]).await.map_err(|fault| fault.to_string())
    })
    .await;
    assert_eq!(outcome, [Enqueued::Duplicate]);
    assert_eq!(fixture.length().await, 2);
}

#[tokio::test]
async fn a_script_on_a_key_of_another_type_is_refused() {
    let fixture = Fixture::start().await;
    fixture.redis::<()>(&["SET", &fixture.keys.dlq, "not a stream"]).await;
    let fault = fixture.queue.depth(&fixture.keys).await.unwrap_err();
    assert!(fault.is_wrong_type() && fault.certainly_not_run(), "{fault:?}");
}

#[tokio::test]
async fn a_password_is_in_no_error() {
    let fixture = Fixture::start().await;
    let url = format!("redis://:hunter2-secret@{}", fixture.server.address());
    let queue = Queue::new(Layout::Single, connect(&url.into(), false).unwrap());
    let fault = queue.now().await.unwrap_err();
    let text = format!("{fault} {fault:?} {:?} {queue:?}", fault.error());
    assert!(!text.contains("hunter2"), "{text}");
    let broken = connect(&"redis://:hunter2-secret@:port".to_owned().into(), false).unwrap_err();
    assert!(!format!("{broken} {broken:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_cluster_is_refused_before_anything_runs() {
    let refused = connect(&"redis://127.0.0.1:1".to_owned().into(), true).unwrap_err();
    assert!(matches!(refused, InvalidTarget::Cluster));
}

async fn answers(queue: &Queue) {
    poll::until("Redis answers", Duration::from_secs(10), async || {
        queue.register_platform(&name("mux")).await.map_err(|fault| format!("{fault:?}"))
    })
    .await;
}
