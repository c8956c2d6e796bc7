#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use actix_web::body::to_bytes;
use actix_web::error::PayloadError;
use actix_web::http::ConnectionType;
use futures_util::{Stream, stream};
use serde_json::Value;
use shared::json::JsonError;
use shared::signature::VerifyError;

use super::*;
use crate::redis_gate::ClockDoubt;
use crate::testing::targets;

fn fault() -> CallError {
    CallError::NotRun((redis::ErrorKind::Io, "refused").into())
}

fn outside_tolerance() -> VerifyError {
    VerifyError::OutsideTolerance {
        received: 1_565_220_904,
        current: 1_565_221_504,
        diff: 600,
        signature_valid: true,
    }
}

/// Returns every error with its status, code, outcome, `Retry-After` and text.
pub(crate) fn table() -> Vec<(Error, &'static str, &'static str)> {
    use Error as E;
    let early = PayloadError::Incomplete(None);
    let invalid = IdentifyError::Json(JsonError::NotUtf8);
    let unsigned = "401 E_WEBHOOK_INVALID_SIGNATURE invalid_signature -";
    let window =
        "Timestamp outside tolerance window: received=1565220904, current=1565221504, diff=600s";
    vec![
        (
            E::unsupported_platform("x"),
            "404 E_WEBHOOK_UNSUPPORTED_PLATFORM not_configured -",
            "Unsupported webhook platform",
        ),
        (
            E::PlatformDisabled,
            "403 E_WEBHOOK_PLATFORM_DISABLED disabled -",
            "Webhook platform disabled",
        ),
        (
            E::ConfigMissing,
            "500 E_WEBHOOK_CONFIG_MISSING not_configured -",
            "Webhook signing secret not configured",
        ),
        (
            E::PayloadTooLarge { limit: 7 },
            "413 E_WEBHOOK_PAYLOAD_TOO_LARGE too_large -",
            "Webhook body larger than 7 bytes",
        ),
        (
            E::UnsupportedEncoding,
            "415 E_WEBHOOK_UNSUPPORTED_ENCODING unsupported_encoding -",
            "Webhook content encoding not supported",
        ),
        (
            E::BodyTimeout,
            "408 E_WEBHOOK_BODY_TIMEOUT body_timeout 5",
            "Webhook body did not arrive in time",
        ),
        (
            E::BodyBroken(early),
            "400 E_INVALID_REQUEST invalid_payload -",
            "Request body could not be read",
        ),
        (E::Signature(VerifyError::Missing), unsigned, "Invalid webhook signature"),
        (E::Signature(VerifyError::Malformed("x")), unsigned, "Invalid webhook signature"),
        (E::Signature(VerifyError::Mismatch), unsigned, "Invalid webhook signature"),
        (
            E::Signature(VerifyError::BodyHashMismatch),
            unsigned,
            "Webhook verification failed: hash mismatch",
        ),
        (
            E::Signature(outside_tolerance()),
            "401 E_WEBHOOK_SIGNATURE_ERROR signature_expired -",
            window,
        ),
        (
            E::ClockInDoubt(ClockDoubt::Differs { skew_ms: 9000 }),
            "503 E_WEBHOOK_QUEUE_ERROR queue_error 5",
            "Webhook temporarily not accepted",
        ),
        (
            E::InvalidPayload(invalid),
            "400 E_WEBHOOK_INVALID_PAYLOAD invalid_payload -",
            "Invalid webhook payload: not UTF-8",
        ),
        (
            E::RateLimited { retry_after_s: 42 },
            "429 E_WEBHOOK_RATE_LIMITED rate_limited 42",
            "Webhook rate limit exceeded",
        ),
        (E::Busy, "503 E_WEBHOOK_OVERLOADED overloaded 5", "Webhook receiver overloaded"),
        (E::SubscriptionRefused, "404 E_NOT_FOUND handshake -", "Subscription not confirmed"),
        (E::BacklogFull, "503 E_WEBHOOK_OVERLOADED overloaded 5", "Webhook backlog full"),
        (E::DeadLettersFull, "503 E_WEBHOOK_OVERLOADED overloaded 5", "Webhook dead letters full"),
        (
            E::QueueUnavailable("x"),
            "503 E_WEBHOOK_QUEUE_ERROR queue_error 5",
            "Webhook queue not available",
        ),
        (
            E::QueueRefused(fault()),
            "503 E_WEBHOOK_QUEUE_ERROR queue_error 5",
            "Webhook queue not available",
        ),
        (
            E::ResultUnknown(None),
            "503 E_WEBHOOK_DEDUPLICATION_ERROR unknown_result 5",
            "Webhook queue did not answer",
        ),
        (E::Admin(AdminAuthError::Missing), "401 E_ADMIN_FORBIDDEN - -", "admin token required"),
        (E::Admin(AdminAuthError::Forbidden), "403 E_ADMIN_FORBIDDEN - -", "admin token refused"),
        (E::InvalidRequest("why".to_owned()), "400 E_INVALID_REQUEST - -", "why"),
        (
            E::AfterClose,
            "503 E_WEBHOOK_QUEUE_ERROR - 1",
            "Connection is closing; send the request again on a new one",
        ),
        (E::Conflict("why".to_owned()), "409 E_INVALID_REQUEST - -", "why"),
        (
            E::CannotRegister,
            "503 E_REGISTRATION_UNAVAILABLE - -",
            "Platforms cannot be registered: neither SECRETS_KEY nor ALLOW_PLAINTEXT_SECRETS is \
             set",
        ),
        (E::NotFound, "404 E_NOT_FOUND - -", "Not found"),
        (
            E::MethodNotAllowed { allow: "POST" },
            "405 E_METHOD_NOT_ALLOWED - -",
            "Method not allowed",
        ),
        (E::Internal, "500 E_INTERNAL - -", "Internal error"),
    ]
}

