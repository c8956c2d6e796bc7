//! Requests that provoke every answer of every route, as far as requests can.

use reqwest::Method;
use serde_json::{Value, json};
use tests::sender::{
    MUX_SECRET, NETFLIX_SECRET, Sender, content_event, mux_event, now, now_ms, unique,
};
use tests::sign::{self, SignedWebhook};
use tests::stack::ServerProcess;
use tests::tcp_proxy::ProxyMode;

use super::conformance::{Conformance, TOPIC, admin, event, plain, signed};
use crate::WAIT_LIMIT;

/// Statistics routes.
const STATISTICS: [&str; 3] =
    ["/api/v1/webhooks/metrics", "/webhooks/stats", "/api/v1/webhooks/stats"];

pub(super) async fn webhooks(conformance: &Conformance, path: &str) {
    let at = |platform: &str| format!("{path}/{platform}");
    let post = async |request: &SignedWebhook| conformance.ask(&Method::POST, request).await;
    let send =
        async |platform: &str, body: &Value| post(&signed(platform, body).to(&at(platform))).await;

    let body = event();
    let id = send("acme", &body).await.expect(202, "accepted").to_owned();
    assert_eq!(send("acme", &body).await.expect(200, "duplicate"), id);
    send("some", &content_event("other", "c", "t", now_ms())).await.expect(200, "ignored");
    send("created", &event()).await.expect(201, "accepted");
    let challenge = json!({"subscription": {"status": "enabled"}, "challenge": "a-challenge"});
    let answer = send("twitchy", &challenge).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "a-challenge"));
    let revoked =
        json!({"subscription": {"status": "authorization_revoked", "type": "stream.online"}});
    assert_eq!(send("twitchy", &revoked).await.status, 204);
    let asked = json!({"event": "endpoint.url_validation", "payload": {"plainToken": "token"}});
    let answer = send("zoomy", &asked).await;
    assert_eq!((answer.status, &answer.json["plainToken"]), (200, &json!("token")));

    let batch = json!([{"id": unique("one"), "kind": "k", "at": now_ms()}, {"id": unique("two"),
        "kind": "k", "at": now_ms()}]);
    assert_eq!(send("batches", &batch).await.json["event_ids"].as_array().unwrap().len(), 2);
    waiting(conformance, &at("acme"), &at("mux")).await;

    send("acme", &json!([])).await.expect_error(400, "E_WEBHOOK_INVALID_PAYLOAD");
    post(&plain(&at("acme"))).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    let old = sign::mux(MUX_SECRET, 1_767_225_600, b"{}").to(&at("mux"));
    post(&old).await.expect_error(401, "E_WEBHOOK_SIGNATURE_ERROR");
    send("off", &event()).await.expect_error(403, "E_WEBHOOK_PLATFORM_DISABLED");
    send("nobody", &event()).await.expect_error(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM");
    conformance.bodies(&Method::POST, &at("acme")).await;
    let bare = sign::generic("netflix", NETFLIX_SECRET, b"{}").to(&at("netflix"));
    post(&bare).await.expect_error(500, "E_WEBHOOK_CONFIG_MISSING");
    for (platform, status) in [("tight", 429), ("busy", 599)] {
        // The next request exceeds the limit, whether or not this is the first of the minute.
        let _ = send(platform, &event()).await;
        send(platform, &event()).await.expect_error(status, "E_WEBHOOK_RATE_LIMITED");
    }
}

/// Waiting requests get the result of their event.
async fn waiting(conformance: &Conformance, acme: &str, mux: &str) {
    let wait = async |request: SignedWebhook, path: &str| {
        conformance.ask(&Method::POST, &request.to(path).header("prefer", "wait=20")).await
    };
    let answer = wait(signed("acme", &event()), acme).await;
    assert_eq!(
        (answer.status, &answer.json["results"]["processed"]),
        (200, &json!(true)),
        "{}",
        answer.text
    );
    assert_eq!(answer.header("preference-applied"), Some("wait=20"));
    let lost = mux_event(&unique("event"), "active", Some("nobody"), "none", now_ms()).to_string();
    let answer = wait(sign::mux(MUX_SECRET, now(), lost.as_bytes()), mux).await;
    assert_eq!(
        (answer.status, answer.errcode()),
        (200, "E_WEBHOOK_PROCESSING_ERROR"),
        "{}",
        answer.text
    );
}

