#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use actix_web::body::to_bytes;
use actix_web::http::header::HeaderMap;
use actix_web::http::{Method, StatusCode};
use actix_web::test::{TestRequest, init_service};
use actix_web::{App, http::header};
use serde_json::{Value, json};
use shared::clock;
use shared::queue::{CallError, Enqueued};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use crate::connections::{ConnectionLink, Connections};
use crate::dispatch;
use crate::server::IngressServer;
use crate::testing::{ADMIN_TOKEN, MAX_BODY, MemoryQueue, TestIngress, sign};

const GOOD: &str = concat!(
    r#"{"event_type":"content_added","timestamp":"2026-01-01T00:00:00Z","#,
    r#""payload":{"content_id":"1"}}"#
);
const UNSUBSCRIBED: &str = r#"{"event_type":"other","payload":{}}"#;

fn signed(path: &str, body: &str) -> TestRequest {
    let signature = format!("sha256={}", sign(body.as_bytes()));
    TestRequest::post()
        .uri(path)
        .insert_header(("x-webhook-signature", signature))
        .set_payload(body.to_owned())
}

fn mux(body: &str, sent_s: i64) -> TestRequest {
    let signature = format!("t={sent_s},v1={}", sign(format!("{sent_s}.{body}").as_bytes()));
    TestRequest::post()
        .uri("/api/v1/live/webhooks/streaming")
        .insert_header(("mux-signature", signature))
        .set_payload(body.to_owned())
}

fn announcement(room: &str, body: &str) -> TestRequest {
    TestRequest::put()
        .uri(&format!("/api/v1/sessions/{room}"))
        .insert_header((header::AUTHORIZATION, format!("Bearer {ADMIN_TOKEN}")))
        .set_payload(body.to_owned())
}

impl TestIngress {
    async fn answer(&self, request: TestRequest) -> (u16, Value) {
        let (status, _, body) = self.entered(request).await;
        (status.as_u16(), body)
    }

    /// Returns the response of the whole ingress.
    async fn entered(&self, request: TestRequest) -> (StatusCode, HeaderMap, Value) {
        let app =
            init_service(App::new().app_data(self.ingress.clone()).configure(super::configure))
                .await;
        let request = request.to_request();
        let link = ConnectionLink::of(&request);
        let entered = dispatch::dispatch(request, &app, &self.ingress, link);
        let (head, body) = entered.await.unwrap().into_parts();
        let body = to_bytes(body).await.unwrap();
        (head.status(), head.headers().clone(), serde_json::from_slice(&body).unwrap())
    }

