//! Probes that provider dashboards send before events, and variants of webhook URLs that people
//! type.

use reqwest::Method;
use serde_json::json;
use tests::sender::unique;
use tests::sign::{SignedWebhook, hmac_sha256_hex};
use tests::stack::Stack;

use crate::WAIT_LIMIT;

const SECRET: &str = "own-secret";

const PLATFORMS: &str = own_platform!(
    r#"
time = "/at"
session = "/room"
[platforms.own.effects]
"up" = { effect = "session.status", status = "live" }

[platforms.xero]
secrets = ["env:OWN_SECRET"]
[platforms.xero.signature]
header = ["x-xero-signature"]
prefix = ""
encoding = "base64"
[platforms.xero.event]
batch = "/events"
type = "/events/eventType"
time = "/events/eventDateUtc"

[platforms.meta]
secrets = ["env:OWN_SECRET"]
handshake = { kind = "meta", verify_token = "env:META_VERIFY_TOKEN" }
"#
);

async fn stack(workers: usize) -> Stack {
    let builder = Stack::builder().workers(workers).platforms(PLATFORMS);
    builder
        .ingress_env("OWN_SECRET", SECRET)
        .ingress_env("META_VERIFY_TOKEN", "meatyhamhock")
        .start()
        .await
}

fn plain(path: &str) -> SignedWebhook {
    SignedWebhook { path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
}

fn own(path: &str, body: &str) -> SignedWebhook {
    let signature = format!("sha256={}", hmac_sha256_hex(SECRET, body.as_bytes()));
    SignedWebhook { body: body.as_bytes().to_vec(), ..plain(path) }
        .header("x-own-signature", &signature)
}

/// Xero's "intent to receive": a signed list without an event. The answer is 2xx for a valid
/// signature and 401 otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_batch_is_answered_2xx_and_queues_nothing() {
    let stack = stack(0).await;
    let body = concat!(
        r#"{"events":[],"firstEventSequence": 0,"lastEventSequence": 0, "#,
        r#""entropy": "ABCDEFGHIJKLMNOPQRST"}"#,
    );
    let signed = |secret: &str| {
        use base64::Engine as _;
        let mac = hex::decode(hmac_sha256_hex(secret, body.as_bytes())).unwrap();
        let signature = base64::engine::general_purpose::STANDARD.encode(mac);
        SignedWebhook { body: body.as_bytes().to_vec(), ..plain("/webhooks/xero") }
            .header("x-xero-signature", &signature)
    };
    let answer = stack.sender().send(&signed(SECRET)).await;
    assert_eq!(
        (answer.status, &answer.json),
        (200, &json!({"event_ids": [], "status": "ignored"}))
    );
    stack.sender().send(&signed("wrong")).await.expect_error(401, "E_WEBHOOK_INVALID_SIGNATURE");
    assert_eq!(stack.unfinished("xero").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboard_probes_with_another_method_are_answered() {
    let stack = stack(0).await;
    let sender = stack.sender();
    let ask =
        async |method: Method, path: &str| sender.request(method, &plain(path)).await.unwrap();
    for path in ["/webhooks/own", "/webhooks/own/", "/api/v1/webhooks/own"] {
        assert_eq!(ask(Method::HEAD, path).await.status, 200, "{path}");
        let options = ask(Method::OPTIONS, path).await;
        assert_eq!(
            (options.status, options.header("allow")),
            (204, Some("POST, GET, HEAD, OPTIONS")),
            "{path}"
        );
    }
    assert_eq!(ask(Method::HEAD, "/webhooks/nobody").await.status, 404);
    let cloud_events = plain("/webhooks/own")
        .header("WebHook-Request-Origin", "eventemitter.example.com")
        .header("WebHook-Request-Rate", "120");
    let granted = sender.request(Method::OPTIONS, &cloud_events).await.unwrap();
    assert_eq!(granted.status, 200);
    assert_eq!(granted.header("webhook-allowed-origin"), Some("eventemitter.example.com"));
    assert_eq!(granted.header("webhook-allowed-rate"), Some("6000"));

    let query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock";
    for platform in ["own", "meta"] {
        let answer = ask(Method::GET, &format!("/webhooks/{platform}?{query}")).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, "1158201444"), "{platform}");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let guessed =
        ask(Method::GET, &format!("/webhooks/meta?{}", query.replace("meaty", "m"))).await;
    guessed.expect_error(404, "E_NOT_FOUND");
    let page =
        ask(Method::GET, "/webhooks/own?hub.mode=subscribe&hub.challenge=%3Cscript%3E").await;
    page.expect_error(405, "E_METHOD_NOT_ALLOWED");
    assert_eq!(stack.unfinished("own").await + stack.unfinished("meta").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistyped_urls_lead_to_the_platform() {
    let stack = stack(1).await;
    let rooms = [
        "/webhooks/own/",
        "//webhooks//own",
        "/webhook/own/?key=a/../b",
        "/api/v1/live/webhooks//%6fwn",
    ];
    for path in rooms {
        let room = unique("room");
        let body = json!({"id": unique("e"), "type": "up", "room": room}).to_string();
        stack.sender().send(&own(path, &body)).await.expect(202, "accepted");
        stack.status(&room, "live", WAIT_LIMIT).await;
    }
    for path in [
        "/webhooks/../webhooks/own",
        "/webhooks/%2e%2e/webhooks/own",
        "/webhooks/own/..",
        "/webhooks/./own",
    ] {
        let (url, request) =
            (stack.ingresses[0].url.trim_start_matches("http://"), own(path, r#"{"type":"up"}"#));
        let answer = raw(url, &request).await;
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
}

/// Sends a request with its exact path, which HTTP clients would normalise.
async fn raw(address: &str, request: &SignedWebhook) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut head = format!("POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n", request.path);
    for (name, value) in &request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&format!("content-length: {}\r\n\r\n", request.body.len()));
    stream.write_all(&[head.as_bytes(), &request.body].concat()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(WAIT_LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}
