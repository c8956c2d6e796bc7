//! Failures of one destination or one platform's outbox stay isolated. Other destinations get their
//! deliveries, events are accepted, and no promised delivery is lost.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::admin::SECRETS_KEY;
use tests::downstream::{Downstream, ReceiverBehavior};
use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{content_event, now_ms};
use tests::stack::{Stack, StackBuilder};

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, event};

const SECRET: &str = "bulkhead-secret-51d0";

fn delivery_settings() -> StackBuilder {
    Stack::builder()
        .env("WEBHOOK_SECRET_KEY", SECRET)
        .env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
        .env("WEBHOOK_RATE_LIMIT_MAX", "1000000")
        .env("WEBHOOK_RETRY_DELAY", "100")
}

fn sending_to(urls: &[&Downstream]) -> StackBuilder {
    let urls: Vec<String> = urls.iter().map(|one| one.url()).collect();
    delivery_settings().env("WEBHOOK_URLS", &urls.join(","))
}

fn film(number: usize) -> Value {
    content_event("content_added", &format!("film-{number}"), "A film", now_ms())
}

async fn wait_for_deliveries(destination: &Downstream, deliveries: usize, within: Duration) {
    poll::until(&format!("{deliveries} deliveries"), within, async || {
        match destination.confirmed().len() {
            seen if seen == deliveries => Ok(()),
            seen => Err(format!("{seen} deliveries")),
        }
    })
    .await;
}

async fn length(stack: &Stack, key: &str) -> usize {
    stack.redis.command(&["XLEN", key]).await
}

async fn registration_record(stack: &Stack, platform: &str) -> Option<String> {
    stack.redis.command(&["HGET", "webhooks:registrations", platform]).await
}

/// Events accepted before the removal of a platform are processed and delivered to its destination
/// with a signature, although the destination is unavailable for longer than the drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removed_platform_still_delivers_its_accepted_events() {
    const EVENTS: usize = 25;
    let mut absent = Downstream::not_listening(ReceiverBehavior::Accept);
    let stack = delivery_settings().env("SECRETS_KEY", SECRETS_KEY).start().await;
    let sender = stack.sender();
    sender
        .registered(&json!({"platform": "shop", "secret": "a-former-secret", "url": absent.url()}))
        .await;
    let registration = json!({"platform": "shop", "secret": SECRET, "url": absent.url()});
    sender.registered(&registration).await;
    for _ in 0..EVENTS {
        accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    let removed = sender.unregister("shop").await;
    assert_eq!(removed.status, 202, "{}", removed.text);
    assert_eq!(
        (&removed.json["state"], &removed.json["keys"]),
        (&json!("draining"), &json!([])),
        "{}",
        removed.text
    );
    let record: Value =
        serde_json::from_str(&registration_record(&stack, "shop").await.unwrap()).unwrap();
    assert_eq!(
        record["secrets"].as_array().map(Vec::len),
        Some(1),
        "only the signing secret is kept"
    );
    // Longer than the shortest drain.
    poll::throughout("the record exists", Duration::from_secs(13), async || {
        registration_record(&stack, "shop").await.map(drop).ok_or("the record is missing")
    })
    .await;
    assert_eq!(
        sender.send(&event("shop", SECRET)).await.errcode(),
        "E_WEBHOOK_UNSUPPORTED_PLATFORM"
    );
    absent.listen();
    // The circuit breaker permits a probe after at most half a minute.
    wait_for_deliveries(&absent, EVENTS, Duration::from_secs(50)).await;
    for received in absent.received().values().flatten() {
        let expected = format!("sha256={}", tests::sign::hmac_sha256_hex(SECRET, &received.body));
        assert_eq!(received.headers["x-tributary-signature"], expected);
    }
    poll::until("its record is removed", WAIT_LIMIT, async || {
        match registration_record(&stack, "shop").await {
            None => Ok(()),
            Some(_) => Err("still there"),
        }
    })
    .await;
    assert_eq!(length(&stack, "webhooks:outgoing:platform_shop").await, 0);
    let log = stack.workers[0].process.log();
    assert!(!log.contains("its secret cannot be opened"), "{log}");
}

