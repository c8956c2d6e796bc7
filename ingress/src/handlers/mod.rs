//! Handles the routes: each handler parses a request, calls the pipeline and builds the response.

mod admin;
pub(crate) mod fallback;
pub(crate) mod handshake;
pub(crate) mod outbound;
pub(crate) mod platforms;
pub(crate) mod probe;
pub(crate) mod sessions;
pub(crate) mod stats;
pub(crate) mod wait_response;
pub(crate) mod webhook;

use std::panic::AssertUnwindSafe;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use futures_util::FutureExt;
use serde::Serialize;
use shared::metrics::RequestOutcome;
use utoipa::ToSchema;

use crate::error::Error;
use crate::pipeline::{IngestReply, IngestStatus};
use crate::targets::IngestTarget;

/// Response to an accepted, duplicate or ignored event.
#[derive(Serialize, ToSchema)]
#[schema(as = Queued)]
pub(crate) struct QueuedResponse<'a> {
    /// Id of the event. For a duplicate, the id of the first one. For a batch, the id of its first
    /// event; absent if it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    /// Ids of all events of a batch, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    event_ids: Option<&'a [String]>,
    /// Outcome of the request.
    #[schema(pattern = "^(accepted|duplicate|ignored)$")]
    status: &'static str,
}

/// Builds the response and counts it.
fn respond(answer: &IngestReply, target: &IngestTarget) -> HttpResponse {
    let (code, status, outcome) = match answer.status {
        IngestStatus::Accepted => (target.ack_status, "accepted", RequestOutcome::Accepted),
        IngestStatus::KeptInvalid => (target.ack_status, "accepted", RequestOutcome::KeptInvalid),
        IngestStatus::Duplicate => (StatusCode::OK, "duplicate", RequestOutcome::Duplicate),
        IngestStatus::Ignored => (StatusCode::OK, "ignored", RequestOutcome::Ignored),
    };
    target.metrics.request(outcome);
    if matches!(code, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT) {
        return HttpResponse::new(code);
    }
    let event_id = Some(answer.event_id.as_str()).filter(|id| !id.is_empty());
    let body = serde_json::to_vec(&QueuedResponse {
        event_id,
        event_ids: answer.event_ids.as_deref(),
        status,
    })
    .unwrap_or_default();
    HttpResponse::build(code)
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
        .body(body)
}

/// Turns a panic into an error response. The panic hook logs it, and the sender loses one attempt,
/// not the connection.
fn catch_panic<T>(
    work: impl Future<Output = Result<T, Error>>,
) -> impl Future<Output = Result<T, Error>> {
    AssertUnwindSafe(work).catch_unwind().map(|answer| answer.unwrap_or(Err(Error::Internal)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn panic_is_answered_as_internal_error() {
        let answer: Result<IngestReply, Error> =
            catch_panic(async { panic!("panic of the test") }).await;
        assert!(matches!(answer, Err(Error::Internal)));
    }
}
