//! Batch requests. Ingress accepts all events of a request or none. From then on each event is
//! separate: duplicates of a batch, and events shared with another batch, are recognised one by
//! one.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::ledger::entries;
use tests::poll;
use tests::process;
use tests::sender::{ACME_SECRET, HttpAnswer, Sender, now_ms, rfc3339, unique};
use tests::sign::{self, SignedWebhook, hmac_sha256_hex};
use tests::stack::{DatabaseKind, Stack, StackBuilder};

use crate::WAIT_LIMIT;

const SECRET: &str = "a-twitch-secret-of-enough-characters";

fn stack(toml: &str) -> StackBuilder {
    let twitch = format!("[platforms.twitch]\nsecrets = [\"env:TWITCH_SECRET\"]\n{toml}");
    Stack::builder().platforms(&twitch).ingress_env("TWITCH_SECRET", SECRET)
}

/// A Twitch message, signed with the current time.
fn message(platform: &str, id: &str, body: &str) -> SignedWebhook {
    let at = rfc3339(now_ms()).replace('Z', "456789Z");
    let signature = hmac_sha256_hex(SECRET, format!("{id}{at}{body}").as_bytes());
    SignedWebhook {
        path: format!("/api/v1/webhooks/{platform}"),
        headers: Vec::new(),
        body: body.as_bytes().to_vec(),
    }
    .header("Twitch-Eventsub-Message-Id", id)
    .header("Twitch-Eventsub-Message-Timestamp", &at)
    .header("Twitch-Eventsub-Message-Signature", &format!("sha256={signature}"))
    .header("Twitch-Eventsub-Message-Type", "notification")
}

/// A drop granted to `user`. The number has a form that no JSON library writes.
fn drop_event(id: &str, user: &str) -> String {
    format!(
        "{{\"id\":\"{id}\", \
         \"data\":{{\"user_id\":\"{user}\",\"entitlement_id\":\"e-{id}\",\"benefit_id\":\"b\",\
         \"weight\":1.50e0,\"created_at\":\"2024-12-09T09:58:30.325Z\"}}}}"
    )
}

fn drops(ids: &[&str]) -> String {
    let elements: Vec<String> = ids.iter().map(|id| drop_event(id, "1234")).collect();
    format!(
        "{{\"subscription\":{{\"id\":\"f1c2\",\"status\":\"enabled\",\
         \"type\":\"drop.entitlement.grant\",\"cost\":0}},\
         \"events\":[{}]}}",
        elements.join(",")
    )
}

