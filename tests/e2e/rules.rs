//! Holes of which each is closed by one line somewhere, and that nothing else would notice.

use std::time::Duration;

use tests::ledger::entries;
use tests::redis::RedisOptions;
use tests::sender::{ACME_SECRET, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{DatabaseKind, Stack};
use tests::{pending_entries, poll};

use crate::WAIT_LIMIT;

fn event(platform: &str) -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic(platform, ACME_SECRET, body.as_bytes())
}

/// The flood shield does not speak for Redis: while that is away, nobody can know that a limit is reached.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_during_redis_outage_gets_503_not_429() {
    let toml = "[platforms.slow]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 1\nburst = 1\n";
    let mut stack = Stack::builder().workers(0).platforms(toml).start().await;
    let sender = stack.sender();
    stack.redis.kill();
    stack.ingresses[0].health("/ready", 503, WAIT_LIMIT).await;
    for _ in 0..60 {
        sender.send(&event("slow")).await.expect_error(503, "E_WEBHOOK_QUEUE_ERROR");
    }
    // And none of them was counted.
    stack.redis.restart().await;
    stack.ingresses[0].ready(WAIT_LIMIT).await;
    sender.send(&event("slow")).await.expect(202, "accepted");
    sender.send(&event("slow")).await.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
}

/// What is far above a platform's limit does not cost Redis a decision each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_over_the_rate_limit_does_not_reach_redis() {
    let toml = "[platforms.slow]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 1\nburst = 1\n";
    let stack = Stack::builder().workers(0).platforms(toml).start().await;
    stack.sender().send(&event("slow")).await.expect(202, "accepted");
    for _ in 0..60 {
        stack.sender().send(&event("slow")).await.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
    }
    let decided: usize =
        stack.redis.command(&["HGET", "webhooks:counters:slow", "rate_limited"]).await;
    // Ten times the limit and a burst, of which one was accepted; and one every six seconds since.
    assert!((10..=30).contains(&decided), "{decided}");
}

