//! SIGTERM: processes finish or hand back their entries, wait for no timeout and exit with 0.

use std::time::{Duration, Instant};

use tests::database::ExclusiveLock;
use tests::ledger::{AcceptanceLog, EventPlace};
use tests::sender::{ACME_SECRET, content_event, now_ms, unique};
use tests::sign;
use tests::stack::{DatabaseKind, ServerProcess, Stack};
use tests::{pending_entries, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::WAIT_LIMIT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_worker_finishes_or_hands_back_its_entries() {
    // No worker could claim an abandoned entry within this test, so it ends only if entries are
    // handed back.
    let mut stack = Stack::builder().workers(0).worker_env("CLAIM_IDLE_MS", "600000").start().await;
    let ledger = AcceptanceLog::default();
    for _ in 0..400 {
        let answer =
            stack.sender().acme(&content_event("content_added", &unique("c"), "t", now_ms())).await;
        answer.expect(202, "accepted");
        ledger.record("acme", &answer);
    }
    for round in 0..3 {
        stack.spawn_worker();
        let before = stack.database.count("webhook_events").await;
        let busy = Instant::now();
        while stack.database.count("webhook_events").await == before && busy.elapsed() < WAIT_LIMIT
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stack.workers[round].process.terminate();
        let status = stack.workers[round].process.wait_until_ended(Duration::from_secs(10)).await;
        assert_eq!(status.code(), Some(0), "log:\n{}", stack.workers[round].process.tail());
        for _ in 0..100 {
            let answer = stack
                .sender()
                .acme(&content_event("content_added", &unique("c"), "t", now_ms()))
                .await;
            answer.expect(202, "accepted");
            ledger.record("acme", &answer);
        }
    }
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(ledger.check(&stack).await[&EventPlace::Database], 700);
}

/// Without the database the entry cannot be finished. Another worker with another name can read it
/// at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_entries_are_handed_back_at_shutdown() {
    let mut stack = Stack::builder().worker_env("CLAIM_IDLE_MS", "600000").start().await;
    let lock = ExclusiveLock::take(&stack.database).await;
    for _ in 0..50 {
        stack
            .sender()
            .acme(&content_event("content_added", &unique("c"), "t", now_ms()))
            .await
            .expect(202, "accepted");
    }
    let pending = async || {
        let stream = "webhooks:incoming:acme";
        let found: Vec<(String, String, i64, i64)> =
            stack.redis.command(&["XPENDING", stream, "webhook-processors", "-", "+", "100"]).await;
        found
    };
    poll::until("the worker holds some", WAIT_LIMIT, async || {
        if pending().await.is_empty() { Err("none") } else { Ok(()) }
    })
    .await;
    stack.workers[0].process.terminate();
    let status = stack.workers[0].process.wait_until_ended(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0), "log:\n{}", stack.workers[0].process.tail());
    let left = pending().await;
    assert!(!left.is_empty(), "nothing could be finished");
    assert!(
        left.iter().all(|(_, _, idle, deliveries)| *idle >= 600_000 && *deliveries <= 1),
        "{left:?}"
    );
    lock.release().await;
    let (program, ops) = stack.worker_program();
    stack.workers.push(ServerProcess {
        process: program.env("WORKER_NAME", "other").spawn(),
        url: ops.clone(),
        ops,
    });
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 50);
}

/// The grace period ends during an isolated run of a suspect. A stop is not a crash and is not
/// counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_stopped_during_a_suspect_has_not_crashed() {
    let stack = Stack::builder()
        .database(DatabaseKind::Postgres)
        .worker_env("SHUTDOWN_GRACE_MS", "4000")
        .start()
        .await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger AS $$ BEGIN PERFORM pg_sleep(9); \
        RETURN NEW; END $$ LANGUAGE plpgsql;
                CREATE TRIGGER slow BEFORE INSERT ON contents FOR EACH ROW EXECUTE FUNCTION slow()";
    stack.database.execute(slow).await;
    let (now, body) =
        (now_ms().to_string(), content_event("content_added", "c", "t", now_ms()).to_string());
    let fields = [
        "v",
        "1",
        "event_id",
        "suspect",
        "event_type",
        "content_added",
        "occurred_at",
        &now,
        "received_at",
    ];
    let fields = [&fields[..], &[&now, "attempt", "1", "origin", "1-1", "body", &body]].concat();
    pending_entries::add_suspect_entry(&stack.redis, "webhooks:incoming:acme", &fields).await;
    let suspects = async || stack.redis.command::<usize>(&["HLEN", "webhooks:suspects:acme"]).await;
    poll::until("the suspect runs in isolation", WAIT_LIMIT, async || {
        if suspects().await == 1 { Ok(()) } else { Err("not yet") }
    })
    .await;
    stack.workers[0].process.terminate();
    stack.workers[0].process.wait_until_ended(Duration::from_secs(10)).await;
    assert_eq!((suspects().await, stack.unfinished("acme").await), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_worker_stops_at_once_and_obeys_a_second_signal() {
    let stack = Stack::builder().start().await;
    let started_at = Instant::now();
    stack.workers[0].process.interrupt();
    assert_eq!(
        stack.workers[0].process.wait_until_ended(Duration::from_secs(5)).await.code(),
        Some(0)
    );
    assert!(started_at.elapsed() < Duration::from_secs(4), "{:?}", started_at.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_ingress_answers_requests_in_flight() {
    let stack = Stack::builder().workers(0).start().await;
    let ingress = &stack.ingresses[0];
    let body = content_event("content_added", "c", "t", now_ms()).to_string();
    let signed = sign::generic("acme", ACME_SECRET, body.as_bytes());
    let signature = signed.value("x-webhook-signature");
    let head = format!(
        "POST /webhook/acme HTTP/1.1\r\nhost: x\r\nx-webhook-signature: {signature}\r\n\
        content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(ingress.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body.as_bytes()[..10]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    ingress.process.terminate();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(ingress.process.is_running(), "ingress waits for requests in flight");
    assert_ne!(ingress.probe("/ready").await, Some(200), "no longer ready");
    stream.write_all(&body.as_bytes()[10..]).await.unwrap();
    let mut answer = vec![0; 4096];
    let length = tokio::time::timeout(WAIT_LIMIT, stream.read(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    drop(stream);
    assert_eq!(ingress.process.wait_until_ended(Duration::from_secs(8)).await.code(), Some(0));
    assert_eq!(stack.unfinished("acme").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_request_does_not_prevent_the_shutdown() {
    let stack = Stack::builder().workers(0).env("SHUTDOWN_GRACE_MS", "1000").start().await;
    let ingress = &stack.ingresses[0];
    let mut stream = TcpStream::connect(ingress.url.trim_start_matches("http://")).await.unwrap();
    stream
        .write_all(b"POST /webhook/acme HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started_at = Instant::now();
    ingress.process.terminate();
    ingress.process.wait_until_ended(Duration::from_secs(6)).await;
    assert!(started_at.elapsed() < Duration::from_secs(5), "{:?}", started_at.elapsed());
}