pub(super) async fn subscriptions(conformance: &Conformance, path: &str) {
    let ask = async |platform: &str, mode: &str, topic: &str| {
        let query = format!("hub.mode={mode}&hub.topic={topic}&hub.challenge=a-challenge");
        conformance.ask(&Method::GET, &plain(&format!("{path}/{platform}?{query}"))).await
    };
    assert_eq!(ask("feeds", "subscribe", TOPIC).await.text, "a-challenge");
    assert_eq!(ask("feeds", "denied", TOPIC).await.status, 204);
    ask("feeds", "sell", TOPIC).await.expect_error(400, "E_INVALID_REQUEST");
    ask("feeds", "subscribe", "https://example.com/another").await.expect_error(404, "E_NOT_FOUND");
    ask("off", "subscribe", TOPIC).await.expect_error(403, "E_WEBHOOK_PLATFORM_DISABLED");
    ask("acme", "subscribe", TOPIC).await.expect_error(405, "E_METHOD_NOT_ALLOWED");
    ask("nobody", "subscribe", TOPIC).await.expect_error(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM");
    let dashboard = plain(&format!("{path}/netflix?hub.mode=subscribe&hub.challenge=1"));
    conformance.ask(&Method::GET, &dashboard).await.expect_error(500, "E_WEBHOOK_CONFIG_MISSING");
}

/// Provokes the answers to probes of dashboards and CloudEvents senders.
pub(super) async fn probes(conformance: &Conformance, path: &str) {
    let at = |platform: &str| plain(&format!("{path}/{platform}"));
    for (platform, status) in [("acme", 200), ("off", 403), ("nobody", 404), ("netflix", 500)] {
        assert_eq!(
            conformance.ask(&Method::HEAD, &at(platform)).await.status,
            status,
            "{platform}"
        );
        let status = if status == 200 { 204 } else { status };
        assert_eq!(
            conformance.ask(&Method::OPTIONS, &at(platform)).await.status,
            status,
            "{platform}"
        );
    }
    let cloud_events = at("acme").header("webhook-request-origin", "events.example.com");
    assert_eq!(conformance.ask(&Method::OPTIONS, &cloud_events).await.status, 200);
    let with_body = SignedWebhook { body: b"{}".to_vec(), ..at("acme") };
    conformance.ask(&Method::OPTIONS, &with_body).await.expect_error(400, "E_INVALID_REQUEST");
}

pub(super) async fn sessions(conformance: &Conformance) {
    let path = "/api/v1/sessions/room";
    let put = async |request: &SignedWebhook| conformance.ask(&Method::PUT, request).await;
    let body = json!({"live_stream_id": "ls", "status": "live", "config": {"a": 1}})
        .to_string()
        .into_bytes();
    let announcement = SignedWebhook { body, ..admin(path) };
    put(&announcement).await.expect(202, "accepted");
    let keyed = admin(path).header("idempotency-key", "once");
    put(&keyed).await.expect(202, "accepted");
    put(&keyed).await.expect(200, "duplicate");
    put(&SignedWebhook { body: b"[]".to_vec(), ..admin(path) })
        .await
        .expect_error(400, "E_INVALID_REQUEST");
    put(&plain(path)).await.expect_error(401, "E_ADMIN_FORBIDDEN");
    put(&plain(path).header("authorization", "Bearer wrong"))
        .await
        .expect_error(403, "E_ADMIN_FORBIDDEN");
    conformance.bodies(&Method::PUT, path).await;

    conformance.stack.status("room", "live", WAIT_LIMIT).await;
    let worker = &conformance.stack.workers[0].url;
    let get =
        async |request: &SignedWebhook| conformance.ask_at(worker, &Method::GET, request).await;
    let row = get(&admin(path)).await;
    assert_eq!((row.status, &row.json["config"]), (200, &json!({"a": 1})));
    get(&plain(path)).await.expect_error(401, "E_ADMIN_FORBIDDEN");
    get(&plain(path).header("authorization", "Bearer wrong"))
        .await
        .expect_error(403, "E_ADMIN_FORBIDDEN");
    get(&admin("/api/v1/sessions/nobody")).await.expect_error(404, "E_NOT_FOUND");
}

pub(super) async fn statistics(conformance: &Conformance) {
    for path in STATISTICS {
        let get = async |request: &SignedWebhook| conformance.ask(&Method::GET, request).await;
        assert_eq!(get(&admin(path)).await.status, 200);
        get(&plain(path)).await.expect_error(401, "E_ADMIN_FORBIDDEN");
        get(&plain(path).header("authorization", "Bearer wrong"))
            .await
            .expect_error(403, "E_ADMIN_FORBIDDEN");
    }
}

pub(super) async fn operations(conformance: &Conformance) {
    let stack = &conformance.stack;
    for base in [&stack.ingresses[0].ops, &stack.workers[0].ops] {
        for path in ["/live", "/ready", "/metrics"] {
            for method in [Method::GET, Method::HEAD] {
                assert_eq!(
                    conformance.ask_at(base, &method, &plain(path)).await.status,
                    200,
                    "{base}{path}"
                );
            }
            let refused = Sender::new(base).send(&plain(path)).await;
            assert_eq!(
                (refused.status, refused.header("allow")),
                (405, Some("GET, HEAD")),
                "{base}{path}"
            );
        }
    }
}

pub(super) async fn platforms(conformance: &Conformance) {
    let (register, platforms) = ("/api/v1/webhooks/register", "/api/v1/webhooks/platforms");
    let (one, file, nobody) = (
        "/api/v1/webhooks/platforms/third",
        "/api/v1/webhooks/platforms/acme",
        "/api/v1/webhooks/platforms/nobody",
    );
    let ask = async |method: &Method, path: &str, body: &Value| {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        conformance.ask(method, &SignedWebhook { body, ..admin(path) }).await
    };
    for (method, path) in [
        (Method::POST, register),
        (Method::GET, platforms),
        (Method::PATCH, one),
        (Method::DELETE, one),
    ] {
        conformance.ask(&method, &plain(path)).await.expect_error(401, "E_ADMIN_FORBIDDEN");
        let wrong = plain(path).header("authorization", "Bearer wrong");
        conformance.ask(&method, &wrong).await.expect_error(403, "E_ADMIN_FORBIDDEN");
        conformance.bodies(&method, path).await;
    }
    let mut third =
        json!({"platform": "third", "secret": "a-secret-of-a-third-party", "rate_limit": 600});
    assert_eq!(ask(&Method::POST, register, &third).await.status, 201);
    third["secret"] = "another-secret-of-a-third-party".into();
    let updated = ask(&Method::POST, register, &third).await;
    assert_eq!(updated.json["keys"].as_array().map(Vec::len), Some(2), "{}", updated.text);
    ask(&Method::POST, register, &json!({"platform": "third"}))
        .await
        .expect_error(400, "E_INVALID_REQUEST");
    let configured = json!({"platform": "acme", "secret": "a-secret-of-a-third-party"});
    ask(&Method::POST, register, &configured).await.expect_error(409, "E_INVALID_REQUEST");
    assert_eq!(ask(&Method::GET, platforms, &Value::Null).await.status, 200);
    assert_eq!(ask(&Method::PATCH, one, &json!({"paused": true})).await.json["paused"], true);
    assert_eq!(ask(&Method::PATCH, one, &json!({"paused": false})).await.status, 200);
    ask(&Method::PATCH, one, &json!({})).await.expect_error(400, "E_INVALID_REQUEST");
    ask(&Method::PATCH, nobody, &json!({"paused": true})).await.expect_error(404, "E_NOT_FOUND");
    ask(&Method::DELETE, nobody, &Value::Null).await.expect_error(404, "E_NOT_FOUND");
    ask(&Method::DELETE, file, &Value::Null).await.expect_error(409, "E_INVALID_REQUEST");
    assert_eq!(ask(&Method::DELETE, one, &Value::Null).await.json["state"], "draining");

    let (program, url, ops) = conformance.stack.ingress_program();
    let keyless = ServerProcess { process: program.without("SECRETS_KEY").spawn(), url, ops };
    keyless.ready(WAIT_LIMIT).await;
    let refused = SignedWebhook { body: third.to_string().into_bytes(), ..admin(register) };
    let refused = conformance.ask_at(&keyless.url, &Method::POST, &refused).await;
    refused.expect_error(503, "E_REGISTRATION_UNAVAILABLE");
}

pub(super) async fn outbound(conformance: &Conformance) {
    let (test, trigger, status) =
        ("/api/webhooks/test", "/api/webhooks/trigger", "/api/webhooks/status");
    let (one, nobody) =
        ("/api/webhooks/destinations/webhook_1", "/api/webhooks/destinations/nobody");
    let ask = async |method: &Method, path: &str, body: &Value| {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        conformance.ask(method, &SignedWebhook { body, ..admin(path) }).await
    };
    for (method, path) in
        [(Method::POST, test), (Method::POST, trigger), (Method::GET, status), (Method::PATCH, one)]
    {
        conformance.ask(&method, &plain(path)).await.expect_error(401, "E_ADMIN_FORBIDDEN");
        let wrong = plain(path).header("authorization", "Bearer wrong");
        conformance.ask(&method, &wrong).await.expect_error(403, "E_ADMIN_FORBIDDEN");
        conformance.bodies(&method, path).await;
    }
    assert_eq!(ask(&Method::PATCH, one, &json!({"paused": true})).await.json["paused"], true);
    ask(&Method::PATCH, one, &json!({})).await.expect_error(400, "E_INVALID_REQUEST");
    ask(&Method::PATCH, nobody, &json!({"paused": true})).await.expect_error(404, "E_NOT_FOUND");
    let triggered =
        ask(&Method::POST, trigger, &json!({"event": "job.completed", "data": {"job_id": "j"}}))
            .await;
    assert_eq!(
        (triggered.status, &triggered.json["deliveries"][0]["status"]),
        (202, &json!("queued"))
    );
    ask(&Method::POST, trigger, &json!({"event": ""})).await.expect_error(400, "E_INVALID_REQUEST");
    let tested = ask(&Method::POST, test, &json!({"url": "http://127.0.0.1:9/"})).await;
    assert_eq!(
        (tested.status, &tested.json["test_result"]["error"]),
        (200, &json!("ECONNREFUSED")),
        "{}",
        tested.text
    );
    ask(&Method::POST, test, &json!({"url": "ftp://x"}))
        .await
        .expect_error(400, "E_INVALID_REQUEST");
    let shown = ask(&Method::GET, status, &Value::Null).await;
    assert_eq!(shown.json["destinations"][0]["name"], "webhook_1", "{}", shown.text);
}

pub(super) async fn events(conformance: &Conformance) {
    let (stack, worker) = (&conformance.stack, &conformance.stack.workers[0].url);
    let get =
        async |request: &SignedWebhook| conformance.ask_at(worker, &Method::GET, request).await;
    let at = |platform: &str, id: &str| format!("/api/v1/webhooks/{platform}/events/{id}");
    let id = stack.sender().acme(&event()).await.expect(202, "accepted").to_owned();
    let lost = mux_event(&unique("event"), "active", Some("nobody"), "none", now_ms());
    let lost = stack.sender().mux(&lost).await.expect(202, "accepted").to_owned();
    stack.wait_until_drained(WAIT_LIMIT).await;
    let processed = get(&admin(&at("acme", &id))).await;
    assert_eq!(
        (&processed.json["state"], &processed.json["results"]["event_id"]),
        (&json!("processed"), &json!(id))
    );
    let dead = get(&admin(&at("mux", &lost))).await;
    assert_eq!(
        (&dead.json["state"], dead.json["dead_letter_id"].is_string()),
        (&json!("dead"), true)
    );
    get(&admin(&at("acme", "nobody"))).await.expect_error(404, "E_NOT_FOUND");
    get(&plain(&at("acme", &id))).await.expect_error(401, "E_ADMIN_FORBIDDEN");
    let wrong = plain(&at("acme", &id)).header("authorization", "Bearer wrong");
    get(&wrong).await.expect_error(403, "E_ADMIN_FORBIDDEN");
}

/// Provokes the answers of an outage of Redis.
pub(super) async fn outage(conformance: &Conformance, webhook_paths: &[String]) {
    let stack = &conformance.stack;
    stack.proxy.as_ref().unwrap().set(ProxyMode::Cut);
    stack.ingresses[0].health("/ready", 503, WAIT_LIMIT).await;
    let ask = async |method: Method, request: SignedWebhook| {
        conformance.ask(&method, &request).await.expect_error(503, "E_WEBHOOK_QUEUE_ERROR");
    };
    for path in webhook_paths {
        ask(Method::POST, signed("acme", &event()).to(&format!("{path}/acme"))).await;
        ask(Method::OPTIONS, plain(&format!("{path}/not-known-yet"))).await;
        ask(
            Method::GET,
            plain(&format!("{path}/not-known-yet?hub.mode=subscribe&hub.topic=t&hub.challenge=c")),
        )
        .await;
    }
    ask(Method::PUT, admin("/api/v1/sessions/r")).await;
    for path in STATISTICS.into_iter().chain(["/api/v1/webhooks/platforms"]) {
        ask(Method::GET, admin(path)).await;
    }
    for path in ["/api/webhooks/test", "/api/webhooks/trigger"] {
        ask(Method::POST, admin(path)).await;
    }
    ask(Method::GET, admin("/api/webhooks/status")).await;
    ask(Method::PATCH, admin("/api/webhooks/destinations/webhook_1")).await;
    ask(Method::POST, admin("/api/v1/webhooks/register")).await;
    ask(Method::PATCH, admin("/api/v1/webhooks/platforms/acme")).await;
    ask(Method::DELETE, admin("/api/v1/webhooks/platforms/acme")).await;
    let event = admin("/api/v1/webhooks/acme/events/not-processed");
    let lost = conformance.ask_at(&stack.workers[0].url, &Method::GET, &event).await;
    lost.expect_error(500, "E_INTERNAL");
    for method in [Method::GET, Method::HEAD] {
        let ready = conformance.ask_at(&stack.ingresses[0].ops, &method, &plain("/ready")).await;
        assert_eq!(ready.status, 503);
    }
}
