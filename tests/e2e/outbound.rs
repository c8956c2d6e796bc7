//! Outbound deliveries: subscribed destinations get processed events, signed, and once per event
//! unless a process was killed. A failing destination does not affect the others.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tests::downstream::{Downstream, ReceiverBehavior};
use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{content_event, mux_event, now_ms};
use tests::sign;
use tests::stack::{DatabaseKind, Stack, StackBuilder};

use crate::WAIT_LIMIT;

const SECRET: &str = "outbound-secret-31c7";

fn builder(urls: &[&Downstream]) -> StackBuilder {
    let urls: Vec<String> = urls.iter().map(|one| one.url()).collect();
    Stack::builder()
        .worker_env("WEBHOOK_URLS", &urls.join(","))
        .worker_env("WEBHOOK_SECRET_KEY", SECRET)
        .worker_env("WEBHOOK_SOURCE", "StreamGank")
        .worker_env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
        .worker_env("WEBHOOK_RATE_LIMIT_MAX", "1000000")
        .worker_env("WEBHOOK_RETRY_DELAY", "100")
}

fn film(number: usize) -> Value {
    content_event("content_added", &format!("film-{number}"), "A film", now_ms())
}

async fn wait_for_deliveries(destination: &Downstream, deliveries: usize, within: Duration) {
    poll::until(&format!("{deliveries} deliveries"), within, async || {
        let seen = destination.deliveries();
        if seen == deliveries { Ok(()) } else { Err(format!("{seen} deliveries")) }
    })
    .await;
}

/// Number of deliveries in a destination's queue.
async fn queue_length(stack: &Stack, destination: &str) -> usize {
    stack.redis.command(&["XLEN", &format!("webhooks:outgoing:{destination}")]).await
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// Simulates a worker killed after it enqueued a delivery and before it acknowledged the outbox
/// entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_enqueued_twice_is_sent_once() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let stack = builder(&[&receiver]).start().await;
    let at = now_ms().to_string();
    let fields = [
        "v",
        "1",
        "event_id",
        "e",
        "event_type",
        "content_added",
        "occurred_at",
        &at,
        "received_at",
        &at,
    ];
    let more = [
        "attempt",
        "1",
        "origin",
        "1-1",
        "body",
        "{}",
        "forwarded_at",
        &at,
        "destinations",
        "webhook_1",
    ];
    let words =
        [&["XADD", "webhooks:outbox:acme", "*"][..], &fields[..], &more[..], &["result", ""]]
            .concat();
    let left = async || stack.redis.command::<usize>(&["XLEN", "webhooks:outbox:acme"]).await;
    for _ in 0..2 {
        let _: String = stack.redis.command(&words).await;
        poll::until("the delivery is in the queue", WAIT_LIMIT, async || match left().await {
            0 => Ok(()),
            left => Err(left),
        })
        .await;
        wait_for_deliveries(&receiver, 1, WAIT_LIMIT).await;
    }
    stack.sender().acme(&film(1)).await.expect(202, "accepted");
    poll::until("the later delivery arrives", WAIT_LIMIT, async || {
        let seen = receiver.received();
        if seen.values().any(|attempts| attempts[0].json()["event_id"] != "e") {
            Ok(())
        } else {
            Err(seen.len())
        }
    })
    .await;
    poll::throughout("nothing else is delivered", Duration::from_secs(1), async || match receiver
        .deliveries()
    {
        2 => Ok(()),
        seen => Err(seen),
    })
    .await;
}

on_both!(processed_event_is_sent_signed_with_its_result);

