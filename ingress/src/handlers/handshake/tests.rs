#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use actix_web::App;
use actix_web::http::Method;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use serde_json::Value;
use shared::clock;

use crate::routes;
use crate::testing::{Fixture, sign};

/// Status, content type and body.
type Answer = (u16, String, String);

impl Fixture {
    async fn said(&self, request: TestRequest) -> Answer {
        let app = App::new().app_data(self.ingress.clone()).configure(routes::table);
        let response = call_service(&init_service(app).await, request.to_request()).await;
        let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        if kind.as_deref() == Some("text/plain") {
            assert_eq!(response.headers().get("x-content-type-options").unwrap(), "nosniff");
        }
        let status = response.status().as_u16();
        (status, kind.unwrap_or_default(), String::from_utf8(read_body(response).await.to_vec()).unwrap())
    }

    async fn errcode(&self, request: TestRequest) -> (u16, String) {
        let (status, _, body) = self.said(request).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        (status, body["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

fn zoom(body: &str, signed: bool) -> TestRequest {
    let now = clock::now_ms() / 1000;
    let signature = format!("v0={}", sign(format!("v0:{now}:{body}").as_bytes()));
    let request = TestRequest::post().uri("/webhooks/zoom").set_payload(body.to_owned());
    let request = request.insert_header(("x-zm-request-timestamp", now.to_string()));
    if signed { request.insert_header(("x-zm-signature", signature)) } else { request }
}

fn chat(body: &str) -> TestRequest {
    let signature = format!("sha256={}", sign(body.as_bytes()));
    TestRequest::post()
        .uri("/webhooks/chat")
        .insert_header(("x-webhook-signature", signature))
        .set_payload(body.to_owned())
}

fn hub(path: &str, query: &str) -> TestRequest {
    TestRequest::get().uri(&format!("{path}?{query}"))
}

#[actix_web::test]
async fn a_handshake_is_answered_without_redis_and_queues_nothing() {
    let fixture = Fixture::new();
    fixture.redis_away();
    let body = r#"{"type":"url_verification","challenge":"3eZbrw <script>"}"#;
    let said = fixture.said(chat(body)).await;
    assert_eq!(said, (200, "text/plain".to_owned(), "3eZbrw <script>".to_owned()));

    // The platform has two secrets; the proof is made with the one that this request is signed with.
    let body = r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event":"endpoint.url_validation"}"#;
    let proof = sign(b"qgg8vlvZRS6UYooatFL8Aw");
    let expected = format!(r#"{{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"{proof}"}}"#);
    assert_eq!(fixture.said(zoom(body, true)).await, (200, "application/json".to_owned(), expected));
    assert!(fixture.memory.events().is_empty());
}

#[actix_web::test]
async fn a_forged_handshake_is_told_nothing() {
    let fixture = Fixture::new();
    let body = r#"{"payload":{"plainToken":"t"},"event":"endpoint.url_validation"}"#;
    let refused = (401, "E_WEBHOOK_INVALID_SIGNATURE".to_owned());
    assert_eq!(fixture.errcode(zoom(body, false)).await, refused);
    let other = zoom(body, true).set_payload(body.replace(r#""t""#, r#""u""#));
    assert_eq!(fixture.errcode(other).await, refused);
    let body = r#"{"type":"url_verification","challenge":"x"}"#;
    assert_eq!(fixture.errcode(chat(body).set_payload(body.replace("\"x\"", "\"y\""))).await, refused);
}

#[actix_web::test]
async fn other_bodies_are_events_as_ever() {
    let fixture = Fixture::new();
    let (status, ..) = fixture.said(chat(r#"{"event_type":"url_verification","payload":{"challenge":"x"}}"#)).await;
    assert_eq!(status, 202);
    assert_eq!(fixture.errcode(chat("no JSON")).await, (400, "E_WEBHOOK_INVALID_PAYLOAD".to_owned()));
    let (status, ..) = fixture.said(zoom(r#"{"event":"meeting.started","event_ts":1733738399123}"#, true)).await;
    assert_eq!(status, 200, "what Zoom takes for an answer");
    assert_eq!(fixture.memory.events().len(), 2);
}

#[actix_web::test]
async fn a_hub_is_answered_on_every_route_of_its_platform_only() {
    let fixture = Fixture::new();
    fixture.redis_away();
    let query =
        "hub.mode=subscribe&hub.topic=https%3A%2F%2Fexample.com%2Ffeed&hub.challenge=a%2Bb&hub.lease_seconds=60";
    for path in ["/api/v1/webhooks", "/webhooks", "/webhook", "/api/v1/live/webhooks"] {
        let said = fixture.said(hub(&format!("{path}/feeds"), query)).await;
        assert_eq!(said, (200, "text/plain".to_owned(), "a+b".to_owned()), "{path}");
    }
    let other = query.replace("feed&", "other&");
    assert_eq!(fixture.errcode(hub("/webhooks/feeds", &other)).await, (404, "E_NOT_FOUND".to_owned()));
    assert_eq!(fixture.errcode(hub("/webhooks/feeds", "")).await, (400, "E_INVALID_REQUEST".to_owned()));
    let with_body = || hub("/webhooks/feeds", query);
    for request in [
        with_body().insert_header(("content-length", "3")),
        with_body().insert_header(("transfer-encoding", "chunked")),
    ] {
        assert_eq!(fixture.errcode(request).await, (400, "E_INVALID_REQUEST".to_owned()));
    }
    let denied = "hub.mode=denied&hub.topic=https%3A%2F%2Fexample.com%2Ffeed&hub.reason=x";
    assert_eq!(fixture.said(hub("/webhooks/feeds", denied)).await.0, 204);
    for name in ["acme", "zoom", "chat", "off", "nobody"] {
        let refused = fixture.errcode(hub(&format!("/webhooks/{name}"), query)).await;
        assert_eq!(refused, (405, "E_METHOD_NOT_ALLOWED".to_owned()), "{name}");
    }
    let put = hub("/webhooks/feeds", query).method(Method::PUT);
    assert_eq!(fixture.errcode(put).await.0, 405);
}