fn ids(answer: &HttpAnswer) -> Vec<&str> {
    answer.json["event_ids"]
        .as_array()
        .expect("event_ids")
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

on_both!(batch_applies_every_drop_once);

async fn batch_applies_every_drop_once(kind: DatabaseKind) {
    let effects = "[platforms.twitch.effects]\n\"drop.entitlement.grant\" = { effect = \"job\", \
                   status = \"granted\", \
                   id = \"/events/data/entitlement_id\", set = { data = \"/events/data\" } }\n";
    let stack = stack(effects).database(kind).start().await;
    let sender = stack.sender();
    let (one, two, three) = (unique("drop"), unique("drop"), unique("drop"));
    let (first, second) = (unique("message"), unique("message"));

    let answer = sender.send(&message("twitch", &first, &drops(&[&one, &two]))).await;
    assert_eq!(answer.expect(202, "accepted"), one);
    assert_eq!(ids(&answer), [&one, &two]);
    // The same message again, and another message with a known drop.
    let again = sender.send(&message("twitch", &first, &drops(&[&one, &two]))).await;
    assert_eq!(again.expect(200, "duplicate"), one);
    assert_eq!(ids(&again), [&one, &two]);
    let mixed = sender.send(&message("twitch", &second, &drops(&[&two, &three]))).await;
    assert_eq!(mixed.expect(202, "accepted"), two);
    assert_eq!(ids(&mixed), [&two, &three]);
    let lone = sender.send(&message("twitch", &unique("message"), &drops(&[&three]))).await;
    assert_eq!((lone.expect(200, "duplicate"), ids(&lone)), (three.as_str(), vec![three.as_str()]));

    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(
        (stack.database.count("webhook_events").await, stack.database.count("jobs").await),
        (3, 3)
    );
    for id in [&one, &two, &three] {
        let event = stack.database.event("twitch", id).await.expect("the ledger's row");
        assert_eq!(event["event_type"], "drop.entitlement.grant");
        assert_eq!(event["occurred_at"], "2024-12-09T09:58:30.325Z");
        let sql = "SELECT status, data FROM jobs WHERE platform = $1 AND job_id = $2";
        let job =
            stack.database.rows(sql, &["twitch", &format!("e-{id}")]).await.pop().expect("the job");
        assert_eq!((&job["status"], &job["data"]["user_id"]), (&json!("granted"), &json!("1234")));
    }
    let metric = async |outcome: &str| {
        let labels = ["platform=\"twitch\"", outcome];
        stack.ingresses[0].metric("webhook_requests_total", &labels).await
    };
    poll::until("a request counts once", WAIT_LIMIT, async || {
        let seen = (metric("outcome=\"accepted\"").await, metric("outcome=\"duplicate\"").await);
        if seen == (2.0, 2.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_element_is_queued_with_the_message_fields() {
    let stack = stack("").workers(0).start().await;
    let (one, two) = (unique("drop"), unique("drop"));
    let body = drops(&[&one, &two]);
    stack
        .sender()
        .send(&message("twitch", &unique("message"), &body))
        .await
        .expect(202, "accepted");
    let queued = entries(&stack, "webhooks:incoming:twitch").await;
    assert_eq!(queued.len(), 2);
    for ((_, fields), id) in queued.iter().zip([&one, &two]) {
        let frame = body.split_once('[').unwrap().0;
        let expected = format!("{frame}{}}}", drop_event(id, "1234"));
        assert_eq!(
            String::from_utf8_lossy(&fields["body"]),
            expected,
            "byte for byte, the list but for this element"
        );
        assert_eq!(fields["event_id"], id.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_batch_leaves_nothing() {
    let toml = "[platforms.narrow]\npreset = \"twitch\"\nsecrets = [\"env:TWITCH_SECRET\"]\n\
        rate_limit = 4\nburst = 3\n";
    let stack = stack(toml).workers(0).ingress_env("MAX_BACKLOG", "5").start().await;
    let sender = stack.sender();
    let traces = async || {
        let markers: Vec<String> = stack.redis.command(&["KEYS", "webhook:hash:*"]).await;
        let limits: Vec<String> = stack.redis.command(&["KEYS", "webhooks:limit:*"]).await;
        (
            stack.unfinished("twitch").await + stack.unfinished("narrow").await,
            markers.len(),
            limits.len(),
        )
    };
    let good = drops(&["a", "b", "c"]);
    let wrong = message("twitch", "m", &good.replace("1234", "1235"));
    let forged = SignedWebhook { body: good.clone().into_bytes(), ..wrong };
    sender.send(&forged).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");

    let bad = good.replace(&drop_event("c", "1234"), "7");
    let answer = sender.send(&message("twitch", "m", &bad)).await;
    answer.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
    assert_eq!(answer.json["errmesg"], "Invalid webhook payload: /events/2: must be an object");
    let many: Vec<String> = (0..129).map(|n| format!("d{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let answer = sender.send(&message("twitch", "m", &drops(&many))).await;
    answer.expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
    assert!(answer.json["errmesg"].as_str().unwrap().contains("128 events"), "{answer:?}");
    // Six events exceed the backlog, although the first five would fit.
    let six = drops(&["a", "b", "c", "d", "e", "f"]);
    let answer = sender.send(&message("twitch", "m", &six)).await;
    answer.expect_error(503, "E_WEBHOOK_OVERLOADED");
    assert_eq!(traces().await, (0, 0, 0));

    // Two of the three tokens are used. Two more events need one more token: 15 s at four a minute.
    sender.send(&message("narrow", "m1", &drops(&["a", "b"]))).await.expect(202, "accepted");
    let refused = message("narrow", "m2", &drops(&["a", "c", "d"]));
    let answer = sender.send(&refused).await;
    answer.expect_error(429, "E_WEBHOOK_RATE_LIMITED");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((13..=15).contains(&wait), "{wait}");
    assert_eq!(traces().await, (2, 2, 1));
    // The refused batch consumed no token.
    sender.send(&message("narrow", "m3", &drops(&["a", "c"]))).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_racing_across_replicas_stay_whole() {
    let toml = "[platforms.narrow]\npreset = \"twitch\"\nsecrets = [\"env:TWITCH_SECRET\"]\n\
        rate_limit = 1\nburst = 30\n";
    let stack = stack(toml).ingresses(2).workers(0).start().await;
    // Twenty batches of four events. Each shares one drop with the next batch and is sent twice,
    // once to each replica.
    let mut sends = tokio::task::JoinSet::new();
    for n in 0..40 {
        let sender = Sender::new(&stack.ingresses[n % 2].url);
        let first = n / 2 * 3;
        sends.spawn(async move {
            let ids: Vec<String> = (first..first + 4).map(|n| format!("drop-{n}")).collect();
            let body = drops(&ids.iter().map(String::as_str).collect::<Vec<_>>());
            (sender.send(&message("narrow", &format!("m{first}"), &body)).await, ids)
        });
    }
    let mut promised = BTreeSet::new();
    for (answer, ids) in sends.join_all().await {
        match answer.status {
            200 | 202 => promised.extend(ids),
            429 => assert!(answer.header("retry-after").is_some()),
            other => panic!("{other}: {answer:?}"),
        }
    }
    let queued = entries(&stack, "webhooks:incoming:narrow").await;
    let queued: Vec<String> = queued
        .iter()
        .map(|(_, fields)| String::from_utf8_lossy(&fields["event_id"]).into_owned())
        .collect();
    let distinct: BTreeSet<String> = queued.iter().cloned().collect();
    assert_eq!(queued.len(), distinct.len(), "no drop twice: {queued:?}");
    assert_eq!(distinct, promised, "every drop of an accepted batch, and none of a refused one");
    assert!(
        (27..=30).contains(&queued.len()),
        "as many whole batches as fit into 30: {}",
        queued.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_platform_can_send_batches_of_several_types() {
    let toml = "[platforms.mixed]\nsecrets = [\"env:ACME_SECRET\"]\n\
                event_types = [\"stream.up\", \"stream.down\"]\n\
                event = { batch = \"\", id = \"/id\", type = \"/kind\", time = \"/at\", \
                session = \"/room\" }\n[platforms.mixed.effects]\n\
                \"stream.up\" = { effect = \"session.status\", status = \"live\", \
                set = { title = \"/title\" } }\n\
                \"stream.down\" = { effect = \"session.status\", status = \"ended\" }\n";
    let stack = stack(toml).start().await;
    let send = async |list: Value| {
        stack.sender().send(&sign::generic("mixed", ACME_SECRET, list.to_string().as_bytes())).await
    };
    let event = |id: &str, kind: &str, room: &str, age: i64| {
        json!({"id": id, "kind": kind,
        "room": room, "title": "A title", "at": rfc3339(now_ms() - age)})
    };
    let list = json!([
        event("1", "stream.up", "r1", 2000),
        event("2", "chatter", "r1", 1500),
        event("3", "stream.down", "r1", 1000),
        event("4", "stream.up", "r2", 500),
    ]);
    let answer = send(list).await;
    assert_eq!(answer.expect(202, "accepted"), "1");
    assert_eq!(ids(&answer), ["1", "3", "4"], "without events outside event_types");
    let ignored = send(json!([event("5", "chatter", "r1", 0), event("6", "noise", "r1", 0)])).await;
    assert_eq!((ignored.expect(200, "ignored"), ids(&ignored)), ("5", vec!["5", "6"]));
    stack.status("r1", "ended", WAIT_LIMIT).await;
    stack.status("r2", "live", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.session("r1").await.unwrap()["title"], "A title");
    assert_eq!(stack.database.count("webhook_events").await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn captured_batch_is_explained_event_by_event() {
    let stack = stack("").workers(0).start().await;
    let request = message("twitch", "m", &drops(&["one", "two"]));
    let folder = process::folder();
    let (headers, body) = (folder.path().join("headers.txt"), folder.path().join("body.json"));
    let lines: Vec<String> =
        request.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    std::fs::write(&headers, lines.concat()).unwrap();
    std::fs::write(&body, &request.body).unwrap();
    let (program, ..) = stack.ingress_program();
    let program =
        program.args(["check-platform", "--platform", "twitch"]).arg("--headers").arg(&headers);
    let finished = program.arg("--body").arg(&body).run(WAIT_LIMIT).await;
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for text in [
        "2 events",
        "one (provider)",
        "two (provider)",
        "drop.entitlement.grant",
        "2024-12-09T09:58:30.325Z",
    ] {
        assert!(finished.stdout.contains(text), "{text}:\n{}", finished.stdout);
    }
    assert_eq!(stack.unfinished("twitch").await, 0, "nothing is sent");
}
