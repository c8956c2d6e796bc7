//! Answers handshakes, and `GET` on the webhook routes, which WebSub hubs and Meta's dashboard use.

use std::time::Instant;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use shared::metrics::RequestOutcome;
use shared::platform::Handshake;

use super::{catch_panic, fallback};
use crate::app::AppState;
use crate::error::Error;
use crate::pipeline::handshake::{
    HandshakeError, HandshakeReply, answer_dashboard, answer_hub, open_challenge,
};
use crate::routes;
use crate::targets::IngestTarget;

/// Error text for a request that is no WebSub verification.
pub(crate) const HUB_FORM: &str = "Not a WebSub verification of intent";
/// Error text for a request that is no dashboard verification.
pub(crate) const DASHBOARD_FORM: &str =
    "Not a verification with hub.mode, hub.verify_token and hub.challenge";

/// Builds the response and counts it.
pub(super) fn respond(reply: HandshakeReply, target: &IngestTarget) -> HttpResponse {
    target.metrics.request(RequestOutcome::Handshake);
    let (kind, body) = match reply {
        HandshakeReply::Text(text) => ("text/plain", text.into_bytes()),
        HandshakeReply::Zoom(proof) => {
            ("application/json", serde_json::to_vec(&proof).unwrap_or_default())
        }
        HandshakeReply::Acknowledged => return HttpResponse::new(StatusCode::NO_CONTENT),
    };
    // Somebody else chose the echoed text, so browsers must treat it as plain text.
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HeaderValue::from_static(kind)))
        .insert_header((
            HeaderName::from_static("x-content-type-options"),
            HeaderValue::from_static("nosniff"),
        ))
        .body(body)
}

/// Answers a WebSub hub that verifies a subscription, or Meta's dashboard that verifies this URL.
pub(crate) async fn confirm(
    request: HttpRequest,
    payload: Payload,
    ingress: Data<AppState>,
) -> HttpResponse {
    let begun = Instant::now();
    let name = routes::platform_name(&request);
    let found = catch_panic(ingress.targets.resolve(name, &ingress.pipeline.gate)).await;
    let target = match &found {
        Ok(target) => target,
        Err(error) => return error.respond(None, payload.into_inner()),
    };
    let (platform, query) = (&target.platform.name, request.query_string());
    let handshake = target.platform.handshake.as_ref();
    let expected = match handshake {
        Some(Handshake::WebSub { .. }) => HUB_FORM,
        Some(Handshake::Meta { .. }) => DASHBOARD_FORM,
        None if open_challenge(query).is_some() => DASHBOARD_FORM,
        _ => return fallback::no_webhook(payload).await,
    };
    let malformed = || Error::InvalidRequest(expected.to_owned());
    let answered = if !target.platform.enabled {
        Err(Error::PlatformDisabled)
    } else if target.keys.is_none() {
        Err(Error::ConfigMissing)
    } else if has_body(request.headers()) {
        Err(malformed())
    } else {
        let answered = match handshake {
            Some(Handshake::WebSub { topics }) => answer_hub(topics, platform.as_str(), query),
            Some(_) => {
                answer_dashboard(ingress.targets.verify_token(platform), platform.as_str(), query)
            }
            None => open_challenge(query).ok_or(HandshakeError::Malformed),
        };
        answered.map_err(|unanswered| match unanswered {
            HandshakeError::Malformed => malformed(),
            HandshakeError::NotDeclared => Error::SubscriptionRefused,
        })
    };
    let response = match answered {
        Ok(reply) => respond(reply, target),
        Err(error) => {
            error.outcome().into_iter().for_each(|outcome| target.metrics.request(outcome));
            error.respond(Some(target), payload.into_inner())
        }
    };
    target.metrics.request_duration(begun.elapsed());
    response
}

/// Returns true if the request announces a body. No hub sends one, and none is read.
pub(super) fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0");
    length || headers.contains_key(TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests;