/// Returns the position of an error in [`table`]. A new variant does not compile without one.
fn rank(error: &Error) -> usize {
    use Error as E;
    match error {
        E::UnsupportedPlatform { .. } => 0,
        E::PlatformDisabled => 1,
        E::ConfigMissing => 2,
        E::PayloadTooLarge { .. } => 3,
        E::UnsupportedEncoding => 4,
        E::BodyTimeout => 5,
        E::BodyBroken(_) => 6,
        E::Busy => 7,
        E::Signature(_) => 8,
        E::ClockInDoubt(_) => 9,
        E::InvalidPayload(_) => 10,
        E::SubscriptionRefused => 11,
        E::RateLimited { .. } => 12,
        E::BacklogFull => 13,
        E::QueueUnavailable(_) => 14,
        E::QueueRefused(_) => 15,
        E::ResultUnknown(_) => 16,
        E::Admin(_) => 17,
        E::InvalidRequest(_) => 18,
        E::NotFound => 19,
        E::MethodNotAllowed { .. } => 20,
        E::Internal => 21,
        E::Conflict(_) => 22,
        E::CannotRegister => 23,
        E::DeadLettersFull => 24,
        E::AfterClose => 25,
    }
}

#[test]
fn error_table_has_every_variant() {
    let ranks: std::collections::BTreeSet<usize> =
        table().iter().map(|(error, ..)| rank(error)).collect();
    let last = ranks.last().copied().unwrap_or_default();
    assert_eq!(ranks, (0..=last).collect(), "the table lacks a variant");
}

