#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use actix_web::App;
use actix_web::http::Method;
use actix_web::http::header::AUTHORIZATION;
use actix_web::test::{TestRequest, call_service, init_service, read_body_json};
use serde_json::{Value, json};
use shared::registration::Sealer;

use super::*;
use crate::routes;
use crate::testing::{ADMIN_TOKEN, TestIngress};

const REGISTER: &str = "/api/v1/webhooks/register";
const PLATFORMS: &str = "/api/v1/webhooks/platforms";
const SECRET: &str = "a-5ecret-nobody-knows";

fn request(method: Method, path: &str, body: &Value) -> TestRequest {
    TestRequest::with_uri(path).method(method).set_payload(body.to_string())
}

fn admin(method: Method, path: &str, body: &Value) -> TestRequest {
    request(method, path, body).insert_header((AUTHORIZATION, format!("Bearer {ADMIN_TOKEN}")))
}

fn registration(more: Value) -> TestRequest {
    let mut body = json!({"platform": "shop", "secret": SECRET});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    admin(Method::POST, REGISTER, &body)
}

async fn refusal(fixture: &TestIngress, request: TestRequest) -> (u16, String, String) {
    let app = App::new().app_data(fixture.ingress.clone()).configure(routes::configure);
    let response = call_service(&init_service(app).await, request.to_request()).await;
    let status = response.status().as_u16();
    let body: Value = read_body_json(response).await;
    assert!(!body.to_string().contains("5ecret"), "{body}");
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    (status, text("errcode"), text("errmesg"))
}

fn plain() -> Sealer {
    Sealer::new(Vec::new(), true)
}

#[actix_web::test]
async fn admin_token_is_required_to_change_platforms() {
    let fixture = TestIngress::registering(plain());
    for (method, path) in [
        (Method::POST, REGISTER),
        (Method::GET, PLATFORMS),
        (Method::DELETE, "/api/v1/webhooks/platforms/shop"),
        (Method::PATCH, "/api/v1/webhooks/platforms/shop"),
    ] {
        let without = request(method.clone(), path, &json!({}));
        assert_eq!(refusal(&fixture, without).await.0, 401, "{method} {path}");
        let wrong =
            request(method.clone(), path, &json!({})).insert_header((AUTHORIZATION, "Bearer x"));
        assert_eq!(refusal(&fixture, wrong).await.0, 403, "{method} {path}");
    }
}

#[actix_web::test]
async fn method_not_allowed_lists_the_methods() {
    let fixture = TestIngress::registering(plain());
    for (method, path) in [
        (Method::GET, REGISTER),
        (Method::POST, PLATFORMS),
        (Method::POST, "/api/v1/webhooks/platforms/shop"),
    ] {
        let answer = refusal(&fixture, admin(method, path, &json!({}))).await;
        assert_eq!((answer.0, answer.1.as_str()), (405, "E_METHOD_NOT_ALLOWED"), "{path}");
    }
}

#[actix_web::test]
async fn registration_reports_all_problems_without_secrets() {
    let fixture = TestIngress::registering(plain());
    let wrong = json!({"rate_limit": 0, "url": "ftp://x", "old_secret_expires_in": "soon"});
    let (status, errcode, text) = refusal(&fixture, registration(wrong)).await;
    assert_eq!((status, errcode.as_str()), (400, "E_INVALID_REQUEST"));
    for key in ["rate_limit: ", "url: ", "old_secret_expires_in: "] {
        assert!(text.contains(key), "{text}");
    }
    let many: serde_json::Map<_, _> = (0..60).map(|n| (format!("k{n}"), Value::from(1))).collect();
    let (_, _, text) = refusal(&fixture, registration(many.into())).await;
    assert!(text.len() <= MAX_PROBLEMS_BYTES + 3 && text.ends_with('…'), "{}", text.len());
    for body in
        [json!([]), json!("x"), json!({"paused": 1}), json!({"paused": true, "x": 1}), json!({})]
    {
        let answer =
            refusal(&fixture, admin(Method::PATCH, "/api/v1/webhooks/platforms/acme", &body)).await;
        assert_eq!((answer.0, answer.1.as_str()), (400, "E_INVALID_REQUEST"), "{body}");
    }
}

#[actix_web::test]
async fn registration_of_a_configured_bundled_platform_conflicts() {
    let fixture = TestIngress::registering(plain());
    for taken in ["mux", "acme"] {
        let answer = refusal(&fixture, registration(json!({"platform": taken}))).await;
        assert_eq!((answer.0, answer.1.as_str()), (409, "E_INVALID_REQUEST"), "{answer:?}");
    }
}

#[actix_web::test]
async fn registration_without_key_or_redis_is_503() {
    let (status, errcode, text) =
        refusal(&TestIngress::registering(Sealer::default()), registration(json!({}))).await;
    assert_eq!((status, errcode.as_str()), (503, "E_REGISTRATION_UNAVAILABLE"));
    assert!(text.contains("SECRETS_KEY"), "{text}");
    let fixture = TestIngress::registering(plain());
    for request in [
        registration(json!({})),
        admin(Method::GET, PLATFORMS, &json!({})),
        admin(Method::DELETE, "/api/v1/webhooks/platforms/shop", &json!({})),
        admin(Method::PATCH, "/api/v1/webhooks/platforms/acme", &json!({"paused": true})),
    ] {
        let answer = refusal(&fixture, request).await;
        assert_eq!((answer.0, answer.1.as_str()), (503, "E_WEBHOOK_QUEUE_ERROR"), "{answer:?}");
    }
    fixture.make_redis_unavailable();
    assert_eq!(refusal(&fixture, registration(json!({}))).await.1, "E_WEBHOOK_QUEUE_ERROR");
}

#[actix_web::test]
async fn unknown_platform_is_503_until_registrations_are_read() {
    let fixture = TestIngress::registering(plain());
    let answer = refusal(&fixture, request(Method::POST, "/webhooks/shop", &json!({}))).await;
    assert_eq!((answer.0, answer.1.as_str()), (503, "E_WEBHOOK_QUEUE_ERROR"));
    let answer = refusal(&fixture, request(Method::POST, "/webhooks/Shop", &json!({}))).await;
    assert_eq!(answer.0, 404, "no platform can have this name");
}
