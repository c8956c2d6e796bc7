//! Answers `HEAD` and `OPTIONS` on the webhook routes, with which dashboards and CloudEvents
//! senders probe a receiver.
//!
//! # Guarantees
//!
//! - A probe queues nothing and does not count as a webhook. (`probes_of_dashboards_are_answered`)
//! - A probe is refused as a webhook would be: 404, 403 or 500.
//!   (`probes_of_dashboards_are_answered`)

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use shared::platform::Handshake;

use super::handshake::has_body;
use super::{catch_panic, fallback};
use crate::app::AppState;
use crate::error::Error;
use crate::routes;
use crate::targets::IngestTarget;

/// Methods of platforms whose dashboards or hubs use `GET`.
const WITH_GET: &str = "POST, GET, HEAD, OPTIONS";
/// Bound on an origin that is granted, in bytes: the longest domain name.
const MAX_ORIGIN_BYTES: usize = 255;

/// Headers of "HTTP 1.1 Web Hooks for Event Delivery" (CloudEvents), section 4.
const REQUEST_ORIGIN: &str = "webhook-request-origin";
const REQUEST_RATE: &str = "webhook-request-rate";
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// Answers 200 if a webhook could be posted.
pub(crate) async fn head(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    match receiver(&request, &ingress).await {
        Ok(_) => HttpResponse::new(StatusCode::OK),
        Err(error) => error.respond(None, payload.into_inner()),
    }
}

/// Lists the methods, and grants a CloudEvents sender its request. Each of its events is still
/// verified.
pub(crate) async fn options(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    let target = match receiver(&request, &ingress).await {
        Ok(target) => target,
        Err(error) => return error.respond(None, payload.into_inner()),
    };
    let asks_by_get = matches!(
        target.platform.handshake,
        None | Some(Handshake::WebSub { .. } | Handshake::Meta { .. })
    );
    let allow =
        HeaderValue::from_static(if asks_by_get { WITH_GET } else { fallback::WEBHOOK_METHODS });
    let origin = request.headers().get(REQUEST_ORIGIN).filter(|origin| is_origin(origin));
    let Some(origin) = origin else {
        return HttpResponse::NoContent().insert_header((ALLOW, allow)).finish();
    };
    let mut granted = HttpResponse::Ok();
    granted.insert_header((ALLOW, allow)).insert_header((ALLOWED_ORIGIN, origin.clone()));
    if request.headers().contains_key(REQUEST_RATE) {
        let rate = target
            .platform
            .rate_limit
            .per_minute
            .map_or_else(|| "*".to_owned(), |rate| rate.to_string());
        granted.insert_header((ALLOWED_RATE, rate));
    }
    granted.finish()
}

/// Returns the platform in the path of `request`, if it receives webhooks.
async fn receiver(request: &HttpRequest, ingress: &AppState) -> Result<Arc<IngestTarget>, Error> {
    let name = routes::platform_name(request);
    let target = catch_panic(ingress.targets.resolve(name, &ingress.pipeline.gate)).await?;
    if !target.platform.enabled {
        return Err(Error::PlatformDisabled);
    }
    if target.keys.is_none() {
        return Err(Error::ConfigMissing);
    }
    if has_body(request.headers()) {
        return Err(Error::InvalidRequest("A probe has no body".to_owned()));
    }
    Ok(target)
}

/// Returns true if `value` may be echoed in a header: short, and only visible ASCII.
fn is_origin(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=MAX_ORIGIN_BYTES).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}