/// A key of the wrong type blocks a destination's queue or a platform's outbox. Everything else
/// continues, and no delivery is missing after its removal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_key_delays_no_other_destination_or_platform() {
    let (first, second) =
        (Downstream::start(ReceiverBehavior::Accept), Downstream::start(ReceiverBehavior::Accept));
    let stack = sending_to(&[&first, &second]).start().await;
    let sender = stack.sender();
    let set = async |key: &str| {
        let (): () = stack.redis.command(&["DEL", key]).await;
        let (): () = stack.redis.command(&["SET", key, "somebody's"]).await;
    };
    set("webhooks:outgoing:webhook_1").await;
    for number in 0..5 {
        sender.acme(&film(number)).await.expect(202, "accepted");
    }
    wait_for_deliveries(&second, 5, WAIT_LIMIT).await;
    poll::until("overflow of the first queue is a dead letter", WAIT_LIMIT, async || {
        match stack.dead("out:webhook_1").await {
            5 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(length(&stack, "webhooks:outbox:acme").await, 0);
    let (): () = stack.redis.command(&["DEL", "webhooks:outgoing:webhook_1"]).await;
    let replayed = stack.dlq_tool(&["replay", "--platform", "out:webhook_1", "--yes"]).await;
    assert_eq!(replayed.code, Some(0), "{replayed:?}");
    wait_for_deliveries(&first, 5, WAIT_LIMIT).await;

    set("webhooks:outbox:mux").await;
    for number in 5..10 {
        sender.acme(&film(number)).await.expect(202, "accepted");
    }
    wait_for_deliveries(&first, 10, WAIT_LIMIT).await;
    wait_for_deliveries(&second, 10, WAIT_LIMIT).await;
}

/// The queue of a dead destination may grow, but leaves Redis enough memory for events. Events are
/// accepted and reach the other destinations. Deliveries that do not fit are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_destination_does_not_fill_redis() {
    let (dead, kind) = (
        Downstream::not_listening(ReceiverBehavior::Accept),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let stack = sending_to(&[&dead, &kind])
        .redis(RedisOptions::fast().set("maxmemory", "40mb").set("maxmemory-policy", "noeviction"))
        .ingress_env("RUST_LOG", "warn")
        .worker_env("RUST_LOG", "warn")
        .start()
        .await;
    let (sender, padding) = (stack.sender(), "y".repeat(30_000));
    let mut sent = 0;
    let overflowed = async || {
        let count: Option<u64> =
            stack.redis.command(&["HGET", "webhooks:state:out:webhook_1", "overflow"]).await;
        count.unwrap_or(0)
    };
    // Twice the memory of Redis.
    let until = Instant::now() + Duration::from_secs(180);
    while sent < 2_700 {
        let mut film = film(sent);
        film["payload"]["padding"] = json!(padding);
        sender.acme(&film).await.expect(202, "accepted");
        sent += 1;
        if sent % 50 == 0 {
            // The backlog that waits for a worker belongs to the platform's own share.
            stack.wait_until_drained(WAIT_LIMIT).await;
        }
        assert!(Instant::now() < until, "{sent} sent");
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    wait_for_deliveries(&kind, sent, WAIT_LIMIT).await;
    assert!(overflowed().await > 0);
    let waiting = length(&stack, "webhooks:outgoing:webhook_1").await as u64;
    assert!(waiting > 100, "{waiting}");
    assert_eq!(waiting + overflowed().await, sent as u64, "each is waiting or counted");
    stack.workers[0].process.wait_until_logged("takes more than its share", WAIT_LIMIT).await;
}

/// An outbox entry of a later release waits for a worker that can read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbox_entry_of_a_later_release_waits_for_it() {
    let receiver = Downstream::start(ReceiverBehavior::Accept);
    let stack = sending_to(&[&receiver]).start().await;
    let at = now_ms().to_string();
    let entry = [
        ("v", "99"),
        ("event_id", "later"),
        ("event_type", "content_added"),
        ("occurred_at", &at),
        ("received_at", &at),
        ("attempt", "1"),
        ("origin", "1-1"),
        ("body", "{}"),
        ("forwarded_at", &at),
        ("destinations", "webhook_1"),
        ("result", ""),
    ];
    let words: Vec<&str> = ["XADD", "webhooks:outbox:acme", "*"]
        .into_iter()
        .chain(entry.iter().flat_map(|(k, v)| [*k, *v]))
        .collect();
    let _: String = stack.redis.command(&words).await;
    stack.workers[0]
        .process
        .wait_until_logged("an outbox entry of a later release", WAIT_LIMIT)
        .await;
    stack.sender().acme(&film(1)).await.expect(202, "accepted");
    wait_for_deliveries(&receiver, 1, WAIT_LIMIT).await;
    // Workers claim the entry repeatedly and keep it.
    poll::throughout("the entry is in the outbox", Duration::from_secs(4), async || match length(
        &stack,
        "webhooks:outbox:acme",
    )
    .await
    {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
}
