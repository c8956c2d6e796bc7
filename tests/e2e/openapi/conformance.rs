//! The running system and the requests whose answers are compared with the OpenAPI document.

use reqwest::Method;
use serde_json::Value;
use tests::admin::SECRETS_KEY;
use tests::sender::{ACME_SECRET, ADMIN_TOKEN, HttpAnswer, Sender, content_event, now_ms, unique};
use tests::sign::{self, SignedWebhook};
use tests::stack::Stack;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::description::Description;
use crate::WAIT_LIMIT;

/// Topic of the subscriptions of `feeds` and `off`.
pub(super) const TOPIC: &str = "https://example.com/feed";

/// Platforms that produce every refusal and answer.
const PLATFORMS: &str = r#"
[platforms.feeds]
secrets = ["env:ACME_SECRET"]
handshake = { kind = "websub", topics = ["https://example.com/feed"] }

[platforms.off]
secrets = ["env:ACME_SECRET"]
enabled = false
handshake = { kind = "websub", topics = ["https://example.com/feed"] }

[platforms.some]
secrets = ["env:ACME_SECRET"]
event_types = ["content_added"]

[platforms.created]
secrets = ["env:ACME_SECRET"]
ack_status = 201

[platforms.tight]
secrets = ["env:ACME_SECRET"]
rate_limit = 1

[platforms.busy]
secrets = ["env:ACME_SECRET"]
rate_limit = 1
busy_status = 599

[platforms.twitchy]
secrets = ["env:ACME_SECRET"]
handshake = { kind = "twitch" }

[platforms.zoomy]
secrets = ["env:ACME_SECRET"]
handshake = { kind = "zoom" }

[platforms.batches]
secrets = ["env:ACME_SECRET"]
event = { batch = "", id = "/id", type = "/kind", time = "/at" }
"#;

/// A running system and its OpenAPI document.
pub(super) struct Conformance {
    pub(super) stack: Stack,
    pub(super) api: Description,
}

impl Conformance {
    pub(super) async fn start() -> Self {
        let stack = Stack::builder()
            .proxied()
            .platforms(PLATFORMS)
            .without_ingress_env("NETFLIX_WEBHOOK_SECRET")
            .env("SECRETS_KEY", SECRETS_KEY)
            .worker_env("MISSING_SESSION_WAIT_MS", "200")
            .env("WEBHOOK_URLS", "http://127.0.0.1:9/hook")
            .ingress_env("WEBHOOK_ALLOW_PRIVATE", "127.0.0.0/8")
            .ingress_env("MAX_BODY_BYTES", "2000")
            .ingress_env("BODY_TIMEOUT_MS", "1500")
            .start()
            .await;
        let answer = stack.sender().get("/api/openapi.json").await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let api = Description::new(answer.json.clone());
        api.check("get", "/api/openapi.json", &answer);
        Self { stack, api }
    }

    /// Sends to ingress and checks that the answer is documented.
    pub(super) async fn ask(&self, method: &Method, request: &SignedWebhook) -> HttpAnswer {
        self.ask_at(&self.stack.ingresses[0].url, method, request).await
    }

    pub(super) async fn ask_at(
        &self,
        base: &str,
        method: &Method,
        request: &SignedWebhook,
    ) -> HttpAnswer {
        let answer = Sender::new(base).request(method.clone(), request).await.expect("an answer");
        self.api.check(&method.as_str().to_lowercase(), &request.path, &answer);
        answer
    }

    /// Provokes every error of a body at a route that reads one.
    pub(super) async fn bodies(&self, method: &Method, path: &str) {
        let large = SignedWebhook { body: vec![b' '; 2001], ..admin(path) };
        self.ask(method, &large).await.expect_error(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE");
        let coded = admin(path).header("content-encoding", "deflate");
        self.ask(method, &coded).await.expect_error(415, "E_WEBHOOK_UNSUPPORTED_ENCODING");
        let stalled = self.raw(method, path, "content-length: 9\r\n\r\n{");
        let broken = self.raw(method, path, "transfer-encoding: chunked\r\n\r\nno number\r\n");
        let (stalled, broken) = tokio::join!(stalled, broken);
        stalled.expect_error(408, "E_WEBHOOK_BODY_TIMEOUT");
        broken.expect_error(400, "E_INVALID_REQUEST");
    }

    /// Sends a request that ends with `rest` and nothing more.
    async fn raw(&self, method: &Method, path: &str, rest: &str) -> HttpAnswer {
        let address = self.stack.ingresses[0].url.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN_TOKEN}\r\n{rest}"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        let read = tokio::time::timeout(WAIT_LIMIT, stream.read_to_string(&mut text)).await;
        assert!(read.is_ok(), "{method} {path}: still connected after {text}");
        let answer = parsed(&text);
        self.api.check(&method.as_str().to_lowercase(), path, &answer);
        answer
    }
}

fn parsed(text: &str) -> HttpAnswer {
    let (head, text) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    HttpAnswer {
        status,
        headers,
        text: text.to_owned(),
        json: serde_json::from_str(text).unwrap_or_default(),
    }
}

pub(super) fn plain(path: &str) -> SignedWebhook {
    SignedWebhook { path: path.to_owned(), headers: Vec::new(), body: Vec::new() }
}

pub(super) fn admin(path: &str) -> SignedWebhook {
    plain(path).header("authorization", &format!("Bearer {ADMIN_TOKEN}"))
}

pub(super) fn event() -> Value {
    content_event("content_added", &unique("content"), "t", now_ms())
}

pub(super) fn signed(platform: &str, body: &Value) -> SignedWebhook {
    sign::generic(platform, ACME_SECRET, body.to_string().as_bytes())
}
