//! Registrations that this version cannot use, during a rolling upgrade or after manual changes in
//! Redis. No process stops, no webhook is lost, and other platforms work.

use reqwest::Method;
use serde_json::{Value, json};
use tests::poll;
use tests::sender::{content_event, now_ms};

use crate::WAIT_LIMIT;
use crate::registration::{PROPAGATION_LIMIT, accepted, builder_with_key, event};

const SECRET: &str = "registered-secret-1c55-never-to-be-seen";
const HASH: &str = "webhooks:registrations";

fn shown_registration(answer: &tests::sender::HttpAnswer, platform: &str) -> Value {
    let all = answer.json["platforms"].as_array().unwrap();
    all.iter().find(|one| one["platform"] == platform).cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_of_a_later_version_waits_and_harms_no_other() {
    let mut stack = builder_with_key().start().await;
    let sender = stack.sender();
    sender.registered(&json!({"platform": "shop", "secret": SECRET})).await;
    accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    let later = r#"{"v":99,"definition":{"aliases":["morrow"]},"what":["nobody","knows"]}"#;
    let unsound = concat!(
        r#"{"v":1,"definition":{"colour":"red"},"secrets":[],"state":"active","#,
        r#""registered_at":1,"updated_at":1}"#,
    );
    let fields = [
        "HSET", HASH, "tomorrow", later, "odd", unsound, "torn", "{\"v\":1", "#version", "by-hand",
    ];
    stack.redis.command::<u64>(&fields).await;

    // Senders must retry. Some of them would take a 404 as final.
    for name in ["tomorrow", "morrow", "odd", "torn"] {
        poll::until("the registration is known", PROPAGATION_LIMIT, async || {
            let answer = sender.send(&event(name, SECRET)).await;
            let again = answer.header("retry-after").is_some();
            if (answer.status, again) == (503, true) { Ok(()) } else { Err(answer.text) }
        })
        .await;
    }
    sender.send(&event("nobody", SECRET)).await.expect_error(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM");
    sender.send(&event("shop", SECRET)).await.expect(202, "accepted");
    sender.acme(&content_event("content_added", "c", "t", now_ms())).await.expect(202, "accepted");
    for role in stack.ingresses.iter().chain(&stack.workers) {
        role.ready(WAIT_LIMIT).await;
        poll::until("three are counted", PROPAGATION_LIMIT, async || {
            let unusable = role.metric("webhook_unusable_registrations", &[]).await;
            if (unusable - 3.0).abs() < f64::EPSILON { Ok(()) } else { Err(unusable) }
        })
        .await;
        assert!(!role.process.log().contains(SECRET));
    }

    // The route shows the registration, and nothing changes it.
    let all = sender.platforms().await;
    assert_eq!(shown_registration(&all, "tomorrow")["state"], "unusable");
    assert_eq!(
        (&shown_registration(&all, "shop")["state"], &shown_registration(&all, "shop")["source"]),
        (&json!("active"), &json!("registered"))
    );
    assert_eq!(
        (
            &shown_registration(&all, "acme")["source"],
            &shown_registration(&all, "github")["source"]
        ),
        (&json!("file"), &json!("bundled"))
    );
    for answer in [
        sender.register(&json!({"platform": "tomorrow", "secret": SECRET})).await,
        sender.unregister("tomorrow").await,
        sender.pause("tomorrow", true).await,
    ] {
        answer.expect_error(409, "E_INVALID_REQUEST");
    }
    let raw: String = stack.redis.command(&["HGET", HASH, "tomorrow"]).await;
    assert_eq!(raw, later);
    // Registering it again replaces a merely invalid record.
    sender.registered(&json!({"platform": "odd", "secret": SECRET})).await;
    sender.send(&event("odd", SECRET)).await.expect(202, "accepted");

    // A process that finds these registrations at startup.
    stack.add_ingress().await;
    stack.add_worker().await;
    let started = stack.ingresses[1].sender();
    started.send(&event("shop", SECRET)).await.expect(202, "accepted");
    assert_eq!(started.send(&event("morrow", SECRET)).await.status, 503);
    stack.wait_until_drained(WAIT_LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_changes_are_logged_with_their_origin() {
    let stack = builder_with_key().workers(0).start().await;
    let sender = stack.sender();
    sender.registered(&json!({"platform": "shop", "secret": SECRET, "aliases": ["store"]})).await;
    assert_eq!(sender.pause("store", true).await.status, 200);
    assert_eq!(sender.pause("shop", false).await.status, 200);
    let removed = sender.unregister("store").await;
    assert_eq!(
        (removed.status, &removed.json["platform"], &removed.json["state"]),
        (202, &json!("shop"), &json!("draining"))
    );
    assert_eq!(
        sender.admin(Method::DELETE, "/api/v1/webhooks/platforms/shop", &Value::Null).await.status,
        202
    );
    let log = stack.ingresses[0].process.log();
    for action in ["registered", "paused", "resumed", "removed"] {
        let line = log.lines().find(|line| line.contains(&format!("platform shop {action}")));
        assert!(
            line.is_some_and(|line| line.contains("peer") && line.contains("127.0.0.1")),
            "{action} in {log}"
        );
    }
    assert!(!log.contains(SECRET));
}
