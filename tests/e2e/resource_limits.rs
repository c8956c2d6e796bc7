//! Bounds on backlog and memory: stuck events and a greedy platform do not affect others.

use std::time::Duration;

use redis::InfoDict;
use serde_json::json;
use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{ACME_SECRET, content_event, mux_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

use crate::WAIT_LIMIT;

const MAX_BACKLOG: usize = 20;

/// Dead letters are full, so poison events stay in retry. Up to half of `MAX_BACKLOG` they delay no
/// valid event of their platform, neither at ingress nor at workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_filling_half_the_backlog_blocks_no_good_event() {
    let stack = Stack::builder()
        .ingress_env("MAX_BACKLOG", &MAX_BACKLOG.to_string())
        .worker_env("DLQ_MAX_LEN", "1")
        .worker_env("MISSING_SESSION_WAIT_MS", "100")
        .worker_env("RETRY_MAX_MS", "200")
        .start()
        .await;
    let sender = stack.sender();
    sender.announce("good", &json!({})).await.expect(202, "accepted");
    stack.status("good", "ready", WAIT_LIMIT).await;
    for _ in 0..MAX_BACKLOG / 2 + 1 {
        sender
            .mux(&mux_event(&unique("poison"), "active", Some("absent"), "x", now_ms()))
            .await
            .expect(202, "accepted");
    }
    let stuck = async || (stack.dead("mux").await, stack.unfinished("mux").await);
    poll::until("one event is a dead letter, the others stay in retry", WAIT_LIMIT, async || {
        match stuck().await {
            (1, stuck) if stuck == MAX_BACKLOG / 2 => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })
    .await;
    for round in 0..3 {
        let burst = MAX_BACKLOG / 2;
        let events = (0..burst).map(|n| {
            let kind = if n + 1 == burst && round % 2 == 1 { "idle" } else { "active" };
            mux_event(
                &format!("good_{round}_{n}"),
                kind,
                Some("good"),
                "y",
                now_ms() + i64::try_from(n).unwrap(),
            )
        });
        for event in events {
            sender.mux(&event).await.expect(202, "accepted");
        }
        poll::until("the valid events are processed", WAIT_LIMIT, async || match stuck().await {
            (1, stuck) if stuck == MAX_BACKLOG / 2 => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
        .await;
        stack.status("good", if round % 2 == 1 { "idle" } else { "live" }, WAIT_LIMIT).await;
    }
    // More events than the bound are refused, including valid ones.
    stack.workers[0].process.freeze();
    let mut refused = 0;
    for _ in 0..MAX_BACKLOG {
        refused += usize::from(
            sender
                .mux(&mux_event(&unique("more"), "idle", Some("good"), "y", now_ms()))
                .await
                .status
                == 503,
        );
    }
    assert_eq!((refused, stack.unfinished("mux").await), (MAX_BACKLOG / 2, MAX_BACKLOG));
}

fn large_event(platform: &str) -> SignedWebhook {
    let title = "x".repeat(100_000);
    let body = content_event("content_added", &unique("c"), &title, now_ms()).to_string();
    sign::generic(platform, ACME_SECRET, body.as_bytes())
}

/// Memory usage of Redis in thousandths of `maxmemory`.
async fn memory_permille(stack: &Stack) -> u64 {
    let info: InfoDict = stack.redis.command(&["INFO", "memory"]).await;
    let bytes = |name: &str| info.get::<u64>(name).unwrap();
    bytes("used_memory") * 1000 / bytes("maxmemory")
}

/// One platform nearly fills Redis. Ingress refuses only that platform, and accepts it again once
/// memory is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn platform_over_its_share_of_redis_is_refused_first() {
    let toml = "[platforms.big]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 600000\n";
    let redis = RedisOptions::fast().set("maxmemory", "48mb").set("maxmemory-policy", "noeviction");
    let mut stack = Stack::builder().workers(0).platforms(toml).redis(redis).start().await;
    let sender = stack.sender();
    let first = large_event("big");
    sender.send(&first).await.expect(202, "accepted");
    // Ingress samples the memory once a second. The test stops well above the threshold of 80 % and
    // waits for that sample, so that Redis cannot fill up first.
    while memory_permille(&stack).await < 840
        && sender.send(&large_event("big")).await.status == 202
    {}
    stack.ingresses[0].process.wait_until_logged("exceeds its share", WAIT_LIMIT).await;
    let refused = poll::until("the platform is refused", WAIT_LIMIT, async || {
        let answer = sender.send(&large_event("big")).await;
        if answer.status == 202 { Err(answer.status) } else { Ok(answer) }
    })
    .await;
    refused.expect_error(503, "E_WEBHOOK_OVERLOADED");
    assert!(refused.header("retry-after").is_some());
    sender.send(&first).await.expect(200, "duplicate");
    for _ in 0..5 {
        sender.send(&large_event("acme")).await.expect(202, "accepted");
    }
    sender.announce("room", &json!({})).await.expect(202, "accepted");
    stack.add_worker().await;
    stack.wait_until_drained(Duration::from_secs(40)).await;
    poll::until("there is room again", WAIT_LIMIT, async || {
        match sender.send(&large_event("big")).await.status {
            202 => Ok(()),
            status => Err(status),
        }
    })
    .await;
}
