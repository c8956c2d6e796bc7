//! Rate limits and backlog bounds: exact across replicas, and refused requests take no quota.

use std::time::{Duration, Instant};

use tests::sender::{ACME_SECRET, HttpAnswer, Sender, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;

use crate::WAIT_LIMIT;

fn event(platform: &str) -> SignedWebhook {
    let body = content_event("content_updated", &unique("c"), "t", now_ms()).to_string();
    sign::generic(platform, ACME_SECRET, body.as_bytes())
}

fn retry_after(answer: &HttpAnswer) -> u64 {
    answer.header("retry-after").expect("Retry-After").parse().expect("seconds")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_limit_is_exact_across_replicas() {
    // One per six seconds after a burst of 20. The local rate limiters of the replicas permit far
    // more.
    let toml = "[platforms.slow]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 10\nburst = 20\n\
                [platforms.busy]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 1\nburst = 1\n\
                busy_status = 503\n";
    let stack = Stack::builder().ingresses(2).workers(0).platforms(toml).start().await;
    let started_at = Instant::now();
    let mut sends = tokio::task::JoinSet::new();
    for n in 0..60 {
        let sender = Sender::new(&stack.ingresses[n % 2].url);
        sends.spawn(async move {
            let signed = event("slow");
            (sender.send(&signed).await, signed)
        });
    }
    let answers = sends.join_all().await;
    let (accepted, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|(answer, _)| answer.status == 202);
    let earned = usize::try_from(started_at.elapsed().as_secs() / 6).unwrap();
    assert!((20..=20 + earned).contains(&accepted.len()), "{} accepted", accepted.len());
    assert_eq!(accepted.len(), stack.unfinished("slow").await);
    for (answer, _) in refused {
        answer.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
        assert!((1..=60).contains(&retry_after(answer)), "{answer:?}");
    }
    // Duplicates take no quota and pass at the limit.
    for (answer, signed) in accepted {
        assert_eq!(stack.sender().send(signed).await.expect(200, "duplicate"), answer.event_id());
    }
    // Forgeries take no quota: 30 of them leave another platform's limit untouched.
    for _ in 0..30 {
        let forged = event("busy").without("x-webhook-signature");
        assert_eq!(stack.sender().send(&forged).await.status, 401);
    }
    stack.sender().send(&event("busy")).await.expect(202, "accepted");
    let answer = stack.sender().send(&event("busy")).await;
    answer.expect_error(503, "E_WEBHOOK_RATE_LIMITED");
    assert!(retry_after(&answer) >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limited_event_is_accepted_after_retry_after() {
    let toml = "[platforms.quick]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 60\nburst = 1\n";
    let stack = Stack::builder().workers(0).platforms(toml).start().await;
    let sender = stack.sender();
    sender.send(&event("quick")).await.expect(202, "accepted");
    let again = event("quick");
    let refused = sender.send(&again).await;
    refused.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
    tokio::time::sleep(Duration::from_secs(retry_after(&refused))).await;
    sender.send(&again).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_type_limit_is_exact_and_spares_other_types() {
    let toml = "[platforms.chatty]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 600\n\
                burst = 600\nlimits = { content_updated = 5 }\n";
    let stack = Stack::builder().ingresses(2).workers(0).platforms(toml).start().await;
    let started_at = Instant::now();
    let mut accepted = 0;
    for n in 0..30 {
        let answer = Sender::new(&stack.ingresses[n % 2].url).send(&event("chatty")).await;
        if answer.status == 202 {
            accepted += 1;
            continue;
        }
        answer.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
        assert!((1..=12).contains(&retry_after(&answer)), "{answer:?}");
    }
    let earned = usize::try_from(started_at.elapsed().as_secs() / 12).unwrap();
    assert!((5..=5 + earned).contains(&accepted), "{accepted} accepted");
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    stack
        .sender()
        .send(&sign::generic("chatty", ACME_SECRET, body.as_bytes()))
        .await
        .expect(202, "accepted");
    assert_eq!(stack.unfinished("chatty").await, accepted + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_backlog_refuses_and_recovers() {
    let mut stack = Stack::builder().workers(0).ingress_env("MAX_BACKLOG", "5").start().await;
    let sender = stack.sender();
    let mut accepted = Vec::new();
    for _ in 0..5 {
        let signed = event("acme");
        sender.send(&signed).await.expect(202, "accepted");
        accepted.push(signed);
    }
    let refused = event("acme");
    let answer = sender.send(&refused).await;
    answer.expect_error(503, "E_WEBHOOK_OVERLOADED");
    assert!(retry_after(&answer) >= 1);
    assert_eq!(stack.unfinished("acme").await, 5);
    sender.send(&accepted[0]).await.expect(200, "duplicate");
    // Each platform has its own bound.
    sender
        .netflix(&content_event("content_added", "c", "t", now_ms()))
        .await
        .expect(202, "accepted");
    stack.add_worker().await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    sender.send(&refused).await.expect(202, "accepted");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 7);
}

/// During an outage of Redis, the local rate limiter does not answer 429, because the limit is
/// unknown.
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
    // None of these requests took quota.
    stack.redis.restart().await;
    stack.ingresses[0].ready(WAIT_LIMIT).await;
    sender.send(&event("slow")).await.expect(202, "accepted");
    sender.send(&event("slow")).await.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
}

/// The local rate limiter answers most requests far above the limit without a call to Redis.
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
    // The local limiter permits ten times the limit plus a burst, and one more every six seconds.
    // One request was accepted.
    assert!((10..=30).contains(&decided), "{decided}");
}