    async fn refusal(&self, request: TestRequest) -> (u16, String) {
        let (status, body) = self.answer(request).await;
        (status, body["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

fn refused(status: u16, errcode: &str) -> (u16, String) {
    (status, errcode.to_owned())
}

#[actix_web::test]
async fn webhook_is_received_on_every_route_and_alias() {
    let fixture = TestIngress::new();
    for (path, status) in [
        ("/api/v1/webhooks/acme", "accepted"),
        ("/webhooks/acme", "duplicate"),
        ("/webhook/acme-live", "duplicate"),
        ("/api/v1/live/webhooks/acme-live", "duplicate"),
    ] {
        let (code, body) = fixture.answer(signed(path, GOOD)).await;
        assert_eq!(
            (code, &body["status"]),
            (if status == "accepted" { 202 } else { 200 }, &status.into()),
            "{path}"
        );
    }
}

#[actix_web::test]
async fn fast_path_reaches_the_same_handler_as_the_router() {
    let fixture = TestIngress::new();
    for path in
        ["/webhooks/acme", "/webhooks/%61cme", "/%77ebhooks/acme", "/api/v1/webhooks/acme?a=/b"]
    {
        let (code, body) = fixture.answer(signed(path, GOOD)).await;
        assert!(matches!(code, 200 | 202) && body["event_id"].is_string(), "{path}: {code} {body}");
    }
    let wrong_method = || refused(405, "E_METHOD_NOT_ALLOWED");
    let nobody = || refused(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM");
    let nowhere = || refused(404, "E_NOT_FOUND");
    for (path, expected) in [
        ("/api/v1/webhooks/metrics", wrong_method()),
        ("/api/v1/webhooks/m%65trics", wrong_method()),
        ("/api/v1/webhooks/stats", wrong_method()),
        ("/api/v1/webhooks/platforms", wrong_method()),
        ("/api/v1/webhooks/platforms/acme", wrong_method()),
        ("/webhooks/stats", wrong_method()),
        ("/webhook/stats", nobody()),
        ("/webhooks/register", nobody()),
        ("/webhooks/acme%2Fx", nobody()),
        ("/webhooks/acme/x", nowhere()),
        ("/webhooks/acme/.", nowhere()),
        ("/webhooks//acme/x", nowhere()),
        ("/webhooks/", nowhere()),
        ("/webhooks", nowhere()),
        ("/webhooksacme", nowhere()),
    ] {
        assert_eq!(fixture.refusal(signed(path, GOOD)).await, expected, "{path}");
    }
    let (code, _) = fixture.refusal(signed("/api/v1/webhooks/register", GOOD)).await;
    assert_eq!(code, 401, "the path is an admin route");
    for method in [Method::PUT, Method::DELETE] {
        let request = TestRequest::with_uri("/webhooks/acme").method(method.clone());
        assert_eq!(fixture.refusal(request).await, wrong_method(), "{method}");
    }
}

#[actix_web::test]
async fn response_has_event_id_and_status() {
    let fixture = TestIngress::new();
    let (_, body) = fixture.answer(signed("/webhooks/acme", GOOD)).await;
    let event_id = fixture.memory.events()[0].event_id.clone();
    assert_eq!(body, json!({"event_id": event_id, "status": "accepted"}));
    let (_, body) = fixture.answer(signed("/webhooks/acme", GOOD)).await;
    assert_eq!(body, json!({"event_id": event_id, "status": "duplicate"}));
    let (code, body) = fixture.answer(signed("/webhooks/acme", UNSUBSCRIBED)).await;
    assert_eq!((code, &body["status"]), (200, &"ignored".into()));
    let (code, _) = fixture.answer(signed("/webhooks/busy", GOOD)).await;
    assert_eq!(code, 201, "ack_status");
}

#[actix_web::test]
async fn checks_run_in_the_order_of_the_contract() {
    let fixture = TestIngress::new();
    fixture.make_redis_unavailable();
    let large = "x".repeat(MAX_BODY + 1);
    let wrong = |path: &str| {
        // Too large, encoded, unsigned and not JSON.
        let request =
            TestRequest::post().uri(path).insert_header((header::CONTENT_ENCODING, "compress"));
        request.insert_header((header::CONTENT_LENGTH, large.len())).set_payload(large.clone())
    };
    let encoded = |coding: &'static str, request: TestRequest| {
        request.insert_header((header::CONTENT_ENCODING, coding))
    };
    let unsigned =
        |body: &str| TestRequest::post().uri("/webhooks/acme").set_payload(body.to_owned());
    for (request, expected) in [
        (wrong("/webhooks/nobody"), refused(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM")),
        (wrong("/webhooks/sessions"), refused(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM")),
        (wrong("/webhooks/off"), refused(403, "E_WEBHOOK_PLATFORM_DISABLED")),
        (wrong("/webhooks/netflix"), refused(500, "E_WEBHOOK_CONFIG_MISSING")),
        (wrong("/webhooks/acme"), refused(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE")),
        (encoded("compress", unsigned("no JSON")), refused(415, "E_WEBHOOK_UNSUPPORTED_ENCODING")),
        (encoded("gzip", unsigned("no gzip")), refused(401, "E_WEBHOOK_INVALID_SIGNATURE")),
        (
            encoded("gzip", signed("/webhooks/acme", "no gzip")),
            refused(400, "E_WEBHOOK_INVALID_PAYLOAD"),
        ),
        (unsigned(&large), refused(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE")),
        (unsigned("no JSON"), refused(401, "E_WEBHOOK_INVALID_SIGNATURE")),
        (signed("/webhooks/acme", "no JSON"), refused(400, "E_WEBHOOK_INVALID_PAYLOAD")),
        (
            signed("/webhooks/acme", r#"{"event_type":"other"}"#),
            refused(400, "E_WEBHOOK_INVALID_PAYLOAD"),
        ),
        (signed("/webhooks/acme", UNSUBSCRIBED), refused(200, "")),
        (signed("/webhooks/acme", GOOD), refused(503, "E_WEBHOOK_QUEUE_ERROR")),
    ] {
        assert_eq!(fixture.refusal(request).await, expected);
    }
    assert!(fixture.memory.events().is_empty());
}

#[actix_web::test]
async fn flood_is_limited_locally_but_an_outage_is_503() {
    let fixture = TestIngress::over(MemoryQueue::answering(|_, events| {
        Ok(vec![Enqueued::Duplicate; events.len()])
    }));
    // Ten times the limit of 100 per minute, and a burst of 100.
    for n in 0..1100 {
        let (code, _) = fixture.answer(signed("/webhooks/acme", GOOD)).await;
        assert_eq!(code, 200, "request {n}");
    }
    let mut answers = Vec::new();
    while answers.len() < 100 && !answers.contains(&refused(429, "E_WEBHOOK_RATE_LIMITED")) {
        answers.push(fixture.refusal(signed("/webhooks/acme", GOOD)).await);
    }
    assert_eq!(answers.pop(), Some(refused(429, "E_WEBHOOK_RATE_LIMITED")));
    fixture.make_redis_unavailable();
    let refusal = fixture.refusal(signed("/webhooks/acme", GOOD)).await;
    assert_eq!(refusal, refused(503, "E_WEBHOOK_QUEUE_ERROR"));
}

#[actix_web::test]
async fn redis_outcome_decides_the_response() {
    let fault = || (redis::ErrorKind::Io, "test").into();
    type EnqueueAnswer = fn(redis::RedisError) -> Result<Vec<Enqueued>, CallError>;
    let answers: [(EnqueueAnswer, (u16, String)); 6] = [
        (|_| Ok(vec![Enqueued::Overloaded]), refused(503, "E_WEBHOOK_OVERLOADED")),
        (
            |_| Ok(vec![Enqueued::RateLimited { retry_after_s: 3 }]),
            refused(503, "E_WEBHOOK_RATE_LIMITED"),
        ),
        (|_| Ok(vec![Enqueued::Refused]), refused(503, "E_WEBHOOK_QUEUE_ERROR")),
        (|_| Ok(vec![]), refused(503, "E_WEBHOOK_DEDUPLICATION_ERROR")),
        (|error| Err(CallError::NotRun(error)), refused(503, "E_WEBHOOK_QUEUE_ERROR")),
        (|error| Err(CallError::Unknown(error)), refused(503, "E_WEBHOOK_DEDUPLICATION_ERROR")),
    ];
    for (answer, expected) in answers {
        let fixture = TestIngress::over(MemoryQueue::answering(move |_, _| answer(fault())));
        assert_eq!(fixture.refusal(signed("/webhooks/busy", GOOD)).await, expected);
    }
}

#[actix_web::test]
async fn expired_signature_is_401_unless_the_clock_is_in_doubt() {
    let fixture = TestIngress::new();
    let body = r#"{"id":"evt_1","type":"video.live_stream.active"}"#;
    let now = clock::now_ms() / 1000;
    let (code, answer) = fixture.answer(mux(body, now - 600)).await;
    assert_eq!((code, &answer["errcode"]), (401, &"E_WEBHOOK_SIGNATURE_ERROR".into()));
    let text = answer["errmesg"].as_str().unwrap();
    assert!(
        text.starts_with(&format!(
            "Timestamp outside tolerance window: received={}, current=",
            now - 600
        )),
        "{text}"
    );
    assert!(text.ends_with('s'), "{text}");

    fixture.redis.send_modify(|health| health.skew_ms = Some(-600_000));
    assert_eq!(fixture.refusal(mux(body, now - 600)).await, refused(503, "E_WEBHOOK_QUEUE_ERROR"));
    let forged =
        mux(body, now - 600).set_payload(r#"{"id":"evt_2","type":"video.live_stream.active"}"#);
    assert_eq!(fixture.refusal(forged).await, refused(401, "E_WEBHOOK_SIGNATURE_ERROR"));
    assert_eq!(
        fixture.answer(mux(body, now)).await,
        (202, json!({"event_id": "evt_1", "status": "accepted"}))
    );
}

#[actix_web::test]
async fn unknown_routes_are_answered_in_json() {
    let fixture = TestIngress::new();
    for path in [
        "/",
        "/api/v1/webhooks",
        "/api/v1/webhooks/",
        "/webhooks/a/b",
        "/api/v1/sessions",
        "/%ff/%00",
    ] {
        let refusal = fixture.refusal(TestRequest::post().uri(path)).await;
        assert_eq!(refusal, refused(404, "E_NOT_FOUND"), "{path}");
    }
    for path in [
        "/webhooks/%00",
        "/webhooks/..%2facme",
        "/webhooks/%ff",
        "/webhooks/ACME",
        "/webhooks/register",
    ] {
        let refusal = fixture.refusal(TestRequest::post().uri(path)).await;
        assert_eq!(refusal, refused(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM"), "{path}");
    }
    for (method, path, allow) in [
        (Method::GET, "/webhooks/acme", "POST, HEAD, OPTIONS"),
        (Method::PUT, "/api/v1/webhooks/nobody", "POST, HEAD, OPTIONS"),
        (Method::POST, "/api/v1/sessions/r", "PUT"),
    ] {
        let (status, headers, body) =
            fixture.entered(TestRequest::with_uri(path).method(method)).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(headers.get(header::ALLOW).unwrap(), allow);
        assert_eq!(body["errcode"], "E_METHOD_NOT_ALLOWED");
    }
}

#[actix_web::test]
async fn extra_slashes_lead_to_the_same_route() {
    let fixture = TestIngress::new();
    let mut first = true;
    for route in ["/api/v1/webhooks", "/webhooks", "/webhook", "/api/v1/live/webhooks"] {
        for path in [
            format!("{route}/acme/"),
            format!("/{route}//acme"),
            format!("{route}/acme///?key=1"),
            format!("{route}/%61cme/"),
        ] {
            let (code, body) = fixture.answer(signed(&path, GOOD)).await;
            let expected = if first { (202, "accepted") } else { (200, "duplicate") };
            assert_eq!((code, body["status"].as_str().unwrap()), expected, "{path}");
            first = false;
        }
    }
    let (code, _) = fixture.answer(announcement("/r/", "{}")).await;
    assert_eq!(code, 202);
    assert!(
        String::from_utf8_lossy(&fixture.memory.events().last().unwrap().body)
            .contains(r#""room_id":"r""#)
    );
    for reserved in ["/webhooks//register", "/webhooks/register/", "/api/v1//webhooks/metrics/"] {
        assert_ne!(fixture.answer(signed(reserved, GOOD)).await.0, 202, "{reserved}");
    }
}

#[actix_web::test]
async fn dot_segments_are_refused_everywhere() {
    let fixture = TestIngress::new();
    for path in [
        "/webhooks/../webhooks/acme",
        "/webhooks/./acme",
        "/webhooks/acme/.",
        "/webhooks/acme/..",
        "/webhooks/%2e%2e/webhooks/acme",
        "/webhooks/..",
        "/%2E/webhooks/acme",
    ] {
        assert_eq!(
            fixture.refusal(signed(path, GOOD)).await,
            refused(404, "E_NOT_FOUND"),
            "{path}"
        );
    }
    for room in ["..", "%2e", ".%2E"] {
        assert_eq!(
            fixture.refusal(announcement(room, "{}")).await,
            refused(404, "E_NOT_FOUND"),
            "{room}"
        );
    }
    assert!(fixture.memory.events().is_empty());
}

#[actix_web::test]
async fn empty_batch_is_answered_and_queues_nothing() {
    let fixture = TestIngress::new();
    fixture.make_redis_unavailable();
    let (code, body) =
        fixture.answer(signed("/webhooks/lists", r#"{"events":[],"entropy":"A"}"#)).await;
    assert_eq!((code, body), (200, json!({"event_ids": [], "status": "ignored"})));
    let forged = signed("/webhooks/lists", r#"{"events":[]}"#).set_payload(r#"{"events": []}"#);
    assert_eq!(fixture.refusal(forged).await, refused(401, "E_WEBHOOK_INVALID_SIGNATURE"));
    assert!(fixture.memory.events().is_empty());
}

#[actix_web::test]
async fn announcement_requires_the_admin_token() {
    let mut fixture = TestIngress::new();
    let with =
        |value: &'static str| announcement("r", "{}").insert_header((header::AUTHORIZATION, value));
    let without = TestRequest::put().uri("/api/v1/sessions/r");
    assert_eq!(fixture.refusal(without).await, refused(401, "E_ADMIN_FORBIDDEN"));
    assert_eq!(fixture.refusal(with("Basic abc")).await, refused(401, "E_ADMIN_FORBIDDEN"));
    assert_eq!(fixture.refusal(with("Bearer wrong")).await, refused(403, "E_ADMIN_FORBIDDEN"));
    assert!(fixture.memory.events().is_empty());
    assert_eq!(fixture.answer(announcement("r", "{}")).await.0, 202);

    let ingress = &fixture.ingress;
    let (targets, pipeline) = (crate::testing::targets(), ingress.pipeline.clone());
    let statistics = crate::testing::statistics(false);
    let outbound = crate::testing::outbound();
    fixture.ingress = actix_web::web::Data::new(crate::app::AppState {
        targets,
        pipeline,
        admin_token: None,
        statistics,
        outbound,
    });
    assert_eq!(fixture.refusal(announcement("r", "{}")).await, refused(403, "E_ADMIN_FORBIDDEN"));
    let without = TestRequest::put().uri("/api/v1/sessions/r");
    assert_eq!(fixture.refusal(without).await, refused(403, "E_ADMIN_FORBIDDEN"));
}

#[actix_web::test]
async fn announcement_is_queued_on_the_reserved_platform() {
    let fixture = TestIngress::new();
    let request = announcement("a%2Fb", r#"{"config":{"n":1.0},"live_stream_id":"ls"}"#);
    let (code, body) = fixture.answer(request).await;
    assert_eq!((code, &body["status"]), (202, &"accepted".into()));
    let (platform, events) = fixture.memory.calls.lock().unwrap()[0].clone();
    assert_eq!(
        (platform.as_str(), events[0].event_type.as_str()),
        ("sessions", "session.announced")
    );
    assert_eq!(events[0].body, r#"{"room_id":"a/b","live_stream_id":"ls","config":{"n":1.0}}"#);
    assert_eq!(body["event_id"], events[0].event_id);

    let keyed = || announcement("r", "").insert_header(("idempotency-key", "once"));
    let (code, first) = fixture.answer(keyed()).await;
    assert_eq!((code, &first["status"]), (202, &"accepted".into()));
    let again = json!({"event_id": first["event_id"], "status": "duplicate"});
    assert_eq!(fixture.answer(keyed()).await, (200, again));
    let elsewhere = announcement("another-room", "").insert_header(("idempotency-key", "once"));
    assert_eq!(fixture.answer(elsewhere).await.0, 202, "a key counts for one room only");
    for request in [announcement("r", "[]"), announcement("%00", ""), announcement("%ff", "")] {
        assert_eq!(fixture.refusal(request).await, refused(400, "E_INVALID_REQUEST"));
    }
    let long = announcement("r", "").insert_header(("idempotency-key", "k".repeat(257)));
    assert_eq!(fixture.refusal(long).await, refused(400, "E_INVALID_REQUEST"));
}

#[actix_web::test]
async fn endless_body_is_answered_and_disconnected() {
    let ingress = TestIngress::new().ingress;
    let connections = Connections::new(100, Duration::from_secs(75));
    let serving = IngressServer { ingress, connections, stop: CancellationToken::new() };
    let bind = "127.0.0.1:0".parse().unwrap();
    let (server, address) = serving.listen(bind, 1, 100, Duration::from_secs(5)).unwrap();
    let handle = server.handle();
    let serving = tokio::spawn(server);
    for (path, status) in
        [("/nowhere", "404"), ("/webhooks/nobody", "404"), ("/webhooks/off", "403")]
    {
        let mut sender = tokio::net::TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
        );
        sender.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(10), sender.read_to_string(&mut answer)).await;
        assert!(ended.is_ok(), "{path}: still connected after {answer}");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
    }
    handle.stop(false).await;
    serving.await.unwrap().unwrap();
}
