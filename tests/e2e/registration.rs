//! Platforms registered at runtime. Every process knows them within two seconds and after restarts.
//! Their secrets are encrypted in Redis. They cannot affect configured platforms or sessions of
//! others.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tests::admin::SECRETS_KEY;
use tests::ledger::entries;
use tests::poll;
use tests::redis::RedisOptions;
use tests::sender::{HttpAnswer, Sender, content_event, mux_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::{Stack, StackBuilder};
use tests::tcp_proxy::ProxyMode;

use crate::WAIT_LIMIT;

/// Longest time until every process knows a change.
pub(crate) const PROPAGATION_LIMIT: Duration = Duration::from_secs(2);
const SECRET: &str = "registered-secret-4be1-7a90-never-to-be-seen";

pub(crate) fn builder_with_key() -> StackBuilder {
    Stack::builder().env("SECRETS_KEY", SECRETS_KEY)
}

pub(crate) fn event(platform: &str, secret: &str) -> SignedWebhook {
    let body = content_event("content_added", &unique("c"), "t", now_ms()).to_string();
    sign::generic(platform, secret, body.as_bytes())
}

/// Repeats the request until it is accepted, as a sender that retries does, for at most `within`.
pub(crate) async fn accepted(sender: &Sender, signed: &SignedWebhook, within: Duration) -> String {
    poll::until("the event is accepted", within, async || {
        let answer = sender.send(signed).await;
        if answer.status == 202 { Ok(answer.event_id().to_owned()) } else { Err(answer.text) }
    })
    .await
}

async fn wait_for_ledger(stack: &Stack, platform: &str, event_id: &str, within: Duration) {
    poll::until("the event is in the ledger", within, async || {
        stack.database.event(platform, event_id).await.map(drop).ok_or("not there")
    })
    .await;
}

/// Returns whether any key of Redis, or its append-only file, contains `needle`.
async fn redis_holds(stack: &Stack, needle: &str) -> bool {
    let holds =
        |haystack: &[u8]| haystack.windows(needle.len()).any(|window| window == needle.as_bytes());
    let dump = "local all = {} for _, key in ipairs(redis.call('KEYS', '*')) do \
        local kind = redis.call('TYPE', key).ok \
        if kind == 'hash' then all[#all + 1] = table.concat(redis.call('HGETALL', key), ' ') \
        elseif kind == 'string' then all[#all + 1] = redis.call('GET', key) \
        elseif kind == 'set' then all[#all + 1] = table.concat(redis.call('SMEMBERS', key), ' ') \
        elseif kind == 'zset' then all[#all + 1] = table.concat(redis.call('ZRANGE', key, 0, -1), \
        ' ') \
        elseif kind == 'stream' then for _, entry in ipairs(redis.call('XRANGE', key, '-', '+')) \
            do all[#all + 1] = table.concat(entry[2], ' ') end \
        else return redis.error_reply('a kind of key that is not looked into: ' .. kind) end \
        all[#all + 1] = key end return table.concat(all, ' ')";
    let values: Vec<u8> = stack.redis.command(&["EVAL", dump, "0"]).await;
    assert!(!values.is_empty(), "nothing was read");
    let folder = stack.redis.folder().join("appendonlydir");
    let files =
        std::fs::read_dir(folder).expect("an append-only file").map(|file| file.unwrap().path());
    let written: Vec<u8> = files.flat_map(|file| std::fs::read(file).unwrap()).collect();
    assert!(
        String::from_utf8_lossy(&written).contains("webhooks:registrations"),
        "nothing was written"
    );
    holds(&values) || holds(&written)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registered_platform_is_known_everywhere_in_two_seconds() {
    let stack = builder_with_key().ingresses(2).workers(2).start().await;
    let (one, two) = (stack.ingresses[0].sender(), stack.ingresses[1].sender());
    assert_eq!(one.send(&event("shop", SECRET)).await.status, 404);
    let registration = json!({"platform": "shop", "secret": SECRET,
        "event_types": ["content_added"], "aliases": ["store"]});
    let answer = one.registered(&registration).await;
    let since = Instant::now();
    assert!(
        !answer.text.contains(SECRET) && !answer.text.contains("never-to-be-seen"),
        "{}",
        answer.text
    );
    let first = accepted(&one, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    let second =
        accepted(&two, &event("store", SECRET), PROPAGATION_LIMIT.saturating_sub(since.elapsed()))
            .await;
    for id in [&first, &second] {
        wait_for_ledger(&stack, "shop", id, PROPAGATION_LIMIT.saturating_sub(since.elapsed()))
            .await;
    }
    // The definition applies: this type is not subscribed, this secret belongs to another platform,
    // and only its own secret verifies.
    let body = content_event("content_removed", "c", "t", now_ms()).to_string();
    two.send(&sign::generic("shop", SECRET, body.as_bytes())).await.expect(200, "ignored");
    two.send(&event("shop", "another-secret"))
        .await
        .expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    for sender in [&one, &two] {
        let listed = sender.platforms().await;
        assert_eq!(listed.status, 200, "{}", listed.text);
        assert!(
            listed.text.contains("\"shop\"") && !listed.text.contains(SECRET),
            "{}",
            listed.text
        );
    }
    for role in stack.ingresses.iter().chain(&stack.workers) {
        assert!(!role.process.log().contains(SECRET));
    }
}

/// Many senders take 404 as final, and some send as soon as a platform is registered. A replica
/// that does not know it yet reads the registrations instead of waiting for its next poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_sent_before_the_registration_poll_gets_no_404() {
    let stack = builder_with_key().ingresses(2).workers(0).start().await;
    for name in ["shop", "store", "stall", "kiosk"] {
        stack.ingresses[0].sender().registered(&json!({"platform": name, "secret": SECRET})).await;
        stack.ingresses[1].sender().send(&event(name, SECRET)).await.expect(202, "accepted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_is_encrypted_and_survives_restarts() {
    let mut stack = builder_with_key().redis(RedisOptions::durable()).start().await;
    stack.sender().registered(&json!({"platform": "shop", "secret": SECRET})).await;
    let before = accepted(&stack.sender(), &event("shop", SECRET), PROPAGATION_LIMIT).await;
    wait_for_ledger(&stack, "shop", &before, WAIT_LIMIT).await;

    let encoded =
        [hex::encode(SECRET), base64::Engine::encode(&base64::prelude::BASE64_STANDARD, SECRET)];
    for needle in [SECRET.to_owned(), SECRETS_KEY.to_owned()].iter().chain(&encoded) {
        assert!(!redis_holds(&stack, needle).await, "a secret is in Redis, legibly");
    }
    assert!(redis_holds(&stack, "shop").await, "the search finds stored text");

    for role in stack.ingresses.drain(..).chain(stack.workers.drain(..)) {
        role.process.kill();
    }
    stack.redis.restart().await;
    stack.add_ingress().await;
    let signed = event("shop", SECRET);
    let after = accepted(&stack.sender(), &signed, WAIT_LIMIT).await;
    stack.add_worker().await;
    wait_for_ledger(&stack, "shop", &after, WAIT_LIMIT).await;
    assert!(
        !stack.workers[0].process.log().contains("no definition for"),
        "{}",
        stack.workers[0].process.tail()
    );
    stack.sender().send(&signed).await.expect(200, "duplicate");
}

/// Workers need no secrets: a worker without the key, or with another one, works as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_without_key_serves_registered_platforms() {
    let stack = Stack::builder().ingress_env("SECRETS_KEY", SECRETS_KEY).start().await;
    stack.sender().registered(&json!({"platform": "shop", "secret": SECRET})).await;
    let id = accepted(&stack.sender(), &event("shop", SECRET), PROPAGATION_LIMIT).await;
    wait_for_ledger(&stack, "shop", &id, WAIT_LIMIT).await;
    let log = stack.workers[0].process.log();
    let complaints = log.lines().filter(|line| line.contains("regist") && !line.contains(" INFO "));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// Entries of an unknown platform are reported and left alone. They are processed once it is
/// registered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_an_unknown_platform_run_once_registered() {
    let mut stack = builder_with_key().workers(0).start().await;
    let sender = stack.sender();
    sender.registered(&json!({"platform": "shop", "secret": SECRET})).await;
    accepted(&sender, &event("shop", SECRET), PROPAGATION_LIMIT).await;
    let record: String = stack.redis.command(&["HGET", "webhooks:registrations", "shop"]).await;
    for change in [&["HDEL", "shop"][..], &["HSET", "#version", "another"]] {
        let words = [&[change[0], "webhooks:registrations"], &change[1..]].concat();
        let _: i64 = stack.redis.command(&words).await;
    }
    stack.add_worker().await;
    stack.workers[0]
        .process
        .wait_until_logged(
            "events of a platform that this worker has no definition for",
            WAIT_LIMIT,
        )
        .await;
    assert_eq!((stack.unfinished("shop").await, stack.dead("shop").await), (1, 0));
    for change in [&["HSET", "shop", &record][..], &["HSET", "#version", "one more"]] {
        let words = [&[change[0], "webhooks:registrations"], &change[1..]].concat();
        let _: i64 = stack.redis.command(&words).await;
    }
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.count("webhook_events").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_needs_a_key_unless_plaintext_is_allowed() {
    let stack = Stack::builder().workers(0).start().await;
    let registration = json!({"platform": "shop", "secret": SECRET});
    let refused = stack.sender().register(&registration).await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(
        refused.json["errmesg"].as_str().is_some_and(|text| text.contains("SECRETS_KEY")),
        "{}",
        refused.text
    );
    let exists: bool = stack.redis.command(&["HEXISTS", "webhooks:registrations", "shop"]).await;
    assert!(!exists);
    assert_eq!(stack.sender().send(&event("shop", SECRET)).await.status, 404);

    let stack = Stack::builder().env("ALLOW_PLAINTEXT_SECRETS", "true").start().await;
    stack.sender().registered(&registration).await;
    let id = accepted(&stack.sender(), &event("shop", SECRET), PROPAGATION_LIMIT).await;
    wait_for_ledger(&stack, "shop", &id, WAIT_LIMIT).await;
}

/// The registration is encrypted with a key that this replica does not have. That is a fault of the
/// operator, so the answer is never a 4xx, and other platforms work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undecryptable_registration_affects_no_other_platform() {
    let mut stack = builder_with_key().workers(0).start().await;
    stack.sender().registered(&json!({"platform": "shop", "secret": SECRET})).await;
    let (program, url, ops) = stack.ingress_program();
    let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let process = program.env("SECRETS_KEY", other).spawn();
    stack.ingresses.push(tests::stack::ServerProcess { process, url, ops });
    stack.ingresses[1].ready(WAIT_LIMIT).await;
    let sender = stack.ingresses[1].sender();
    poll::until("the platform is known", PROPAGATION_LIMIT, async || {
        let answer = sender.send(&event("shop", SECRET)).await;
        if answer.errcode() == "E_WEBHOOK_CONFIG_MISSING" { Ok(()) } else { Err(answer.text) }
    })
    .await;
    sender.acme(&content_event("content_added", "c", "t", now_ms())).await.expect(202, "accepted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_needs_the_admin_token() {
    let stack = builder_with_key().workers(0).start().await;
    let body = json!({"platform": "shop", "secret": SECRET}).to_string().into_bytes();
    let bare = |path: &str| SignedWebhook {
        path: path.to_owned(),
        headers: Vec::new(),
        body: body.clone(),
    };
    let routes = [
        (Method::POST, "/api/v1/webhooks/register"),
        (Method::GET, "/api/v1/webhooks/platforms"),
        (Method::DELETE, "/api/v1/webhooks/platforms/shop"),
        (Method::PATCH, "/api/v1/webhooks/platforms/mux"),
    ];
    for (method, path) in routes {
        let sender = stack.sender();
        sender
            .request(method.clone(), &bare(path))
            .await
            .unwrap()
            .expect_error(401, "E_ADMIN_FORBIDDEN");
        let wrong = bare(path).header("authorization", "Bearer wrong");
        sender.request(method, &wrong).await.unwrap().expect_error(403, "E_ADMIN_FORBIDDEN");
    }
    assert_eq!(stack.sender().send(&event("shop", SECRET)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registration_of_a_configured_name_is_refused() {
    let stack = builder_with_key().workers(0).start().await;
    let sender = stack.sender();
    for name in ["acme", "mux", "netflix"] {
        let answer = sender.register(&json!({"platform": name, "secret": SECRET})).await;
        assert_eq!(
            (answer.status, answer.errcode()),
            (409, "E_INVALID_REQUEST"),
            "{name}: {}",
            answer.text
        );
    }
    // Their configured secrets still apply.
    sender.acme(&content_event("content_added", "c", "t", now_ms())).await.expect(202, "accepted");
    assert_eq!(sender.send(&event("acme", SECRET)).await.status, 401);
    assert_eq!(sender.unregister("acme").await.status, 409);
    assert_eq!(sender.unregister("nobody").await.status, 404);
    // A bundled platform without a secret can be registered.
    sender.registered(&json!({"platform": "github", "secret": SECRET})).await;
    let signed =
        sign::over_body("github", "x-hub-signature-256", SECRET, b"{\"action\":\"opened\"}");
    accepted(&sender, &signed.header("x-github-event", "issues"), PROPAGATION_LIMIT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_definition_is_refused_naming_every_problem() {
    let stack = builder_with_key().workers(0).start().await;
    let sender = stack.sender();
    let refused = |answer: HttpAnswer, named: &[&str]| {
        answer.expect_error(400, "E_INVALID_REQUEST");
        for name in named {
            assert!(
                answer.json["errmesg"].as_str().unwrap().contains(name),
                "{name} in {}",
                answer.text
            );
        }
        assert!(!answer.text.contains(SECRET), "{}", answer.text);
    };
    let bad = json!({"platform": "shop", "secret": SECRET, "preset": "generic", "rate_limit": -5,
        "ack_status": 404,
        "signature": {"hash": "md5"}, "effects": {"x": {"effect": "session.status",
        "status": "flying"}}, "colour": "red"});
    refused(sender.register(&bad).await, &["rate_limit", "ack_status", "hash", "status", "colour"]);
    for (name, value) in [
        ("session_scope", json!("shared")),
        ("url", json!("ftp://example.com")),
        ("preset", json!("no")),
    ] {
        refused(
            sender.register(&json!({"platform": "shop", "secret": SECRET, name: value})).await,
            &[name],
        );
    }
    for name in ["Shop", "", "a/b", "sessions", "register", "out"] {
        refused(sender.register(&json!({"platform": name, "secret": SECRET})).await, &["platform"]);
    }
    refused(sender.register(&json!({"platform": "shop"})).await, &["secret"]);
    refused(
        sender
            .register(&json!({"platform": "shop", "secret": "env:PATH", "secrets": ["env:PATH"]}))
            .await,
        &["secrets"],
    );
    for none in [json!([]), json!("x"), Value::Null] {
        assert_eq!(sender.register(&none).await.status, 400);
    }
    let exists: bool = stack.redis.command(&["EXISTS", "webhooks:registrations"]).await;
    assert!(!exists, "a refused registration left a key");
}

/// A registered third party must not end the stream of another platform.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registered_platform_cannot_change_anothers_session() {
    let stack = builder_with_key().start().await;
    let sender = stack.sender();
    sender.announce("room", &json!({})).await.expect(202, "accepted");
    stack.status("room", "ready", WAIT_LIMIT).await;
    sender
        .mux(&mux_event(&unique("e"), "active", Some("room"), "ls", now_ms()))
        .await
        .expect(202, "accepted");
    stack.status("room", "live", WAIT_LIMIT).await;
    let rival = json!({"platform": "rival", "secret": SECRET, "event": {"type": "/kind",
        "session": "/room"}, "effects": {"down": {"effect": "session.status", "status": "ended"}}});
    sender.registered(&rival).await;
    let body =
        |room: &str| json!({"kind": "down", "room": room, "timestamp": now_ms()}).to_string();
    accepted(&sender, &sign::generic("rival", SECRET, body("room").as_bytes()), PROPAGATION_LIMIT)
        .await;
    accepted(&sender, &sign::generic("rival", SECRET, body("own").as_bytes()), PROPAGATION_LIMIT)
        .await;
    stack.status("own", "ended", WAIT_LIMIT).await;
    stack.wait_until_drained(WAIT_LIMIT).await;
    assert_eq!(stack.database.status("room").await, "live");
    let dead = entries(&stack, "webhooks:dlq:rival").await;
    assert_eq!((dead.len(), &dead[0].1["error_code"][..]), (1, &b"session_conflict"[..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_definition_applies_to_the_next_events() {
    let stack = builder_with_key().ingresses(2).workers(2).start().await;
    let define = |status: &str| {
        json!({"platform": "shop", "secret": SECRET, "event": {"type": "/kind",
            "session": "/room", "time": "/at"},
            "effects": {"turn": {"effect": "session.status", "status": status}}})
    };
    let turn = |room: &str| {
        let body = json!({"kind": "turn", "room": room, "at": now_ms()}).to_string();
        sign::generic("shop", SECRET, body.as_bytes())
    };
    let (one, two) = (stack.ingresses[0].sender(), stack.ingresses[1].sender());
    one.registered(&define("live")).await;
    accepted(&two, &turn("first"), PROPAGATION_LIMIT).await;
    stack.status("first", "live", WAIT_LIMIT).await;
    two.registered(&define("stopped")).await;
    tokio::time::sleep(PROPAGATION_LIMIT).await;
    for room in ["second", "third", "fourth"] {
        one.send(&turn(room)).await.expect(202, "accepted");
        stack.status(room, "stopped", WAIT_LIMIT).await;
    }
}

/// An unknown platform gets 404. While the registrations cannot be read it may exist, and providers
/// may take 404 as final.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_platform_gets_503_until_registrations_are_read() {
    let mut stack = builder_with_key().proxied().servers().await;
    stack.proxy.as_ref().unwrap().set(ProxyMode::Cut);
    stack.spawn_ingress();
    stack.ingresses[0].listening(WAIT_LIMIT).await;
    let sender = stack.sender();
    let answer = sender.send(&event("shop", SECRET)).await;
    answer.expect_error(503, "E_WEBHOOK_QUEUE_ERROR");
    assert!(
        answer
            .header("retry-after")
            .is_some_and(|seconds| seconds.parse::<u32>().is_ok_and(|n| n >= 1))
    );
    // Configured platforms are known without Redis and give their usual answers.
    sender.send(&event("acme", SECRET)).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    stack.proxy.as_ref().unwrap().set(ProxyMode::Pass);
    poll::until("the platform answers 404", WAIT_LIMIT, async || {
        let answer = sender.send(&event("shop", SECRET)).await;
        if answer.status == 404 { Ok(()) } else { Err(answer.text) }
    })
    .await;
}