async fn answered(response: HttpResponse) -> (u16, Option<String>, Value) {
    let retry_after =
        response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(response.headers().get(header::CONTENT_TYPE).unwrap(), "application/json");
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body()).await.unwrap();
    (status, retry_after, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn error_responses_match_the_contract() {
    for (error, facts, errmesg) in table() {
        let (status, again, body) = answered(error.respond(None, Payload::None)).await;
        let errcode = body["errcode"].as_str().unwrap();
        let outcome = error.outcome().map_or("-", RequestOutcome::as_str);
        assert_eq!(
            format!("{status} {errcode} {outcome} {}", again.as_deref().unwrap_or("-")),
            facts
        );
        assert_eq!((&body["success"], &body["errmesg"]), (&false.into(), &errmesg.into()));
        assert!(body["erresid"].as_str().is_some_and(|id| id.len() == 12), "{body}");
        assert_eq!(body.as_object().unwrap().len(), 4, "{body}");
    }
}

/// Nothing behind an unread body is read, and the response announces that the connection ends.
#[tokio::test]
async fn connection_ends_after_an_unread_body() {
    fn arriving(body: impl Stream<Item = Result<Bytes, PayloadError>> + 'static) -> Payload {
        Payload::Stream { payload: Box::pin(body) }
    }
    let part = || stream::iter([Ok(Bytes::from_static(b"part"))]);
    for (unread, ends) in [
        (Payload::None, false),
        (arriving(part()), false),
        (arriving(stream::pending()), true),
        (arriving(part().chain(stream::pending())), true),
        (arriving(stream::iter([Err(PayloadError::Incomplete(None))])), true),
    ] {
        let response = Error::PlatformDisabled.respond(None, unread);
        assert_eq!(response.head().connection_type() == ConnectionType::Close, ends);
    }
}

#[tokio::test]
async fn busy_status_replaces_429_and_408_only() {
    let targets = targets();
    let busy = targets.find("busy").unwrap();
    for (error, facts, _) in table() {
        let (found, ..) = answered(error.respond(Some(&busy), Payload::None)).await;
        let status = facts.split(' ').next().unwrap();
        let expected = if matches!(status, "429" | "408") { "503" } else { status };
        assert_eq!(found.to_string(), expected, "{facts}");
    }
}

#[test]
fn log_name_is_the_label_of_the_platform() {
    let targets = targets();
    let log_name = |name| targets.find(name).unwrap().log_name().to_owned();
    assert_eq!(
        [log_name("mux"), log_name("livekit"), log_name("acme")],
        ["streaming", "livekit", "acme"]
    );
}

#[tokio::test]
async fn erresid_differs_between_refusals() {
    let (_, _, one) = answered(Error::NotFound.respond(None, Payload::None)).await;
    let (_, _, other) = answered(Error::NotFound.respond(None, Payload::None)).await;
    assert_ne!(one["erresid"], other["erresid"]);
}

#[test]
fn retry_after_is_rounded_up() {
    let seconds = |millis| retry_after(Duration::from_millis(millis));
    assert_eq!([seconds(0), seconds(1), seconds(1000), seconds(1001)], [1, 1, 1, 2]);
}

#[test]
fn enqueue_error_says_whether_the_event_may_be_queued() {
    for (lost, errcode) in [
        (EnqueueError::Full, "E_WEBHOOK_OVERLOADED"),
        (EnqueueError::Expired, "E_WEBHOOK_QUEUE_ERROR"),
        (EnqueueError::NotRun(fault()), "E_WEBHOOK_QUEUE_ERROR"),
        (EnqueueError::Unknown(None), "E_WEBHOOK_DEDUPLICATION_ERROR"),
    ] {
        assert_eq!(Error::from(lost).spec().errcode, errcode);
    }
}

#[test]
fn errcode_table_matches_the_errors() {
    use std::collections::{BTreeMap, BTreeSet};
    let mut expected = BTreeMap::<&str, BTreeSet<u16>>::new();
    let mut busy = BTreeSet::new();
    for (error, ..) in table() {
        expected.entry(error.errcode()).or_default().insert(error.spec().status);
        if matches!(error, Error::RateLimited { .. } | Error::BodyTimeout) {
            busy.insert(error.errcode());
        }
    }
    expected.insert(codes::PROCESSING_ERROR, BTreeSet::from([200]));
    for code in codes::ANSWER_CODES {
        let statuses: Vec<u16> =
            expected.remove(code.errcode).unwrap_or_default().into_iter().collect();
        assert_eq!(statuses, code.statuses, "{}", code.errcode);
        assert_eq!(busy.contains(code.errcode), code.busy_status, "{}", code.errcode);
    }
    assert_eq!(expected.keys().collect::<Vec<_>>(), Vec::<&&str>::new());
}
