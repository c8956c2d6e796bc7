//! The one place that maps what can go wrong to HTTP: status, `errcode`, text, headers, metric outcome and log line.
//!
//! Guarantee: every refusal has one `erresid`, in its body and in its log line, which is at DEBUG where
//! one of the same kind was logged just before. No text holds a secret, a signature or
//! a value from the body. A 4xx is answered only for what must not come again: what is our fault is a 5xx, so that the
//! sender keeps the event.

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

/// How long a sender should wait before it tries again when something of ours is not available, in seconds: short
/// enough for senders that give an event up after half a minute, long enough to be no stampede.
const RETRY_AFTER_S: u64 = 5;

/// An outage refuses every request, and one line says so.
static REFUSALS: LogSummary = LogSummary::new();

/// Why a request is refused. Its text is what the sender is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The path names no defined platform.
    #[error("Unsupported webhook platform")]
    UnsupportedPlatform {
        /// What it names, cut; for the log.
        name: String,
    },
    /// `enabled = false`.
    #[error("Webhook platform disabled")]
    PlatformDisabled,
    /// Defined, but there is nothing to verify with.
    #[error("Webhook signing secret not configured")]
    ConfigMissing,
    /// Declared or real size.
    #[error("Webhook body larger than {limit} bytes")]
    PayloadTooLarge {
        /// `MAX_BODY_BYTES`.
        limit: usize,
    },
    /// A content coding that is not decoded here.
    #[error("Webhook content encoding not supported")]
    UnsupportedEncoding,
    /// The body did not arrive within `BODY_TIMEOUT_MS`.
    #[error("Webhook body did not arrive in time")]
    BodyTimeout,
    /// The body ended early, or is not framed as HTTP demands.
    #[error("Request body could not be read")]
    BodyBroken(#[source] actix_web::error::PayloadError),
    /// More bytes or requests in flight than this replica holds.
    #[error("Webhook receiver overloaded")]
    Busy,
    /// Not genuine.
    #[error("{}", .0.message())]
    Signature(signature::Refusal),
    /// Genuine but for its time, and our clock is the one to doubt.
    #[error("Webhook temporarily not accepted")]
    ClockInDoubt(ClockDoubt),
    /// Genuine, but not an event.
    #[error("Invalid webhook payload: {0}")]
    InvalidPayload(IdentifyError),
    /// A hub asked for a subscription that nobody means.
    #[error("Subscription not confirmed")]
    SubscriptionRefused,
    /// Over the platform's limit.
    #[error("Webhook rate limit exceeded")]
    RateLimited {
        /// Seconds until one more may be accepted, at least 1.
        retry_after_s: u64,
    },
    /// `MAX_BACKLOG` reached.
    #[error("Webhook backlog full")]
    BacklogFull,
    /// `DLQ_MAX_LEN` reached by a request that would become a dead letter.
    #[error("Webhook dead letters full")]
    DeadLettersFull,
    /// Redis is away, or was not asked in time: certainly not queued.
    #[error("Webhook queue not available")]
    QueueUnavailable(&'static str),
    /// Redis refused: certainly not queued.
    #[error("Webhook queue not available")]
    QueueRefused(#[source] CallError),
    /// Redis's answer was lost: it may be queued.
    #[error("Webhook queue did not answer")]
    ResultUnknown(Option<CallError>),
    /// An admin route without the right token.
    #[error("{0}")]
    Admin(AdminAuthError),
    /// A request to a route of our own that makes no sense.
    #[error("{0}")]
    InvalidRequest(String),
    /// A request behind one that was answered as the last of its connection: certainly not queued.
    #[error("Connection is closing; send the request again on a new one")]
    AfterClose,
    /// A change of what is registered that contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// Secrets can be kept in no way that is allowed.
    #[error(
        "Platforms cannot be registered: neither SECRETS_KEY nor ALLOW_PLAINTEXT_SECRETS is set"
    )]
    CannotRegister,
    /// No such route.
    #[error("Not found")]
    NotFound,
    /// The route exists, for other methods.
    #[error("Method not allowed")]
    MethodNotAllowed {
        /// Those methods.
        allow: &'static str,
    },
    /// A fault of this program.
    #[error("Internal error")]
    Internal,
}

/// What HTTP, metrics and log make of an [`Error`].
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

/// What every error is answered with.
#[derive(Serialize, ToSchema)]
#[schema(as = Error)]
pub(crate) struct ErrorResponse<'a> {
    /// False.
    success: bool,
    /// Which error it is.
    errcode: &'a str,
    /// The same in words. Never a secret, a signature or a value from the body.
    errmesg: &'a str,
    /// Which answer it is: the line in the log has it too.
    #[schema(pattern = "^[0-9a-f]{8,32}$")]
    erresid: &'a str,
}

/// An answer as a client would see it.
pub(crate) struct RenderedError {
    /// Status and headers.
    pub(crate) head: HttpResponse,
    /// Which error it is.
    pub(crate) errcode: &'static str,
    /// The body, JSON.
    pub(crate) body: Vec<u8>,
}

impl Error {
    /// The request names `name`, which is nobody.
    pub(crate) fn unsupported_platform(name: &str) -> Self {
        Self::UnsupportedPlatform { name: name.chars().take(64).collect() }
    }

