//! Answers requests without a matching route or method.

use actix_web::HttpResponse;
use actix_web::web::Payload;

use crate::error::Error;

/// Answers 404.
pub(crate) async fn not_found(payload: Payload) -> HttpResponse {
    Error::NotFound.respond(None, payload.into_inner())
}

/// Methods of the webhook routes for every platform. Some platforms take `GET`, too.
pub(crate) const WEBHOOK_METHODS: &str = "POST, HEAD, OPTIONS";

/// Answers 405 on a webhook route.
pub(crate) async fn no_webhook(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: WEBHOOK_METHODS }.respond(None, payload.into_inner())
}

/// Answers 405 on a route that takes `POST`.
pub(crate) async fn only_post(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "POST" }.respond(None, payload.into_inner())
}

/// Answers 405 on a route that takes `GET`.
pub(crate) async fn only_get(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "GET" }.respond(None, payload.into_inner())
}

/// Answers 405 on the route of session announcements.
pub(crate) async fn only_put(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "PUT" }.respond(None, payload.into_inner())
}

/// Answers 405 on the route of one platform.
pub(crate) async fn only_delete_and_patch(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "DELETE, PATCH" }.respond(None, payload.into_inner())
}

/// Answers 405 on the route of one destination.
pub(crate) async fn only_patch(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "PATCH" }.respond(None, payload.into_inner())
}
