//! `DURABILITY=strict`: nothing is promised by a Redis or a database that may forget it.

use std::time::Duration;

use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{ACME_SECRET, MUX_SECRET, content_event, mux_event, now, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack};

use crate::WAIT_LIMIT;

fn event(platform: &str) -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic(platform, ACME_SECRET, body.as_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_durability_refuses_a_non_durable_database() {
    // The shared PostgreSQL of the tests runs with `fsync` off.
    let stack = Stack::builder()
        .database(DatabaseKind::Postgres)
        .redis(RedisOptions::durable())
        .servers()
        .await;
    let finished = stack.worker_program().0.env("DURABILITY", "strict").run(WAIT_LIMIT).await;
    let text = format!("{}{}", finished.stdout, finished.stderr);
    assert_eq!(finished.code, Some(2), "{text}");
    assert!(text.contains("DATABASE_URL") && text.contains("fsync"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_durability_refuses_a_non_durable_redis() {
    let mut stack = Stack::builder().env("DURABILITY", "strict").servers().await;
    stack.spawn_ingress();
    stack.ingresses[0].health("/live", 200, WAIT_LIMIT).await;
    stack.ingresses[0].health("/ready", 503, WAIT_LIMIT).await;
    stack.ingresses[0].listening(WAIT_LIMIT).await;
    let body = mux_event(&unique("event"), "created", None, "ls", now_ms()).to_string();
    let answer = stack.sender().send(&sign::mux(MUX_SECRET, now(), body.as_bytes())).await;
    answer.expect_error(503, "E_WEBHOOK_QUEUE_ERROR");
    assert_eq!(stack.unfinished("mux").await, 0);
}

/// A new connection may reach another Redis. Nothing is accepted on it before its settings are
/// checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_durability_is_checked_on_every_connection() {
    let stack = Stack::builder()
        .workers(0)
        .redis(RedisOptions::durable())
        .env("DURABILITY", "strict")
        .start()
        .await;
    let sender = stack.sender();
    sender.send(&event("acme")).await.expect(202, "accepted");
    let (): () = stack.redis.command(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    let _: usize =
        stack.redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    poll::throughout("nothing is accepted", Duration::from_secs(4), async || {
        let answer = sender.send(&event("acme")).await;
        if answer.status == 503 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    // Events sent on the new connection before the check are queued but not accepted.
    assert!(stack.unfinished("acme").await <= 2);
    let (): () = stack.redis.command(&["CONFIG", "SET", "appendfsync", "always"]).await;
    let _: usize =
        stack.redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    poll::until("events are accepted again", WAIT_LIMIT, async || {
        let answer = sender.send(&event("acme")).await;
        if answer.status == 202 { Ok(()) } else { Err(answer.text) }
    })
    .await;
}