async fn processed_event_is_sent_signed_with_its_result(kind: DatabaseKind) {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let stack = builder(&[&receiver]).database(kind).start().await;
    stack
        .sender()
        .announce("room-1", &json!({"live_stream_id": "ls-1"}))
        .await
        .expect(202, "accepted");
    let event = mux_event("evt_1", "active", Some("room-1"), "ls-1", now_ms());
    stack.sender().mux(&event).await.expect(202, "accepted");
    stack.status("room-1", "live", WAIT_LIMIT).await;
    wait_for_deliveries(&receiver, 1, WAIT_LIMIT).await;

    let received = receiver.received();
    let (id, attempts) = received.first_key_value().unwrap();
    assert_eq!(attempts.len(), 1);
    let one = &attempts[0];
    let body = one.json();
    let mut keys: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        ["data", "event", "event_id", "platform", "result", "source", "timestamp", "webhook_id"],
        "{body}"
    );
    assert_eq!(body["event"], "video.live_stream.active");
    assert_eq!(body["data"], event["data"]);
    assert_eq!((&body["webhook_id"], &body["source"]), (&json!("webhook_1"), &json!("streamgank")));
    assert_eq!((&body["platform"], &body["event_id"]), (&json!("mux"), &json!("evt_1")));
    assert_eq!(body["result"]["action"], "status_updated");
    assert_eq!(
        (&body["result"]["room_id"], &body["result"]["new_status"]),
        (&json!("room-1"), &json!("live"))
    );

    let header = |name: &str| one.headers.get(name).map_or("", String::as_str);
    assert_eq!(
        header("x-streamgank-signature"),
        format!("sha256={}", sign::hmac_sha256_hex(SECRET, &one.body))
    );
    assert_eq!(header("x-streamgank-event"), "video.live_stream.active");
    assert_eq!((header("x-streamgank-delivery"), header("webhook-id")), (id.as_str(), id.as_str()));
    assert_eq!(header("user-agent"), "StreamGank-Webhook/1.0");
    assert_eq!(header("content-type"), "application/json");
    let signed =
        [id.as_bytes(), b".", header("webhook-timestamp").as_bytes(), b".", &one.body].concat();
    let expected = format!("v1,{}", STANDARD.encode(hmac(SECRET.as_bytes(), &signed)));
    assert_eq!(header("webhook-signature"), expected);

    // A duplicate is neither processed nor sent.
    stack.sender().mux(&event).await.expect(200, "duplicate");
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(receiver.deliveries(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_only_processed_events_of_chosen_types() {
    let (jobs, all) =
        (Downstream::start(ReceiverBehavior::Accept), Downstream::start(ReceiverBehavior::Accept));
    let file = format!(
        "[destinations.removals]\nurl = \"{}\"\nevents = [\"*_removed\"]\n\
        allow_private = \"127.0.0.1\"\n",
        jobs.url()
    );
    let stack = builder(&[&all]).platforms(&file).start().await;
    for (kind, id) in [("content_added", "a"), ("content_removed", "b"), ("content_updated", "c")] {
        stack
            .sender()
            .netflix(&content_event(kind, id, "x", now_ms()))
            .await
            .expect(202, "accepted");
    }
    // Without a content id, which the schema of the definition does not require, the event becomes
    // a dead letter.
    let bad = json!({"event_type": "content_added", "payload": {}});
    stack.sender().acme(&bad).await.expect(202, "accepted");
    wait_for_deliveries(&all, 3, WAIT_LIMIT).await;
    wait_for_deliveries(&jobs, 1, WAIT_LIMIT).await;
    let received = jobs.received();
    assert_eq!(received.first_key_value().unwrap().1[0].json()["event"], "content_removed");
    assert_eq!(stack.dead("acme").await, 1);
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(all.deliveries(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_delivery_is_retried_dead_lettered_and_replayed() {
    let (second, never) = (
        Downstream::start(ReceiverBehavior::FailFirst),
        Downstream::start(ReceiverBehavior::Always(500)),
    );
    let stack = builder(&[&second, &never]).start().await;
    stack.sender().netflix(&film(1)).await.expect(202, "accepted");
    wait_for_deliveries(&second, 1, WAIT_LIMIT).await;
    poll::until("a second attempt", WAIT_LIMIT, async || {
        let attempts: usize = second.received().values().map(Vec::len).sum();
        if attempts == 2 { Ok(()) } else { Err(attempts) }
    })
    .await;
    poll::until("a dead letter", WAIT_LIMIT, async || match stack.dead("out:webhook_2").await {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    let attempts: usize = never.received().values().map(Vec::len).sum();
    assert_eq!(attempts, 4, "WEBHOOK_MAX_RETRIES is 3");
    let ids: Vec<String> = never.received().into_keys().collect();

    let shown = stack.dlq_tool(&["list", "--platform", "out:webhook_2", "--output", "json"]).await;
    let dead_letter: Value = serde_json::from_str(shown.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&dead_letter["error_code"], &dead_letter["attempts"]),
        (&json!("http_5xx"), &json!(4)),
        "{dead_letter}"
    );
    assert_eq!(dead_letter["event_id"], json!(ids[0]));
    never.set_behavior(ReceiverBehavior::Accept);
    let replayed = stack.dlq_tool(&["replay", "--platform", "out:webhook_2", "--yes"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    poll::until("the fifth attempt", WAIT_LIMIT, async || {
        let attempts: usize = never.received().values().map(Vec::len).sum();
        if attempts == 5 { Ok(()) } else { Err(attempts) }
    })
    .await;
    assert_eq!(never.deliveries(), 1, "the same delivery id on every attempt");
    let log = stack.workers[0].process.log();
    assert!(
        log.contains("Webhook delivery failed (attempt 1/4): webhook_1 - status 500. Retrying in"),
        "{log}"
    );
    assert!(!log.contains("not yet"), "the answer of a destination may repeat the body");
    assert!(log.contains("Webhook delivery failed after 4 attempts: status 500"), "{log}");
    assert!(log.contains("Webhook delivered successfully: webhook_1 ("), "{log}");
    assert!(!log.contains("/hook"), "a destination's path may be a secret");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_obeyed_and_permanent_refusals_are_final() {
    let (busy, refusing, gone) = (
        Downstream::start(ReceiverBehavior::BusyFirst),
        Downstream::start(ReceiverBehavior::Always(400)),
        Downstream::start(ReceiverBehavior::Always(410)),
    );
    let stack = builder(&[&busy, &refusing, &gone]).start().await;
    stack.sender().netflix(&film(1)).await.expect(202, "accepted");
    poll::until("a second attempt", WAIT_LIMIT, async || {
        let attempts: usize = busy.received().values().map(Vec::len).sum();
        if attempts == 2 { Ok(()) } else { Err(attempts) }
    })
    .await;
    let received = busy.received();
    let attempts = received.first_key_value().unwrap().1;
    assert!(attempts[1].at - attempts[0].at >= Duration::from_secs(2), "{attempts:?}");
    for destination in ["out:webhook_2", "out:webhook_3"] {
        poll::until("a dead letter", WAIT_LIMIT, async || match stack.dead(destination).await {
            1 => Ok(()),
            other => Err(other),
        })
        .await;
    }
    assert_eq!(refusing.received().values().map(Vec::len).sum::<usize>(), 1);
    // After a 410, nothing more is sent to the URL.
    stack.sender().netflix(&film(2)).await.expect(202, "accepted");
    poll::until("another dead letter", WAIT_LIMIT, async || {
        match stack.dead("out:webhook_3").await {
            2 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(gone.deliveries(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_are_refused_unless_allowed() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let stack = builder(&[&receiver]).worker_env("WEBHOOK_ALLOW_PRIVATE", "false").start().await;
    stack.sender().netflix(&film(1)).await.expect(202, "accepted");
    poll::until("a dead letter", WAIT_LIMIT, async || match stack.dead("out:webhook_1").await {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    let shown = stack.dlq_tool(&["list", "--platform", "out:webhook_1", "--output", "json"]).await;
    assert!(shown.stdout.contains("blocked_address"), "{shown:?}");
    assert_eq!(receiver.deliveries(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destination_rate_limit_holds_across_workers() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let stack = builder(&[&receiver])
        .workers(2)
        .worker_env("WEBHOOK_RATE_LIMIT_MAX", "10")
        .worker_env("WEBHOOK_RATE_LIMIT_WINDOW", "2000")
        .start()
        .await;
    for number in 0..25 {
        stack.sender().netflix(&film(number)).await.expect(202, "accepted");
    }
    wait_for_deliveries(&receiver, 25, WAIT_LIMIT).await;
    let mut times: Vec<Duration> =
        receiver.received().values().map(|attempts| attempts[0].at).collect();
    times.sort_unstable();
    // A burst of ten, then one every 200 ms: the 25th comes at least 3 s after the first. 100 ms
    // are left for clocks and queues.
    assert!(times[24] - times[0] >= Duration::from_millis(2_900), "{times:?}");
    assert!(receiver.received().values().all(|attempts| attempts.len() == 1));
    let logs: String = stack.workers.iter().map(|worker| worker.process.log()).collect();
    assert!(logs.contains("Rate limit exceeded for webhook webhook_1: 11/10"), "{logs}");
}

/// Runs four destinations, one of which fails completely for a while. The fast destination and the
/// session database keep their pace. `OUTBOUND_EVENTS` sets the number of events: 10,000 take some
/// minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_failing_and_dead_destinations_delay_no_other() {
    let events = std::env::var("OUTBOUND_EVENTS").map_or(2_000, |text| text.parse().unwrap());
    let patience = Duration::from_millis(60_000 + 20 * events as u64);
    let fast = Downstream::start(ReceiverBehavior::Accept);
    let slow = Downstream::start(ReceiverBehavior::Slow(Duration::from_secs(2)));
    let failing = Downstream::start(ReceiverBehavior::FailEveryOther);
    let mut dead = Downstream::not_listening(ReceiverBehavior::Accept);
    let stack = builder(&[&fast, &slow, &failing, &dead])
        .redis(RedisOptions::fast())
        .ingress_env("RUST_LOG", "warn")
        .worker_env("RUST_LOG", "warn")
        // No delivery to the failing destination may run out of attempts by chance.
        .worker_env("WEBHOOK_MAX_RETRIES", "30")
        // Bounds the delay of the unluckiest delivery, which would otherwise wait 30 s between its
        // last attempts.
        .worker_env("WEBHOOK_MAX_RETRY_DELAY", "2000")
        .workers(2)
        .start()
        .await;
    let started_at = Instant::now();
    let sender = stack.sender();
    let mut sent = tokio::task::JoinSet::new();
    for number in 0..events {
        let sender = sender.clone();
        sent.spawn(
            async move { sender.acme(&film(number)).await.expect(202, "accepted").to_owned() },
        );
        if sent.len() >= 32 {
            sent.join_next().await.unwrap().unwrap();
        }
    }
    while sent.join_next().await.is_some() {}
    stack.wait_until_drained(patience).await;
    let settled = started_at.elapsed();
    wait_for_deliveries(&fast, events, patience).await;
    let delivered = started_at.elapsed();
    // Shorter than all slow deliveries take at two seconds each, 32 at a time. The fast one did not
    // wait for them.
    let slowest = Duration::from_secs(2) * u32::try_from(events / 32).unwrap();
    assert!(settled < slowest && delivered < slowest, "{settled:?}, {delivered:?}, {slowest:?}");
    eprintln!(
        "{events} events: settled after {settled:?}, all at the fast one after {delivered:?}"
    );
    assert!(slow.deliveries() < events, "the slow destination has finished");

    dead.listen();
    wait_for_deliveries(&dead, events, patience).await;
    slow.set_behavior(ReceiverBehavior::Accept);
    wait_for_deliveries(&slow, events, patience).await;
    poll::until("every queue is empty", patience, async || {
        let mut left = Vec::new();
        for destination in ["webhook_1", "webhook_2", "webhook_3", "webhook_4"] {
            left.push(queue_length(&stack, destination).await);
        }
        if left.iter().all(|left| *left == 0) { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    for destination in ["webhook_1", "webhook_2", "webhook_3", "webhook_4"] {
        assert_eq!(stack.dead(&format!("out:{destination}")).await, 0, "{destination}");
    }
    // No process was killed, so each delivery is confirmed once.
    for (name, receiver) in
        [("fast", &fast), ("slow", &slow), ("failing", &failing), ("dead", &dead)]
    {
        assert_eq!(receiver.deliveries(), events, "{name}");
        let confirmed = receiver.confirmed();
        let wrong: Vec<_> = confirmed.iter().filter(|(_, times)| **times != 1).take(3).collect();
        assert!(
            confirmed.len() == events && wrong.is_empty(),
            "{name}: {}, {wrong:?}",
            confirmed.len()
        );
    }
}

/// Kills workers during deliveries. Each event arrives at least once, under one id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_workers_lose_no_delivery() {
    const EVENTS: usize = 400;
    let receiver = Downstream::start(ReceiverBehavior::Slow(Duration::from_millis(20)));
    let mut stack = builder(&[&receiver]).workers(2).worker_env("RUST_LOG", "warn").start().await;
    let sender = stack.sender();
    for number in 0..EVENTS {
        sender.acme(&film(number)).await.expect(202, "accepted");
        if number % 100 == 50 {
            let worker = stack.workers.remove(0);
            worker.process.kill();
            stack.spawn_worker();
        }
    }
    wait_for_deliveries(&receiver, EVENTS, Duration::from_secs(60)).await;
    let events: std::collections::BTreeSet<String> = receiver
        .received()
        .values()
        .map(|seen| seen[0].json()["event_id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(events.len(), EVENTS);
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.dead("out:webhook_1").await, 0);
}
