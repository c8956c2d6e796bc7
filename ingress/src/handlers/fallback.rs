//! Requests that meet no route, or a route with another method.

use actix_web::HttpResponse;
use actix_web::web::Payload;

use crate::error::Error;

/// No such route.
pub(crate) async fn not_found(payload: Payload) -> HttpResponse {
    Error::NotFound.respond(None, payload.into_inner())
}

/// Methods of the webhooks' routes on every platform. Some platforms take `GET` besides.
pub(crate) const WEBHOOK_METHODS: &str = "POST, HEAD, OPTIONS";

/// A route that takes webhooks, asked by a method that it has not.
pub(crate) async fn no_webhook(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: WEBHOOK_METHODS }.respond(None, payload.into_inner())
}

/// A route that is posted to.
pub(crate) async fn only_post(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "POST" }.respond(None, payload.into_inner())
}

/// A route that is read only.
pub(crate) async fn only_get(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "GET" }.respond(None, payload.into_inner())
}

/// A route that takes announcements only.
pub(crate) async fn only_put(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "PUT" }.respond(None, payload.into_inner())
}

/// A route that changes or removes one platform.
pub(crate) async fn only_delete_and_patch(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "DELETE, PATCH" }.respond(None, payload.into_inner())
}

/// A route that changes one destination.
pub(crate) async fn only_patch(payload: Payload) -> HttpResponse {
    Error::MethodNotAllowed { allow: "PATCH" }.respond(None, payload.into_inner())
}
