//! Maps every error to its HTTP response, metric outcome and log line.
//!
//! # Guarantees
//!
//! - Every refusal has one `erresid`, in the response and in the log line.
//!   (`erresid_differs_between_refusals`)
//! - No text holds a secret, a signature or a value from the body.
//!   (`outputs_hold_no_secret_signature_or_body`)
//! - A 4xx is answered only to a request that must not be repeated. A failure of our own is a 5xx,
//!   so that the provider sends the event again. (`error_responses_match_the_contract`)
//!
//! # Design
//!
//! During an outage, repeated refusals of one kind are logged at DEBUG and counted; see
//! [`LogSummary`].

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::redis_gate::ClockDoubt;
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::Serialize;
use shared::config::AdminAuthError;
use shared::metrics::RequestOutcome;
use shared::queue::{CallError, RedisTrouble};
use shared::signature;
use utoipa::ToSchema;

use crate::log_summary::LogSummary;
use crate::pipeline::EnqueueError;
use crate::pipeline::identify::IdentifyError;
use crate::targets::IngestTarget;

/// `Retry-After` while a dependency is unavailable, in seconds. Some providers give an event up
/// after half a minute; a shorter time would cause a stampede.
const RETRY_AFTER_S: u64 = 5;

/// Limits the log lines of refusals during an outage.
static REFUSALS: LogSummary = LogSummary::new();

/// Reason for which a request is refused. Its text is the `errmesg` of the response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The path names no defined platform.
    #[error("Unsupported webhook platform")]
    UnsupportedPlatform {
        /// Name in the path, shortened for the log.
        name: String,
    },
    /// The platform has `enabled = false`.
    #[error("Webhook platform disabled")]
    PlatformDisabled,
    /// The platform has no secret.
    #[error("Webhook signing secret not configured")]
    ConfigMissing,
    /// The declared or the real size exceeds the bound.
    #[error("Webhook body larger than {limit} bytes")]
    PayloadTooLarge {
        /// `MAX_BODY_BYTES`.
        limit: usize,
    },
    /// The content encoding cannot be decoded.
    #[error("Webhook content encoding not supported")]
    UnsupportedEncoding,
    /// The body did not arrive within `BODY_TIMEOUT_MS`.
    #[error("Webhook body did not arrive in time")]
    BodyTimeout,
    /// The body ended early or violates the framing of HTTP.
    #[error("Request body could not be read")]
    BodyBroken(#[source] actix_web::error::PayloadError),
    /// This replica has too many bytes or requests in flight.
    #[error("Webhook receiver overloaded")]
    Busy,
    /// The signature does not verify.
    #[error("{}", .0.message())]
    Signature(signature::VerifyError),
    /// The signature verifies except for its time, and this host's clock may be wrong.
    #[error("Webhook temporarily not accepted")]
    ClockInDoubt(ClockDoubt),
    /// The request verifies, but is not an event.
    #[error("Invalid webhook payload: {0}")]
    InvalidPayload(IdentifyError),
    /// A hub asked about a subscription that is not declared.
    #[error("Subscription not confirmed")]
    SubscriptionRefused,
    /// The platform's rate limit is exceeded.
    #[error("Webhook rate limit exceeded")]
    RateLimited {
        /// Seconds until one more event may be accepted, at least 1.
        retry_after_s: u64,
    },
    /// The stream holds `MAX_BACKLOG` entries.
    #[error("Webhook backlog full")]
    BacklogFull,
    /// The platform has `DLQ_MAX_LEN` dead letters, and the request would become one more.
    #[error("Webhook dead letters full")]
    DeadLettersFull,
    /// Redis is unavailable, or there was no time left to call it. Certainly not queued.
    #[error("Webhook queue not available")]
    QueueUnavailable(&'static str),
    /// Redis refused the call. Certainly not queued.
    #[error("Webhook queue not available")]
    QueueRefused(#[source] CallError),
    /// The reply of Redis was lost. The event may be queued.
    #[error("Webhook queue did not answer")]
    ResultUnknown(Option<CallError>),
    /// The admin token is missing or wrong.
    #[error("{0}")]
    Admin(AdminAuthError),
    /// The request to one of our own routes is invalid.
    #[error("{0}")]
    InvalidRequest(String),
    /// The request came behind the last one of its connection. Certainly not queued.
    #[error("Connection is closing; send the request again on a new one")]
    AfterClose,
    /// The change contradicts an existing definition.
    #[error("{0}")]
    Conflict(String),
    /// There is no permitted way to store secrets.
    #[error(
        "Platforms cannot be registered: neither SECRETS_KEY nor ALLOW_PLAINTEXT_SECRETS is set"
    )]
    CannotRegister,
    /// No such route.
    #[error("Not found")]
    NotFound,
    /// The route exists, but not for this method.
    #[error("Method not allowed")]
    MethodNotAllowed {
        /// Methods of the route.
        allow: &'static str,
    },
    /// A bug in this program.
    #[error("Internal error")]
    Internal,
}

