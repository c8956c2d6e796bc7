#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use actix_web::App;
use actix_web::http::Method;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use serde_json::Value;
use shared::clock;

use crate::routes;
use crate::testing::{TestIngress, sign};

/// Status, content type and body.
type HandshakeResponse = (u16, String, String);

impl TestIngress {
    async fn response(&self, request: TestRequest) -> HandshakeResponse {
        let app = App::new().app_data(self.ingress.clone()).configure(routes::configure);
        let response = call_service(&init_service(app).await, request.to_request()).await;
        let kind =
            response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned());
        if kind.as_deref() == Some("text/plain") {
            assert_eq!(response.headers().get("x-content-type-options").unwrap(), "nosniff");
        }
        let status = response.status().as_u16();
        (
            status,
            kind.unwrap_or_default(),
            String::from_utf8(read_body(response).await.to_vec()).unwrap(),
        )
    }

    async fn errcode(&self, request: TestRequest) -> (u16, String) {
        let (status, _, body) = self.response(request).await;
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
async fn handshake_is_answered_without_redis_and_queues_nothing() {
    let fixture = TestIngress::new();
    fixture.make_redis_unavailable();
    let body = r#"{"type":"url_verification","challenge":"3eZbrw <script>"}"#;
    let response = fixture.response(chat(body)).await;
    assert_eq!(response, (200, "text/plain".to_owned(), "3eZbrw <script>".to_owned()));

    // The platform has two secrets. The HMAC uses the one that signed this request.
    let body =
        r#"{"payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"},"event":"endpoint.url_validation"}"#;
    let proof = sign(b"qgg8vlvZRS6UYooatFL8Aw");
    let expected =
        format!(r#"{{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"{proof}"}}"#);
    assert_eq!(
        fixture.response(zoom(body, true)).await,
        (200, "application/json".to_owned(), expected)
    );
    assert!(fixture.memory.events().is_empty());
}

#[actix_web::test]
async fn forged_handshake_is_refused() {
    let fixture = TestIngress::new();
    let body = r#"{"payload":{"plainToken":"t"},"event":"endpoint.url_validation"}"#;
    let refused = (401, "E_WEBHOOK_INVALID_SIGNATURE".to_owned());
    assert_eq!(fixture.errcode(zoom(body, false)).await, refused);
    let other = zoom(body, true).set_payload(body.replace(r#""t""#, r#""u""#));
    assert_eq!(fixture.errcode(other).await, refused);
    let body = r#"{"type":"url_verification","challenge":"x"}"#;
    assert_eq!(
        fixture.errcode(chat(body).set_payload(body.replace("\"x\"", "\"y\""))).await,
        refused
    );
}

#[actix_web::test]
async fn body_without_a_challenge_is_an_event() {
    let fixture = TestIngress::new();
    let (status, ..) = fixture
        .response(chat(r#"{"event_type":"url_verification","payload":{"challenge":"x"}}"#))
        .await;
    assert_eq!(status, 202);
    assert_eq!(
        fixture.errcode(chat("no JSON")).await,
        (400, "E_WEBHOOK_INVALID_PAYLOAD".to_owned())
    );
    let (status, ..) = fixture
        .response(zoom(r#"{"event":"meeting.started","event_ts":1733738399123}"#, true))
        .await;
    assert_eq!(status, 200, "the answer that Zoom requires");
    assert_eq!(fixture.memory.events().len(), 2);
}

#[actix_web::test]
async fn hub_is_answered_on_every_route_of_its_platform_only() {
    let fixture = TestIngress::new();
    fixture.make_redis_unavailable();
    let query = "hub.mode=subscribe&hub.topic=https%3A%2F%2Fexample.com%2Ffeed\
                 &hub.challenge=a%2Bb&hub.lease_seconds=60";
    for path in ["/api/v1/webhooks", "/webhooks", "/webhook", "/api/v1/live/webhooks"] {
        let response = fixture.response(hub(&format!("{path}/feeds"), query)).await;
        assert_eq!(response, (200, "text/plain".to_owned(), "a+b".to_owned()), "{path}");
    }
    let other = query.replace("feed&", "other&");
    assert_eq!(
        fixture.errcode(hub("/webhooks/feeds", &other)).await,
        (404, "E_NOT_FOUND".to_owned())
    );
    assert_eq!(
        fixture.errcode(hub("/webhooks/feeds", "")).await,
        (400, "E_INVALID_REQUEST".to_owned())
    );
    let with_body = || hub("/webhooks/feeds", query);
    for request in [
        with_body().insert_header(("content-length", "3")),
        with_body().insert_header(("transfer-encoding", "chunked")),
    ] {
        assert_eq!(fixture.errcode(request).await, (400, "E_INVALID_REQUEST".to_owned()));
    }
    let denied = "hub.mode=denied&hub.topic=https%3A%2F%2Fexample.com%2Ffeed&hub.reason=x";
    assert_eq!(fixture.response(hub("/webhooks/feeds", denied)).await.0, 204);
    let refused = fixture.errcode(hub("/webhooks/nobody", query)).await;
    assert_eq!(refused, (404, "E_WEBHOOK_UNSUPPORTED_PLATFORM".to_owned()));
    for name in ["acme", "zoom", "chat", "off"] {
        let refused = fixture.errcode(hub(&format!("/webhooks/{name}"), query)).await;
        assert_eq!(refused, (405, "E_METHOD_NOT_ALLOWED".to_owned()), "{name}");
    }
    let put = hub("/webhooks/feeds", query).method(Method::PUT);
    assert_eq!(fixture.errcode(put).await.0, 405);
}

#[actix_web::test]
async fn dashboard_that_presents_the_token_gets_its_challenge() {
    let fixture = TestIngress::new();
    fixture.make_redis_unavailable();
    let query = "hub.mode=subscribe&hub.challenge=a%3Cb%3E&hub.verify_token=another-secret";
    let response = fixture.response(hub("/webhooks/meta", query)).await;
    assert_eq!(response, (200, "text/plain".to_owned(), "a<b>".to_owned()));
    let wrong = query.replace("another", "no");
    assert_eq!(
        fixture.errcode(hub("/webhooks/meta", &wrong)).await,
        (404, "E_NOT_FOUND".to_owned())
    );
    let number = "hub.mode=subscribe&hub.challenge=1158201444";
    assert_eq!(
        fixture.errcode(hub("/webhooks/meta", number)).await,
        (400, "E_INVALID_REQUEST".to_owned())
    );
}

#[actix_web::test]
async fn numeric_challenge_is_echoed_without_a_handshake() {
    let fixture = TestIngress::new();
    fixture.make_redis_unavailable();
    let query = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock";
    let response = fixture.response(hub("/webhooks/acme", query)).await;
    assert_eq!(response, (200, "text/plain".to_owned(), "1158201444".to_owned()));
    for (name, refused) in [
        ("chat", (405, "E_METHOD_NOT_ALLOWED")),
        ("feeds", (400, "E_INVALID_REQUEST")),
        ("off", (403, "E_WEBHOOK_PLATFORM_DISABLED")),
        ("netflix", (500, "E_WEBHOOK_CONFIG_MISSING")),
    ] {
        let (status, errcode) = fixture.errcode(hub(&format!("/webhooks/{name}"), query)).await;
        assert_eq!((status, errcode.as_str()), refused, "{name}");
    }
    assert!(fixture.memory.events().is_empty());
}

/// Status, and the headers that list permissions.
async fn probed(fixture: &TestIngress, request: TestRequest) -> (u16, [Option<String>; 3]) {
    let app = App::new().app_data(fixture.ingress.clone()).configure(routes::configure);
    let response = call_service(&init_service(app).await, request.to_request()).await;
    let header =
        |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let permissions = ["allow", "webhook-allowed-origin", "webhook-allowed-rate"].map(header);
    (response.status().as_u16(), permissions)
}

#[actix_web::test]
async fn probes_of_dashboards_are_answered() {
    let fixture = TestIngress::new();
    fixture.make_redis_unavailable();
    let ask = |method: Method, name: &str| {
        TestRequest::with_uri(&format!("/webhooks/{name}")).method(method)
    };
    for (name, status) in
        [("acme", 200), ("zoom", 200), ("off", 403), ("nobody", 404), ("netflix", 500)]
    {
        assert_eq!(probed(&fixture, ask(Method::HEAD, name)).await.0, status, "{name}");
        let options = if status == 200 { 204 } else { status };
        assert_eq!(probed(&fixture, ask(Method::OPTIONS, name)).await.0, options, "{name}");
    }
    for (name, allow) in [
        ("acme", "POST, GET, HEAD, OPTIONS"),
        ("meta", "POST, GET, HEAD, OPTIONS"),
        ("feeds", "POST, GET, HEAD, OPTIONS"),
        ("chat", "POST, HEAD, OPTIONS"),
    ] {
        let answer = probed(&fixture, ask(Method::OPTIONS, name)).await;
        assert_eq!(answer, (204, [Some(allow.to_owned()), None, None]), "{name}");
    }
    let with_body = ask(Method::OPTIONS, "acme").insert_header(("content-length", "2"));
    assert_eq!(fixture.errcode(with_body).await, (400, "E_INVALID_REQUEST".to_owned()));
    assert!(fixture.memory.events().is_empty());
}

#[actix_web::test]
async fn cloudevents_sender_is_granted_origin_and_rate() {
    let fixture = TestIngress::new();
    let ask = |origin: &str| {
        let request = TestRequest::with_uri("/webhooks/acme").method(Method::OPTIONS);
        request.insert_header(("WebHook-Request-Origin", origin))
    };
    let (status, [_, origin, rate]) = probed(&fixture, ask("eventemitter.example.com")).await;
    assert_eq!((status, origin.as_deref(), rate), (200, Some("eventemitter.example.com"), None));
    let with_rate = ask("eventemitter.example.com").insert_header(("WebHook-Request-Rate", "120"));
    let (status, [_, _, rate]) = probed(&fixture, with_rate).await;
    assert_eq!((status, rate.as_deref()), (200, Some("100")), "the platform's limit");
    for origin in ["a b", &"x".repeat(256)] {
        assert_eq!(probed(&fixture, ask(origin)).await.1[1], None, "{origin}");
    }
}
