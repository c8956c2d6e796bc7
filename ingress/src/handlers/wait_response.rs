//! The answer to a request that waits for what becomes of its event.
//!
//! Guarantee: it is one of three: what the event did, that it is a dead letter, or, when that is not known in time, what
//! anybody is answered who does not wait. A duplicate does not wait: it is told what is known.

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde_json::value::RawValue;
use shared::metrics::RequestOutcome;
use shared::queue::ReplyOutcome;
use utoipa::ToSchema;

use super::respond;
use crate::openapi::results::EventResultsDoc;
use crate::pipeline::{IngestReply, IngestStatus, ResultWaiter};
use crate::targets::IngestTarget;

/// The header that says which preference was met.
const PREFERENCE_APPLIED: &str = "preference-applied";

/// What an event did.
#[derive(Serialize, ToSchema)]
#[schema(as = Done)]
pub(crate) struct ProcessedResponse<'a> {
    /// True.
    success: bool,
    /// The worker's words.
    #[schema(value_type = EventResultsDoc)]
    results: &'a RawValue,
}

/// What an event is that could not be processed.
#[derive(Serialize, ToSchema)]
#[schema(as = Failed)]
pub(crate) struct ProcessingErrorResponse<'a> {
    /// False.
    success: bool,
    /// `E_WEBHOOK_PROCESSING_ERROR`.
    #[schema(pattern = "^E_WEBHOOK_PROCESSING_ERROR$")]
    errcode: &'a str,
    /// The same in words, with the dead letter's error code.
    errmesg: &'a str,
    /// Which answer it is: the line in the log has it too.
    #[schema(pattern = "^[0-9a-f]{8,32}$")]
    erresid: &'a str,
    /// The event's id.
    event_id: &'a str,
}

/// Waits, writes the answer and counts it as what it is without the waiting.
pub(super) async fn wait_response(
    answer: IngestReply,
    mut waiter: ResultWaiter,
    target: &IngestTarget,
) -> HttpResponse {
    let (outcome, counted) = match answer.status {
        IngestStatus::Accepted => (waiter.outcome().await, RequestOutcome::Accepted),
        IngestStatus::Duplicate => (waiter.stored().await, RequestOutcome::Duplicate),
        // A dead letter has no result to wait for.
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
    let (errcode, event_id) = ("E_WEBHOOK_PROCESSING_ERROR", answer.event_id.as_str());
    let erresid = &format!("{:012x}", rand::random::<u64>() >> 16);
    tracing::warn!(erresid, errcode, platform = %target.platform.name, event_id, code, "a sender was told that its event is a dead letter");
    let errmesg = &format!("Webhook event could not be processed: {code}");
    serde_json::to_vec(&ProcessingErrorResponse {
        success: false,
        errcode,
        errmesg,
        erresid,
        event_id,
    })
}
