//! Answers a request that waits for the result of its event.
//!
//! # Guarantees
//!
//! - The answer is the result, the dead letter, or, after the timeout, the same as without waiting.
//!   (`wait_timeout_is_answered_as_queued`)
//! - A duplicate does not wait. It gets the result if that is known. (`duplicate_never_waits`)

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;
use shared::metrics::RequestOutcome;
use shared::queue::ReplyOutcome;
use utoipa::ToSchema;

use super::respond;
use crate::error::codes::PROCESSING_ERROR;
use crate::openapi::results::EventResultsDoc;
use crate::pipeline::{IngestReply, IngestStatus, ResultWaiter};
use crate::targets::IngestTarget;

/// Header that names the applied preference.
const PREFERENCE_APPLIED: &str = "preference-applied";

/// Result of a processed event.
#[derive(Serialize, ToSchema)]
#[schema(as = Done)]
pub(crate) struct ProcessedResponse<'a> {
    /// True.
    success: bool,
    /// Result as the worker wrote it.
    #[schema(value_type = EventResultsDoc)]
    results: &'a RawValue,
}

/// Answer for an event that could not be processed.
#[derive(Serialize, ToSchema)]
#[schema(as = Failed)]
pub(crate) struct ProcessingErrorResponse<'a> {
    /// False.
    success: bool,
    /// `E_WEBHOOK_PROCESSING_ERROR`.
    #[schema(pattern = "^E_WEBHOOK_PROCESSING_ERROR$")]
    errcode: &'a str,
    /// Error in words, with the error code of the dead letter.
    errmesg: &'a str,
    /// Id of this response. The log line has it, too.
    #[schema(pattern = "^[0-9a-f]{8,32}$")]
    erresid: &'a str,
    /// Id of the event.
    event_id: &'a str,
}

/// Waits for the result and builds the response. Counts the request as if it had not waited.
pub(super) async fn wait_response(
    answer: IngestReply,
    mut waiter: ResultWaiter,
    target: &IngestTarget,
) -> HttpResponse {
    let (outcome, counted) = match answer.status {
        IngestStatus::Accepted => (waiter.outcome().await, RequestOutcome::Accepted),
        IngestStatus::Duplicate => (waiter.stored().await, RequestOutcome::Duplicate),
        // A dead letter has no result.
        IngestStatus::KeptInvalid => (None, RequestOutcome::KeptInvalid),
        IngestStatus::Ignored => (None, RequestOutcome::Ignored),
    };
    let Some(outcome) = outcome else { return respond(&answer, target) };
    target.metrics.request(counted);
    let body = match &outcome {
        ReplyOutcome::Processed(results) => {
            serde_json::to_vec(&ProcessedResponse { success: true, results })
        }
        ReplyOutcome::Dead(code) => failed(&answer, code, target),
    };
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")));
    response.insert_header((PREFERENCE_APPLIED, waiter.applied()));
    response.body(body.unwrap_or_default())
}

fn failed(answer: &IngestReply, code: &str, target: &IngestTarget) -> serde_json::Result<Vec<u8>> {
    let (errcode, event_id) = (PROCESSING_ERROR, answer.event_id.as_str());
    let erresid = &format!("{:012x}", rand::random::<u64>() >> 16);
    tracing::warn!(
        erresid,
        errcode,
        platform = %target.platform.name,
        event_id,
        code,
        "event was dead-lettered; answering its waiting sender"
    );
    let errmesg = &format!("Webhook event could not be processed: {code}");
    serde_json::to_vec(&ProcessingErrorResponse {
        success: false,
        errcode,
        errmesg,
        erresid,
        event_id,
    })
}