/// One event three times in the queue, read as one batch: it takes effect once, and all three are finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_entries_in_one_batch_take_effect_once() {
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
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 2);
    assert_eq!(stack.dead("acme").await, 0);
    let role = &stack.workers[0];
    poll::until("each is counted as what it was", WAIT_LIMIT, async || {
        let of =
            async |outcome: &str| role.metric("webhook_events_total", &["acme", outcome]).await;
        match (of("processed").await, of("duplicate").await) {
            (2.0, 2.0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
}

/// They are told apart before the database sees them: no transaction fails over the second one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_entries_in_one_batch_roll_nothing_back() {
    let mut stack = Stack::builder().database(DatabaseKind::Postgres).workers(0).start().await;
    let signed = event("acme");
    for _ in 0..3 {
        stack.sender().send(&signed).await.expect(202, "accepted");
        let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
        let _: usize = stack.redis.command(&["DEL", &markers[0]]).await;
    }
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 1);
    let rolled_back = async || {
        let sql =
            "SELECT xact_rollback AS n FROM pg_stat_database WHERE datname = current_database()";
        stack.database.rows(sql, &[]).await[0]["n"].as_i64()
    };
    // A session tells what it did with its next transaction, and at most once a second.
    poll::throughout("nothing was rolled back", Duration::from_millis(1_500), async || {
        match rolled_back().await {
            Some(0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    stack.sender().send(&event("acme")).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    poll::throughout(
        "nothing was rolled back",
        Duration::from_secs(1),
        async || match rolled_back().await {
            Some(0) => Ok(()),
            seen => Err(format!("{seen:?}")),
        },
    )
    .await;
}

/// Identical bodies of a sender whose events have neither id nor time, and may repeat, are separate events for the ledger,
/// too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatable_event_takes_effect_each_time() {
    let toml = "[platforms.bell]\nsecrets = [\"env:ACME_SECRET\"]\n\
                event = { type = \"/kind\", time = false, repeatable = true, schema = false }\n";
    let stack = Stack::builder().platforms(toml).start().await;
    let signed = sign::generic("bell", ACME_SECRET, br#"{"kind":"ring"}"#);
    for _ in 0..3 {
        stack.sender().send(&signed).await.expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events WHERE platform = 'bell'").await, 3);
}

/// Another connection may lead to another Redis: nothing is promised on it before its settings were read.
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
    // What went over the new connection before anybody knew is queued, and is not promised.
    assert!(stack.unfinished("acme").await <= 2);
    let (): () = stack.redis.command(&["CONFIG", "SET", "appendfsync", "always"]).await;
    let _: usize =
        stack.redis.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    poll::until("it is accepted again", WAIT_LIMIT, async || {
        let answer = sender.send(&event("acme")).await;
        if answer.status == 202 { Ok(()) } else { Err(answer.text) }
    })
    .await;
}

/// SQLite's write-ahead log grows for as long as somebody reads without end, and nothing else would tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_log_size_is_a_metric() {
    let stack = Stack::builder().start().await;
    let path = stack.database.url().trim_start_matches("sqlite://").to_owned();
    for _ in 0..20 {
        stack.sender().send(&event("acme")).await.expect(202, "accepted");
    }
    poll::until("it is as large as it is", WAIT_LIMIT, async || {
        let shown = stack.workers[0].metric("webhook_sqlite_wal_bytes", &[]).await;
        let size = std::fs::metadata(format!("{path}-wal")).map_or(0, |found| found.len());
        if size > 0 && format!("{shown}") == size.to_string() {
            Ok(())
        } else {
            Err(format!("{shown} of {size}"))
        }
    })
    .await;

    let stack = Stack::builder().database(DatabaseKind::Postgres).start().await;
    stack.sender().send(&event("acme")).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(format!("{}", stack.workers[0].metric("webhook_sqlite_wal_bytes", &[]).await), "0");
}

/// What was acked and never deleted is seen by no read and no claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaned_entry_is_requeued() {
    const STREAM: &str = "webhooks:incoming:acme";
    const GROUP: &str = "webhook-processors";
    let mut stack = Stack::builder().workers(0).start().await;
    let (received, body) =
        (now_ms() - 11 * 60_000, content_event("content_added", "c", "t", now_ms()).to_string());
    let (id, received) = (format!("{received}-0"), received.to_string());
    let fields = [
        "v",
        "1",
        "event_id",
        "lost",
        "event_type",
        "content_added",
        "occurred_at",
        &received,
        "received_at",
    ];
    let more = [&received, "attempt", "1", "origin", &id, "body", &body];
    let _: String =
        stack.redis.command(&[&["XADD", STREAM, &id], &fields[..], &more[..]].concat()).await;
    let (): () = stack.redis.command(&["XGROUP", "CREATE", STREAM, GROUP, "0"]).await;
    let _: redis::Value =
        stack.redis.command(&["XREADGROUP", "GROUP", GROUP, "gone", "STREAMS", STREAM, ">"]).await;
    let _: usize = stack.redis.command(&["XACK", STREAM, GROUP, &id]).await;
    stack.add_worker().await;
    poll::until("it takes effect", WAIT_LIMIT, async || {
        stack.database.event("acme", "lost").await.map(drop).ok_or("no row")
    })
    .await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    poll::until("it is counted", WAIT_LIMIT, async || {
        match stack.workers[0].metric("webhook_orphans_total", &["acme"]).await {
            1.0 => Ok(()),
            seen => Err(seen),
        }
    })
    .await;
}

/// Redis's clock was set back since a worker that is gone took it: to a claim it is idle for no time at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entry_delivered_in_the_future_is_claimed() {
    const STREAM: &str = "webhooks:incoming:acme";
    const GROUP: &str = "webhook-processors";
    let mut stack = Stack::builder().workers(0).worker_env("CLAIM_IDLE_MS", "1000").start().await;
    let answer = stack.sender().send(&event("acme")).await;
    answer.expect(202, "accepted");
    let (): () = stack.redis.command(&["XGROUP", "CREATE", STREAM, GROUP, "0"]).await;
    let _: redis::Value =
        stack.redis.command(&["XREADGROUP", "GROUP", GROUP, "gone", "STREAMS", STREAM, ">"]).await;
    let id = entries(&stack, STREAM).await[0].0.parse().unwrap();
    pending_entries::move_delivery_into_future(&stack.redis, STREAM, "gone", &[id]).await;
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert!(stack.database.event("acme", answer.event_id()).await.is_some());
}

/// Two workers of one name would share what is pending for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_renews_its_lease_and_exits_when_another_holds_it() {
    const LEASE: &str = "webhooks:lease:harness-1";
    let stack = Stack::builder().start().await;
    let _: usize = stack.redis.command(&["PEXPIRE", LEASE, "15000"]).await;
    poll::until("it is renewed in time", WAIT_LIMIT, async || {
        let left: i64 = stack.redis.command(&["PTTL", LEASE]).await;
        if left > 15_000 { Ok(()) } else { Err(left) }
    })
    .await;
    let (): () = stack.redis.command(&["SET", LEASE, "somebody else", "PX", "600000"]).await;
    let status = stack.workers[0].process.wait_until_ended(WAIT_LIMIT).await;
    assert!(!status.success(), "{status}");
}