    /// What the request counts as; `None` for what is no webhook.
    pub(crate) fn outcome(&self) -> Option<RequestOutcome> {
        self.spec().outcome
    }

    /// Which error it is.
    pub(crate) fn errcode(&self) -> &'static str {
        self.spec().errcode
    }

    /// Whether other bytes under the same headers might have been genuine.
    pub(crate) fn could_verify_after_decoding(&self) -> bool {
        matches!(self, Self::Signature(refusal) if refusal.depends_on_body())
    }

    fn spec(&self) -> ErrorSpec {
        use RequestOutcome as Outcome;
        match self {
            // The label `unknown` says which platform; as an outcome it is closest to one that is switched off.
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
            // A 4xx is final to some senders.
            Self::AfterClose => spec(503, "E_WEBHOOK_QUEUE_ERROR", None).with_retry_after(1),
            Self::Conflict(_) => spec(409, "E_INVALID_REQUEST", None),
            Self::CannotRegister => spec(503, "E_REGISTRATION_UNAVAILABLE", None),
            Self::NotFound => spec(404, "E_NOT_FOUND", None),
            Self::MethodNotAllowed { .. } => spec(405, "E_METHOD_NOT_ALLOWED", None),
            Self::Internal => spec(500, "E_INTERNAL", None),
        }
    }

    /// Answers and logs it. `target` is the platform that was asked for, if it is known; `unread` is what is left of
    /// the request's body, behind which nothing more is read.
    pub(crate) fn respond(
        &self,
        target: Option<&IngestTarget>,
        mut unread: Payload,
    ) -> HttpResponse {
        let facts = self.spec();
        let erresid = format!("{:012x}", rand::random::<u64>() >> 16);
        self.log(&facts, target, &erresid);
        let body = self.body(&facts, &erresid).into();
        let mut head = self.head(&facts, target);
        // actix says so, too, but nobody else would know.
        if !is_drained(&mut unread) {
            head.force_close();
        }
        head.body(RefusalBody { left: body, _unread: unread })
    }

    /// What a client would be answered, for the description of the interface; nothing is logged.
    pub(crate) fn rendered(&self) -> RenderedError {
        let facts = self.spec();
        let body = self.body(&facts, "000000000000");
        RenderedError { head: self.head(&facts, None).finish(), errcode: facts.errcode, body }
    }

    fn head(&self, facts: &ErrorSpec, target: Option<&IngestTarget>) -> HttpResponseBuilder {
        let mut response = HttpResponse::build(self.status(facts, target));
        response
            .insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        if let Some(seconds) = facts.retry_after_s {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        self.add_headers(&mut response);
        response
    }

    fn body(&self, facts: &ErrorSpec, erresid: &str) -> Vec<u8> {
        let body = ErrorResponse {
            success: false,
            errcode: facts.errcode,
            errmesg: &self.to_string(),
            erresid,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }

    fn status(&self, facts: &ErrorSpec, target: Option<&IngestTarget>) -> StatusCode {
        let busy = target.and_then(|target| target.busy_status);
        match (self, busy) {
            (Self::RateLimited { .. } | Self::BodyTimeout, Some(busy)) => busy,
            _ => StatusCode::from_u16(facts.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
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

    fn log(&self, facts: &ErrorSpec, target: Option<&IngestTarget>, erresid: &str) {
        let errcode = facts.errcode;
        let platform = target.map_or("unknown", |target| target.platform.name.as_str());
        if facts.status >= 500 && !REFUSALS.is_first(errcode, platform) {
            tracing::debug!(erresid, errcode, platform, "{self}");
            return;
        }
        match self {
            Self::Signature(refusal) => {
                let log_name = target.map_or("unknown", IngestTarget::log_name);
                tracing::warn!(erresid, errcode, platform, reason = %refusal, "Invalid {log_name} webhook signature");
            }
            Self::ClockInDoubt(doubt) => tracing::error!(
                erresid,
                errcode,
                platform,
                ?doubt,
                "a genuine request is outside its tolerance by this host's clock, which may be wrong; set the clock"
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
            _ if facts.status >= 500 => tracing::error!(erresid, errcode, platform, "{self}"),
            _ => tracing::warn!(erresid, errcode, platform, "{self}"),
        }
    }
}

/// Whether nothing is left of a body. What has come in of it is thrown away.
fn is_drained(body: &mut Payload) -> bool {
    loop {
        match body.next().now_or_never() {
            Some(None) => return true,
            Some(Some(Ok(_))) => {}
            Some(Some(Err(_))) | None => return false,
        }
    }
}

/// A refusal's text, which keeps hold of the rest of the request's body: actix reads on for ever through a chunked body
/// that was dropped, but closes the connection over one that is still held when the answer has been written, after a
/// moment in which the sender can read it.
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
    fn from(lost: EnqueueError) -> Self {
        match lost {
            EnqueueError::Full => Self::Busy,
            EnqueueError::Expired => Self::QueueUnavailable("Redis could not be asked in time"),
            EnqueueError::NotRun(fault) => Self::QueueRefused(fault),
            EnqueueError::Unknown(fault) => Self::ResultUnknown(fault),
        }
    }
}

/// `wait` in whole seconds, rounded up, at least 1.
pub(crate) fn retry_after(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
pub(crate) mod tests;
