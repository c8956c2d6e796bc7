//! Receivers in practice: busy, being deployed, moved, or rotating their secret.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use tests::downstream::{Downstream, ReceivedRequest, ReceiverBehavior};
use tests::poll;
use tests::sender::{content_event, now_ms};
use tests::sign;
use tests::stack::{Stack, StackBuilder};

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, builder_with_key, event};

const NEW: &str = "outbound-receivers-new-91fe";
const OLD: &str = "outbound-receivers-old-2c07";

fn delivery_settings(builder: StackBuilder) -> StackBuilder {
    builder.env("WEBHOOK_SECRET_KEY", NEW).env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
}

fn sending_to(urls: &[&Downstream]) -> StackBuilder {
    let urls: Vec<String> = urls.iter().map(|one| one.url()).collect();
    delivery_settings(Stack::builder()).env("WEBHOOK_URLS", &urls.join(","))
}

fn film(number: usize) -> Value {
    content_event("content_added", &format!("film-{number}"), "A film", now_ms())
}

async fn wait_for_deliveries(receiver: &Downstream, deliveries: usize, within: Duration) {
    let confirmed = || receiver.confirmed().values().filter(|times| **times > 0).count();
    poll::until(&format!("{deliveries} deliveries"), within, async || match confirmed() {
        seen if seen == deliveries => Ok(()),
        seen => Err(seen),
    })
    .await;
}

async fn dead_letter(stack: &Stack, platform: &str, within: Duration) -> Value {
    poll::until("a dead letter", within, async || match stack.dead(platform).await {
        1 => Ok(()),
        other => Err(other),
    })
    .await;
    let shown = stack.dlq_tool(&["list", "--platform", platform, "--output", "json"]).await;
    serde_json::from_str(shown.stdout.lines().next().unwrap()).unwrap()
}

/// A receiver that takes thirty deliveries a minute, with a minute shortened to a second. All other
/// limits have their defaults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_receiver_gets_everything_without_a_dead_letter() {
    const EVENTS: usize = 250;
    let receiver = Downstream::start(ReceiverBehavior::Limited(30, Duration::from_secs(1)));
    let stack =
        sending_to(&[&receiver]).env("WEBHOOK_RATE_LIMIT_WINDOW", "1000").workers(2).start().await;
    let sender = stack.sender();
    for number in 0..EVENTS {
        sender.acme(&film(number)).await.expect(202, "accepted");
    }
    wait_for_deliveries(&receiver, EVENTS, Duration::from_secs(120)).await;
    assert_eq!(stack.dead("out:webhook_1").await, 0);
    let received = receiver.received();
    let refused: usize = received.values().flatten().filter(|one| one.status == 429).count();
    assert!(refused > 0, "the receiver was never busy");
    assert!(receiver.confirmed().values().all(|times| *times == 1), "{:?}", receiver.confirmed());
    let logs: String = stack.workers.iter().map(|worker| worker.process.log()).collect();
    assert!(logs.contains("the destination is busy; its deliveries wait"), "{logs}");
    assert!(!logs.contains("Webhook delivery failed"), "no attempt is spent");
}

