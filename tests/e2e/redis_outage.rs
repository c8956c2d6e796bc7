//! Outages of Redis: stopped, frozen, full, killed. No 2xx without a queued event, a clear refusal,
//! and recovery without help.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tests::ledger::{AcceptanceLog, EventPlace};
use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{ACME_SECRET, Sender, content_event, mux_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;
use tests::tcp_proxy::ProxyMode;

use crate::WAIT_LIMIT;

/// Longest time for an answer of ingress while Redis does not reply.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);

fn event() -> SignedWebhook {
    sign::generic(
        "acme",
        ACME_SECRET,
        content_event("content_added", &unique("c"), "t", now_ms()).to_string().as_bytes(),
    )
}

async fn check_refused(sender: &Sender, signed: &SignedWebhook, code: &str) {
    let started_at = Instant::now();
    let answer = sender.send(signed).await;
    answer.expect_error(503, code);
    assert!(
        answer
            .header("retry-after")
            .is_some_and(|after| after.parse::<u64>().is_ok_and(|s| s >= 1)),
        "{answer:?}"
    );
    assert!(started_at.elapsed() < REFUSED_WITHIN, "answered after {:?}", started_at.elapsed());
}

/// Time from `since` until ingress accepts again.
async fn time_to_recover(sender: &Sender, since: Instant) -> Duration {
    poll::until("ingress accepts again", WAIT_LIMIT, async || {
        let answer = sender.send(&event()).await;
        if answer.status == 202 { Ok(()) } else { Err(answer.text) }
    })
    .await;
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_outage_gets_503_and_ends_within_two_seconds() {
    let mut stack = Stack::builder().redis(RedisOptions::durable()).start().await;
    let sender = stack.sender();
    sender.send(&event()).await.expect(202, "accepted");
    for round in 0..2 {
        stack.redis.kill();
        // A write to a connection that has just died may have arrived, as far as ingress knows.
        let answer = sender.send(&event()).await;
        assert!(
            ["E_WEBHOOK_QUEUE_ERROR", "E_WEBHOOK_DEDUPLICATION_ERROR"].contains(&answer.errcode()),
            "{}",
            answer.text
        );
        for _ in 0..3 {
            check_refused(&sender, &event(), "E_WEBHOOK_QUEUE_ERROR").await;
        }
        // Ingress refuses a forgery without Redis and keeps running.
        sender
            .send(&event().without("x-webhook-signature"))
            .await
            .expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
        let role = &stack.ingresses[0];
        role.health("/live", 200, WAIT_LIMIT).await;
        role.health("/ready", 503, WAIT_LIMIT).await;
        stack.workers[0].health("/live", 200, WAIT_LIMIT).await;
        stack.workers[0].health("/ready", 503, WAIT_LIMIT).await;
        stack.redis.restart().await;
        let took = time_to_recover(&sender, Instant::now()).await;
        assert!(took < Duration::from_secs(2), "round {round}: took {took:?}");
        stack.ingresses[0].ready(WAIT_LIMIT).await;
        stack.workers[0].ready(WAIT_LIMIT).await;
        stack.wait_until_drained(WAIT_LIMIT).await;
    }
    assert_eq!(stack.database.count("webhook_events").await, 3);
}

/// During an outage many concurrent senders are refused at once. None waits for another, and
/// nothing is kept in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_do_not_pile_up_during_a_redis_outage() {
    let mut stack = Stack::builder().workers(0).redis(RedisOptions::durable()).start().await;
    stack.sender().send(&event()).await.expect(202, "accepted");
    let before = stack.ingresses[0].process.peak_memory().unwrap_or(0);
    stack.redis.kill();
    stack.ingresses[0].health("/ready", 503, WAIT_LIMIT).await;
    let senders = (0..32).map(|_| {
        let sender = stack.sender();
        async move {
            let mut times = Vec::new();
            for _ in 0..50 {
                let started_at = Instant::now();
                sender.send(&event()).await.expect_error(503, "E_WEBHOOK_QUEUE_ERROR");
                times.push(started_at.elapsed());
            }
            times
        }
    });
    let mut times = futures_util::future::join_all(senders).await.concat();
    times.sort();
    let (half, most) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    // 32 at a time from one thread of the test to one of ingress. The test itself takes most of the
    // time.
    assert!(
        half < Duration::from_millis(300) && most < Duration::from_millis(1500),
        "{half:?}, 99 %: {most:?}"
    );
    let after = stack.ingresses[0].process.peak_memory().unwrap_or(0);
    assert!(after < before + (32 << 20), "{before} bytes before, {after} after");
    stack.redis.restart().await;
    let took = time_to_recover(&stack.sender(), Instant::now()).await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ingress_and_worker_start_during_a_redis_outage() {
    let mut stack = Stack::builder().redis(RedisOptions::durable()).servers().await;
    stack.redis.stop().await;
    stack.spawn_ingress();
    stack.spawn_worker();
    stack.ingresses[0].health("/live", 200, WAIT_LIMIT).await;
    stack.ingresses[0].health("/ready", 503, WAIT_LIMIT).await;
    stack.ingresses[0].listening(WAIT_LIMIT).await;
    let sender = stack.sender();
    check_refused(&sender, &event(), "E_WEBHOOK_QUEUE_ERROR").await;
    stack.redis.restart().await;
    let took = time_to_recover(&sender, Instant::now()).await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
    stack.workers[0].ready(WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_redis_reply_gets_503_and_the_retry_is_safe() {
    let stack = Stack::builder().proxied().start().await;
    let sender = stack.sender();
    sender.send(&event()).await.expect(202, "accepted");
    let proxy = stack.proxy.as_ref().unwrap();
    let signed = event();
    proxy.set(ProxyMode::SwallowAnswers);
    check_refused(&sender, &signed, "E_WEBHOOK_DEDUPLICATION_ERROR").await;
    proxy.set(ProxyMode::Cut);
    proxy.set(ProxyMode::Pass);
    let answer = poll::until("the retry gets through", WAIT_LIMIT, async || {
        let answer = sender.send(&signed).await;
        if answer.status < 300 { Ok(answer) } else { Err(answer.text) }
    })
    .await;
    answer.expect(200, "duplicate");
    stack.wait_until_drained(WAIT_LIMIT).await;
    let ledger = AcceptanceLog::default();
    ledger.record("acme", &answer);
    assert_eq!(ledger.check(&stack).await[&EventPlace::Database], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_redis_connection_is_detected() {
    let stack = Stack::builder().proxied().start().await;
    let sender = stack.sender();
    sender.send(&event()).await.expect(202, "accepted");
    let proxy = stack.proxy.as_ref().unwrap();
    proxy.set(ProxyMode::Silent);
    let started_at = Instant::now();
    let answer = sender.send(&event()).await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert!(started_at.elapsed() < REFUSED_WITHIN, "{:?}", started_at.elapsed());
    proxy.set(ProxyMode::Pass);
    time_to_recover(&sender, Instant::now()).await;
    // The worker's blocking read hangs on a dead connection as well. The worker must detect that by
    // itself.
    stack.wait_until_drained(Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_redis_is_not_an_outage() {
    let stack = Stack::builder().proxied().start().await;
    stack.proxy.as_ref().unwrap().set(ProxyMode::Delay(Duration::from_millis(150)));
    let sender = stack.sender();
    for _ in 0..3 {
        sender.send(&event()).await.expect(202, "accepted");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_redis_refuses_new_events_and_workers_empty_it() {
    let stack = Stack::builder().redis(RedisOptions::durable()).start().await;
    let sender = stack.sender();
    stack.workers[0].process.freeze();
    for _ in 0..50 {
        sender.send(&event()).await.expect(202, "accepted");
    }
    sender
        .mux(&mux_event(&unique("e"), "active", Some("absent"), "x", now_ms()))
        .await
        .expect(202, "accepted");
    let (): () = stack.redis.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    check_refused(&sender, &event(), "E_WEBHOOK_QUEUE_ERROR").await;
    stack.workers[0].process.thaw();
    poll::until("the worker settles although Redis is full", WAIT_LIMIT, async || {
        match stack.unfinished("acme").await {
            0 => Ok(()),
            left => Err(left),
        }
    })
    .await;
    poll::until("the event without session waits", WAIT_LIMIT, async || {
        match stack.retrying("mux").await {
            0 => Err("not in the retry set"),
            _ => Ok(()),
        }
    })
    .await;
    assert_eq!(stack.database.count("webhook_events").await, 50);
    let (): () = stack.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    sender.announce("absent", &json!({})).await.expect(202, "accepted");
    stack.status("absent", "live", WAIT_LIMIT).await;
    assert_eq!(stack.dead("acme").await + stack.dead("mux").await, 0);
}

/// With `appendfsync always`, every accepted event survives two kills of Redis under load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_load_loses_no_accepted_event() {
    let mut stack =
        Stack::builder().redis(RedisOptions::durable()).ingresses(2).workers(2).start().await;
    let ledger = Arc::new(AcceptanceLog::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..16 {
        let (sender, ledger, stop) =
            (stack.ingresses[n % 2].sender(), ledger.clone(), stop.clone());
        senders.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let signed = event();
                // Repeats the same event until it is accepted, as a provider does.
                loop {
                    let answer = sender.send(&signed).await;
                    ledger.record("acme", &answer);
                    if answer.status < 300 {
                        break;
                    }
                    assert_eq!(answer.status, 503, "{}", answer.text);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
    for _ in 0..2 {
        let before = ledger.len();
        poll::until("events flow", WAIT_LIMIT, async || {
            if ledger.len() > before + 200 { Ok(()) } else { Err(ledger.len()) }
        })
        .await;
        stack.redis.kill();
        tokio::time::sleep(Duration::from_millis(500)).await;
        stack.redis.restart().await;
    }
    let before = ledger.len();
    poll::until("events flow again", WAIT_LIMIT, async || {
        if ledger.len() > before + 100 { Ok(()) } else { Err(ledger.len()) }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    senders.join_all().await;
    stack.wait_until_drained(Duration::from_secs(40)).await;
    let places = ledger.check(&stack).await;
    assert_eq!(places[&EventPlace::Database], ledger.len(), "{places:?}");
    assert_eq!(stack.database.count("webhook_events").await, i64::try_from(ledger.len()).unwrap());
}
