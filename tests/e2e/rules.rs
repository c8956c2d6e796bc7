//! Holes of which each is closed by one line somewhere, and that nothing else would notice.

use std::time::Duration;

use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{ACME_SECRET, content_event, now_ms, unique};
use tests::sign::{self, Signed};
use tests::stack::{Kind, Stack};

use crate::SOON;

fn event(platform: &str) -> Signed {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic(platform, ACME_SECRET, body.as_bytes())
}

/// The flood shield does not speak for Redis: while that is away, nobody can know that a limit is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_a_flood_is_told_of_the_outage_and_not_of_a_limit() {
    let toml = "[platforms.slow]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 1\nburst = 1\n";
    let mut stack = Stack::builder().workers(0).platforms(toml).start().await;
    let sender = stack.sender();
    stack.redis.kill();
    stack.ingresses[0].health("/ready", 503, SOON).await;
    for _ in 0..60 {
        sender.send(&event("slow")).await.expect_error(503, "E_WEBHOOK_QUEUE_ERROR");
    }
    // And none of them was counted.
    stack.redis.restart().await;
    stack.ingresses[0].ready(SOON).await;
    sender.send(&event("slow")).await.expect(202, "accepted");
    sender.send(&event("slow")).await.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
}

/// One event three times in the queue, read as one batch: it takes effect once, and all three are finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_in_one_batch_are_one_event_and_all_are_finished() {
    let mut stack = Stack::builder().workers(0).start().await;
    let (sender, signed) = (stack.sender(), event("acme"));
    for _ in 0..3 {
        sender.send(&signed).await.expect(202, "accepted");
        // As if it had expired.
        let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
        let _: usize = stack.redis.command(&["DEL", &markers[0]]).await;
    }
    sender.send(&event("acme")).await.expect(202, "accepted");
    assert_eq!(stack.unfinished("acme").await, 4);
    stack.add_worker().await;
    stack.drained(SOON).await;
    assert_eq!(stack.database.count("webhook_events").await, 2);
    assert_eq!(stack.dead("acme").await, 0);
    let role = &stack.workers[0];
    poll::until("each is counted as what it was", SOON, async || {
        let of = async |outcome: &str| role.metric("webhook_events_total", &["acme", outcome]).await;
        match (of("processed").await, of("duplicate").await) {
            (2.0, 2.0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
}

/// Identical bodies of a sender whose events have neither id nor time, and may repeat, are separate events for the ledger,
/// too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_repeat_takes_effect_each_time() {
    let toml = "[platforms.bell]\nsecrets = [\"env:ACME_SECRET\"]\n\
                event = { type = \"/kind\", time = false, repeatable = true, schema = false }\n";
    let stack = Stack::builder().platforms(toml).start().await;
    let signed = sign::generic("bell", ACME_SECRET, br#"{"kind":"ring"}"#);
    for _ in 0..3 {
        stack.sender().send(&signed).await.expect(202, "accepted");
    }
    stack.drained(SOON).await;
    assert_eq!(stack.database.count("webhook_events WHERE platform = 'bell'").await, 3);
}

/// Another connection may lead to another Redis: nothing is promised on it before its settings were read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_durability_is_looked_at_again_with_every_connection() {
    let stack =
        Stack::builder().workers(0).redis(RedisOptions::durable()).env("DURABILITY", "strict").start().await;
    let sender = stack.sender();
    sender.send(&event("acme")).await.expect(202, "accepted");
    let (): () = stack.redis.command(&["CONFIG", "SET", "appendfsync", "everysec"]).await;
    let _: usize = stack.redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    poll::throughout("nothing is accepted", Duration::from_secs(4), async || {
        let answer = sender.send(&event("acme")).await;
        if answer.status == 503 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    // What went over the new connection before anybody knew is queued, and is not promised.
    assert!(stack.unfinished("acme").await <= 2);
    let (): () = stack.redis.command(&["CONFIG", "SET", "appendfsync", "always"]).await;
    let _: usize = stack.redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    poll::until("it is accepted again", SOON, async || {
        let answer = sender.send(&event("acme")).await;
        if answer.status == 202 { Ok(()) } else { Err(answer.text) }
    })
    .await;
}

/// SQLite's write-ahead log grows for as long as somebody reads without end, and nothing else would tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_of_sqlite_s_log_is_shown() {
    let stack = Stack::builder().start().await;
    let path = stack.database.url().trim_start_matches("sqlite://").to_owned();
    for _ in 0..20 {
        stack.sender().send(&event("acme")).await.expect(202, "accepted");
    }
    poll::until("it is as large as it is", SOON, async || {
        let shown = stack.workers[0].metric("webhook_sqlite_wal_bytes", &[]).await;
        let size = std::fs::metadata(format!("{path}-wal")).map_or(0, |found| found.len());
        if size > 0 && format!("{shown}") == size.to_string() { Ok(()) } else { Err(format!("{shown} of {size}")) }
    })
    .await;

    let stack = Stack::builder().database(Kind::Postgres).start().await;
    stack.sender().send(&event("acme")).await.expect(202, "accepted");
    stack.drained(SOON).await;
    assert_eq!(format!("{}", stack.workers[0].metric("webhook_sqlite_wal_bytes", &[]).await), "0");
}