/// A busy answer pauses the destination for all workers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_answer_holds_the_destination_for_all_workers() {
    let (receiver, other) = (
        Downstream::start(ReceiverBehavior::Always(429)),
        Downstream::start(ReceiverBehavior::Accept),
    );
    let stack = sending_to(&[&receiver, &other]).workers(2).start().await;
    stack.sender().acme(&film(0)).await.expect(202, "accepted");
    poll::until("the destination is busy", WAIT_LIMIT, async || {
        let held: Option<String> =
            stack.redis.command(&["HGET", "webhooks:state:out:webhook_1", "busy_until"]).await;
        held.map(drop).ok_or("not yet")
    })
    .await;
    // As if the receiver had asked for half an hour.
    let until = (now_ms() + 1_800_000).to_string();
    let (): () =
        stack.redis.command(&["HSET", "webhooks:state:out:webhook_1", "busy_until", &until]).await;
    poll::until("nothing is on its way", WAIT_LIMIT, async || {
        let before = receiver.received().values().map(Vec::len).sum::<usize>();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let after = receiver.received().values().map(Vec::len).sum::<usize>();
        if before == after { Ok(()) } else { Err(after) }
    })
    .await;
    receiver.set_behavior(ReceiverBehavior::Accept);
    let before: usize = receiver.received().values().map(Vec::len).sum();
    for number in 1..=20 {
        stack.sender().acme(&film(number)).await.expect(202, "accepted");
    }
    wait_for_deliveries(&other, 21, WAIT_LIMIT).await;
    assert_eq!(receiver.received().values().map(Vec::len).sum::<usize>(), before);
    let shown = stack.sender().admin(Method::GET, "/api/webhooks/status", &Value::Null).await.json;
    assert!(shown["destinations"][0]["busy_until"].is_string(), "{shown}");
    assert!(shown["destinations"][1]["busy_until"].is_null(), "{shown}");
    // An operator can end the pause.
    let path = "/api/webhooks/destinations/webhook_1";
    let answer = stack.sender().admin(Method::PATCH, path, &json!({"paused": false})).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    wait_for_deliveries(&receiver, 21, WAIT_LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_answers_for_a_day_spend_attempts_again() {
    let receiver = Downstream::start(ReceiverBehavior::Always(429));
    let stack = sending_to(&[&receiver]).start().await;
    let since = (now_ms() - 25 * 3_600_000).to_string();
    // The series of busy answers continues: its last pause has just ended.
    let until = (now_ms() - 1_000).to_string();
    let state = ["busy_since", &since, "busy_until", &until];
    let words = [&["HSET", "webhooks:state:out:webhook_1"][..], &state].concat();
    let (): () = stack.redis.command(&words).await;
    stack.sender().acme(&film(0)).await.expect(202, "accepted");
    let letter = dead_letter(&stack, "out:webhook_1", Duration::from_secs(60)).await;
    assert_eq!(
        (&letter["error_code"], &letter["attempts"]),
        (&json!("http_4xx"), &json!(4)),
        "{letter}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_deploy_costs_no_dead_letter() {
    let deploying = Downstream::start(ReceiverBehavior::Deploying(Duration::from_secs(3)));
    let (never, moved) = (
        Downstream::start(ReceiverBehavior::Always(404)),
        Downstream::start(ReceiverBehavior::Always(301)),
    );
    let stack = sending_to(&[&deploying, &never, &moved]).start().await;
    stack.sender().acme(&film(0)).await.expect(202, "accepted");
    let letter = dead_letter(&stack, "out:webhook_3", WAIT_LIMIT).await;
    let target = "status 301: redirect to https://moved.example/new/…; redirects are not followed";
    assert_eq!((&letter["error"], &letter["attempts"]), (&json!(target), &json!(1)), "{letter}");
    wait_for_deliveries(&deploying, 1, Duration::from_secs(60)).await;
    let statuses = |receiver: &Downstream| -> Vec<u16> {
        receiver.received().values().flatten().map(|one| one.status).collect()
    };
    let seen = statuses(&deploying);
    assert!(seen.contains(&404) && seen.ends_with(&[200]), "{seen:?}");
    // A persistent 404 is final after about a minute and a few attempts.
    let letter = dead_letter(&stack, "out:webhook_2", Duration::from_secs(90)).await;
    assert_eq!(
        (&letter["error_code"], &letter["attempts"]),
        (&json!("http_4xx"), &json!(6)),
        "{letter}"
    );
    assert_eq!(statuses(&never), [404; 6]);
    let seen: Vec<Duration> = never.received().values().flatten().map(|one| one.at).collect();
    assert!(seen[5] - seen[0] > Duration::from_secs(30), "{seen:?}");
    assert_eq!(stack.dead("out:webhook_1").await, 0);
    let log = stack.workers[0].process.log();
    assert!(
        log.contains("Webhook delivery failed (attempt 1/6): webhook_2 - status 404. Retrying in"),
        "{log}"
    );
    assert!(!log.contains("/new") && !log.contains("/hook") && !log.contains("s3cret"), "{log}");
}

fn standard_signature(secret: &str, one: &ReceivedRequest) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(
        format!("{}.{}.", one.headers["webhook-id"], one.headers["webhook-timestamp"]).as_bytes(),
    );
    mac.update(&one.body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

fn is_signed_with(one: &ReceivedRequest, newest: &str, previous: Option<&str>) -> bool {
    let plain = |secret: &str| format!("sha256={}", sign::hmac_sha256_hex(secret, &one.body));
    let standard: Vec<String> = [Some(newest), previous]
        .into_iter()
        .flatten()
        .map(|secret| standard_signature(secret, one))
        .collect();
    one.headers["x-tributary-signature"] == plain(newest)
        && one.headers.get("x-tributary-signature-previous").cloned() == previous.map(plain)
        && one.headers["webhook-signature"] == standard.join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_signs_with_both_secrets_while_the_old_is_valid() {
    let (receiver, listed) =
        (Downstream::start(ReceiverBehavior::Accept), Downstream::start(ReceiverBehavior::Accept));
    let stack = delivery_settings(builder_with_key())
        .env("WEBHOOK_URLS", &listed.url())
        .env("WEBHOOK_SECRET_KEY_PREVIOUS", OLD)
        .start()
        .await;
    let sender = stack.sender();
    let registered = |secret: &str, old: &str| {
        json!({"platform": "shop", "secret": secret,
        "url": receiver.url(), "old_secret_expires_in": old})
    };
    let signed = async |newest: &str, previous: Option<&str>| {
        poll::until("a delivery with these signatures", WAIT_LIMIT, async || {
            accepted(&sender, &event("shop", newest), PROPAGATION_LIMIT).await;
            let all = receiver.received();
            let good = |one: &&ReceivedRequest| is_signed_with(one, newest, previous);
            all.values().flatten().find(good).map(drop).ok_or_else(|| format!("{all:?}"))
        })
        .await;
    };
    sender.registered(&registered(OLD, "1h")).await;
    signed(OLD, None).await;
    sender.registered(&registered(NEW, "8s")).await;
    signed(NEW, Some(OLD)).await;
    // The old secret expires by itself.
    signed(NEW, None).await;
    wait_for_deliveries(&listed, listed.deliveries(), WAIT_LIMIT).await;
    let all = listed.received();
    assert!(all.values().flatten().all(|one| is_signed_with(one, NEW, Some(OLD))), "{all:?}");
}