/// Status, code and outcome of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ErrorSpec {
    status: u16,
    errcode: &'static str,
    outcome: Option<RequestOutcome>,
    retry_after_s: Option<u64>,
}

const fn spec(status: u16, errcode: &'static str, outcome: Option<RequestOutcome>) -> ErrorSpec {
    ErrorSpec { status, errcode, outcome, retry_after_s: None }
}

impl ErrorSpec {
    const fn with_retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }
}

/// Body of every error response.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorResponse<'a> {
    /// False.
    success: bool,
    /// Code of the error.
    errcode: &'a str,
    /// Error in words. Never holds a secret, a signature or a value from the body.
    errmesg: &'a str,
    /// Id of this response. The log line has it, too.
    #[schema(pattern = "^[0-9a-f]{8,32}$")]
    erresid: &'a str,
}

/// Response as a client gets it.
pub(crate) struct RenderedError {
    /// Status and headers.
    pub(crate) head: HttpResponse,
    /// Code of the error.
    pub(crate) errcode: &'static str,
    /// JSON body.
    pub(crate) body: Vec<u8>,
}

impl Error {
    /// Creates the error for a path that names the undefined platform `name`.
    pub(crate) fn unsupported_platform(name: &str) -> Self {
        Self::UnsupportedPlatform { name: name.chars().take(64).collect() }
    }

    /// Returns the metric outcome. `None`: the request is not a webhook.
    pub(crate) fn outcome(&self) -> Option<RequestOutcome> {
        self.spec().outcome
    }

