//! Rate limit and backlog: exact across replicas, and what is refused costs nothing.

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
    // One per six seconds after a burst of 20; what the replicas' own flood shields let through is far more.
    let toml = "[platforms.slow]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 10\nburst = 20\n\
                [platforms.busy]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 1\nburst = 1\nbusy_status = 503\n";
    let stack = Stack::builder().ingresses(2).workers(0).platforms(toml).start().await;
    let begun = Instant::now();
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
    let earned = usize::try_from(begun.elapsed().as_secs() / 6).unwrap();
    assert!((20..=20 + earned).contains(&accepted.len()), "{} accepted", accepted.len());
    assert_eq!(accepted.len(), stack.unfinished("slow").await);
    for (answer, _) in refused {
        answer.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
        assert!((1..=60).contains(&retry_after(answer)), "{answer:?}");
    }
    // Duplicates cost nothing and pass at the limit.
    for (answer, signed) in accepted {
        assert_eq!(stack.sender().send(signed).await.expect(200, "duplicate"), answer.event_id());
    }
    // Forgeries cost nothing: another platform's bucket is untouched by 30 of them.
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
    let toml = "[platforms.chatty]\nsecrets = [\"env:ACME_SECRET\"]\nrate_limit = 600\nburst = 600\n\
                limits = { content_updated = 5 }\n";
    let stack = Stack::builder().ingresses(2).workers(0).platforms(toml).start().await;
    let begun = Instant::now();
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
    let earned = usize::try_from(begun.elapsed().as_secs() / 12).unwrap();
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
    // The bound is per platform.
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