    /// Returns the code of the error.
    pub(crate) fn errcode(&self) -> &'static str {
        self.spec().errcode
    }

    /// Returns true if the decoded body could still verify.
    pub(crate) fn could_verify_after_decoding(&self) -> bool {
        matches!(self, Self::Signature(refusal) if refusal.depends_on_body())
    }

    fn spec(&self) -> ErrorSpec {
        use RequestOutcome as Outcome;
        match self {
            // The label `unknown` already says that no platform is meant; this outcome is the
            // closest one.
            Self::UnsupportedPlatform { .. } => {
                spec(404, "E_WEBHOOK_UNSUPPORTED_PLATFORM", Some(Outcome::NotConfigured))
            }
            Self::PlatformDisabled => {
                spec(403, "E_WEBHOOK_PLATFORM_DISABLED", Some(Outcome::Disabled))
            }
            Self::ConfigMissing => {
                spec(500, "E_WEBHOOK_CONFIG_MISSING", Some(Outcome::NotConfigured))
            }
            Self::PayloadTooLarge { .. } => {
                spec(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE", Some(Outcome::TooLarge))
            }
            Self::UnsupportedEncoding => {
                spec(415, "E_WEBHOOK_UNSUPPORTED_ENCODING", Some(Outcome::UnsupportedEncoding))
            }
            Self::BodyTimeout => spec(408, "E_WEBHOOK_BODY_TIMEOUT", Some(Outcome::BodyTimeout))
                .with_retry_after(RETRY_AFTER_S),
            Self::BodyBroken(_) => spec(400, "E_INVALID_REQUEST", Some(Outcome::InvalidPayload)),
            Self::Signature(refusal) if refusal.is_expiry() => {
                spec(401, "E_WEBHOOK_SIGNATURE_ERROR", Some(Outcome::SignatureExpired))
            }
            Self::Signature(_) => {
                spec(401, "E_WEBHOOK_INVALID_SIGNATURE", Some(Outcome::InvalidSignature))
            }
            Self::InvalidPayload(IdentifyError::LargeBatch(_)) => {
                spec(413, "E_WEBHOOK_PAYLOAD_TOO_LARGE", Some(Outcome::TooLarge))
            }
            Self::InvalidPayload(_) => {
                spec(400, "E_WEBHOOK_INVALID_PAYLOAD", Some(Outcome::InvalidPayload))
            }
            Self::SubscriptionRefused => spec(404, "E_NOT_FOUND", Some(Outcome::Handshake)),
            Self::RateLimited { retry_after_s } => {
                spec(429, "E_WEBHOOK_RATE_LIMITED", Some(Outcome::RateLimited))
                    .with_retry_after(*retry_after_s)
            }
            Self::Busy | Self::BacklogFull | Self::DeadLettersFull => {
                spec(503, "E_WEBHOOK_OVERLOADED", Some(Outcome::Overloaded))
                    .with_retry_after(RETRY_AFTER_S)
            }
            Self::QueueUnavailable(_) | Self::QueueRefused(_) | Self::ClockInDoubt(_) => {
                spec(503, "E_WEBHOOK_QUEUE_ERROR", Some(Outcome::QueueError))
                    .with_retry_after(RETRY_AFTER_S)
            }
            Self::ResultUnknown(_) => {
                spec(503, "E_WEBHOOK_DEDUPLICATION_ERROR", Some(Outcome::UnknownResult))
                    .with_retry_after(RETRY_AFTER_S)
            }
            Self::Admin(AdminAuthError::Missing) => spec(401, "E_ADMIN_FORBIDDEN", None),
            Self::Admin(AdminAuthError::Forbidden) => spec(403, "E_ADMIN_FORBIDDEN", None),
            Self::InvalidRequest(_) => spec(400, "E_INVALID_REQUEST", None),
            // Some senders take a 4xx as final.
            Self::AfterClose => spec(503, "E_WEBHOOK_QUEUE_ERROR", None).with_retry_after(1),
            Self::Conflict(_) => spec(409, "E_INVALID_REQUEST", None),
            Self::CannotRegister => spec(503, "E_REGISTRATION_UNAVAILABLE", None),
            Self::NotFound => spec(404, "E_NOT_FOUND", None),
            Self::MethodNotAllowed { .. } => spec(405, "E_METHOD_NOT_ALLOWED", None),
            Self::Internal => spec(500, "E_INTERNAL", None),
        }
    }

    /// Logs the error and builds its response. `target` is the platform, if known. `unread` is the
    /// rest of the request's body; nothing behind it is read.
    pub(crate) fn respond(
        &self,
        target: Option<&IngestTarget>,
        mut unread: Payload,
    ) -> HttpResponse {
        let spec = self.spec();
        let erresid = format!("{:012x}", rand::random::<u64>() >> 16);
        self.log(&spec, target, &erresid);
        let body = self.body(&spec, &erresid).into();
        let mut head = self.head(&spec, target);
        // actix also closes the connection, but does not announce it.
        if !is_drained(&mut unread) {
            head.force_close();
        }
        head.body(RefusalBody { left: body, _unread: unread })
    }

    /// Returns the response without logging it, for the OpenAPI document.
    pub(crate) fn rendered(&self) -> RenderedError {
        let spec = self.spec();
        let body = self.body(&spec, "000000000000");
        RenderedError { head: self.head(&spec, None).finish(), errcode: spec.errcode, body }
    }

    fn head(&self, spec: &ErrorSpec, target: Option<&IngestTarget>) -> HttpResponseBuilder {
        let mut response = HttpResponse::build(self.status(spec, target));
        response
            .insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        if let Some(seconds) = spec.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        self.add_headers(&mut response);
        response
    }

    fn body(&self, spec: &ErrorSpec, erresid: &str) -> Vec<u8> {
        let body = ErrorResponse {
            success: false,
            errcode: spec.errcode,
            errmesg: &self.to_string(),
            erresid,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    fn status(&self, spec: &ErrorSpec, target: Option<&IngestTarget>) -> StatusCode {
        let busy = target.and_then(|target| target.busy_status);
        match (self, busy) {
            (Self::RateLimited { .. } | Self::BodyTimeout, Some(busy)) => busy,
            _ => StatusCode::from_u16(spec.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    fn add_headers(&self, response: &mut HttpResponseBuilder) {
        match self {
            Self::BodyTimeout | Self::BodyBroken(_) => {
                response.force_close();
            }
            Self::Admin(AdminAuthError::Missing) => {
                response
                    .insert_header((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
            }
            Self::MethodNotAllowed { allow } => {
                response.insert_header((header::ALLOW, HeaderValue::from_static(allow)));
            }
            _ => {}
        }
    }

    fn log(&self, spec: &ErrorSpec, target: Option<&IngestTarget>, erresid: &str) {
        let errcode = spec.errcode;
        let platform = target.map_or("unknown", |target| target.platform.name.as_str());
        if spec.status >= 500 && !REFUSALS.is_first(errcode, platform) {
            tracing::debug!(erresid, errcode, platform, "{self}");
            return;
        }
        match self {
            Self::Signature(refusal) => {
                let log_name = target.map_or("unknown", IngestTarget::log_name);
                tracing::warn!(
                    erresid,
                    errcode,
                    platform,
                    reason = %refusal,
                    "Invalid {log_name} webhook signature"
                );
            }
            Self::ClockInDoubt(doubt) => tracing::error!(
                erresid,
                errcode,
                platform,
                ?doubt,
                "correct signature is outside its tolerance, but this host's clock may be wrong; \
                 answering 503 until the clock is set"
            ),
            Self::UnsupportedPlatform { name } => {
                tracing::warn!(erresid, errcode, platform, asked = ?name, "{self}")
            }
            Self::BodyBroken(source) => {
                tracing::warn!(erresid, errcode, platform, reason = %source, "{self}")
            }
            Self::QueueUnavailable(reason) => {
                tracing::error!(erresid, errcode, platform, reason, "{self}")
            }
            Self::QueueRefused(fault) | Self::ResultUnknown(Some(fault)) => {
                let reason = RedisTrouble::of(fault);
                tracing::error!(erresid, errcode, platform, %reason, "{self}");
            }
            _ if spec.status >= 500 => tracing::error!(erresid, errcode, platform, "{self}"),
            _ => tracing::warn!(erresid, errcode, platform, "{self}"),
        }
    }
}

/// Returns true if the body is complete. Discards the bytes that have arrived.
fn is_drained(body: &mut Payload) -> bool {
    loop {
        match body.next().now_or_never() {
            Some(None) => return true,
            Some(Some(Ok(_))) => {}
            Some(Some(Err(_))) | None => return false,
        }
    }
}

/// Body of an error response, which keeps the rest of the request's body alive.
///
/// actix reads a dropped chunked body to its end, however long. If the body is still alive after
/// the response was written, actix closes the connection after a short time.
struct RefusalBody {
    left: Bytes,
    _unread: Payload,
}

impl MessageBody for RefusalBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left.len() as u64)
    }

    fn poll_next(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let left = std::mem::take(&mut self.get_mut().left);
        Poll::Ready((!left.is_empty()).then_some(Ok(left)))
    }
}

impl From<EnqueueError> for Error {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Full => Self::Busy,
            EnqueueError::Expired => Self::QueueUnavailable("Redis was not called in time"),
            EnqueueError::NotRun(fault) => Self::QueueRefused(fault),
            EnqueueError::Unknown(fault) => Self::ResultUnknown(fault),
        }
    }
}

/// Returns `wait` in whole seconds, rounded up, at least 1.
pub(crate) fn retry_after(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

pub(crate) mod codes;
#[cfg(test)]
pub(crate) mod tests;
