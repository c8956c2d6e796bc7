//! Documents the error responses of each route.
//!
//! # Guarantees
//!
//! - Status, `errcode`, text and headers come from [`Error`] itself.
//!   (`openapi_describes_every_error`)
//!
//! # Design
//!
//! Each route lists values of [`Error`]. Their responses are rendered and described.

use std::collections::BTreeMap;

use actix_web::error::PayloadError;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::Value;
use shared::config::AdminAuthError;
use shared::json::JsonError;
use shared::queue::CallError;
use shared::signature::VerifyError;
use utoipa::openapi::example::{Example, ExampleBuilder};
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::OperationBuilder;
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Header, Response, ResponseBuilder};

use super::builders::{JSON, one_of, schema, string};
use crate::config::DEFAULT_MAX_BODY;
use crate::error::{Error, ErrorResponse, RenderedError};
use crate::pipeline::identify::IdentifyError;
use crate::redis_gate::ClockDoubt;

/// Operation with error responses.
pub(super) trait DocumentErrors {
    /// Adds the responses to `errors`, by status.
    fn with_errors(self, errors: &[Error]) -> Self;
}

impl DocumentErrors for OperationBuilder {
    fn with_errors(self, errors: &[Error]) -> Self {
        let mut by_status = BTreeMap::<u16, Vec<&Error>>::new();
        for error in errors {
            by_status.entry(error.rendered().head.status().as_u16()).or_default().push(error);
        }
        let answers =
            by_status.into_iter().map(|(status, errors)| (status.to_string(), answer(errors)));
        answers.fold(self, |operation, (status, answer)| operation.response(status, answer))
    }
}

/// Describes the response to any of `errors`.
pub(super) fn answer<'e>(errors: impl IntoIterator<Item = &'e Error>) -> Response {
    let mut codes = Vec::new();
    let mut reasons = Vec::<String>::new();
    let mut examples = Vec::<(String, Example)>::new();
    let mut answer = ResponseBuilder::new();
    for error in errors {
        let RenderedError { head, errcode, body } = error.rendered();
        let text = error.to_string();
        for (name, value) in head.headers().iter().filter(|(name, _)| *name != CONTENT_TYPE) {
            let (name, header) = header(name, value.to_str().unwrap_or_default());
            answer = answer.header(name, header);
        }
        let reason = format!("`{errcode}`: {text}");
        if reasons.contains(&reason) {
            continue;
        }
        reasons.push(reason);
        let known = codes.iter().filter(|code| **code == errcode).count();
        let name = if known == 0 { errcode.to_owned() } else { format!("{errcode}.{}", known + 1) };
        codes.push(errcode);
        let value = serde_json::from_slice::<Value>(&body).unwrap_or_default();
        examples.push((name, ExampleBuilder::new().summary(text).value(Some(value)).build()));
    }
    codes.sort_unstable();
    codes.dedup();
    let schema = AllOfBuilder::new().item(schema::<ErrorResponse<'_>>()).item(
        ObjectBuilder::new()
            .property("success", one_of(&[false]))
            .property("errcode", one_of(&codes)),
    );
    let content = ContentBuilder::new().schema(Some(schema)).examples_from_iter(examples);
    answer.description(reasons.join("  \n")).content(JSON, content).build()
}

/// Returns the usual spelling and the description of the header `name`.
fn header(name: &HeaderName, value: &str) -> (String, Header) {
    let integer = || ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(1));
    let (spelled, description, schema) = match name {
        name if *name == RETRY_AFTER => {
            ("Retry-After", "Seconds after which trying again makes sense", integer())
        }
        name if *name == ALLOW => ("Allow", "Methods that the route takes", string()),
        name if *name == WWW_AUTHENTICATE => {
            ("WWW-Authenticate", "How to present the token", string())
        }
        name => (name.as_str(), "", string()),
    };
    let example = value.parse::<u64>().map_or_else(|_| Value::from(value), Value::from);
    let description = (!description.is_empty()).then_some(description);
    let header = HeaderBuilder::new()
        .schema(Some(schema))
        .description(description)
        .example(Some(example))
        .build();
    (spelled.to_owned(), header)
}

/// Errors of a missing or wrong admin token.
pub(super) fn admin() -> Vec<Error> {
    vec![Error::Admin(AdminAuthError::Missing), Error::Admin(AdminAuthError::Forbidden)]
}

/// Error of an invalid request, with this reason.
pub(super) fn invalid(reason: &str) -> Error {
    Error::InvalidRequest(reason.to_owned())
}

/// Errors of a body that cannot be read.
pub(super) fn reading_body() -> Vec<Error> {
    vec![
        Error::PayloadTooLarge { limit: DEFAULT_MAX_BODY },
        Error::UnsupportedEncoding,
        Error::BodyTimeout,
        Error::BodyBroken(PayloadError::Incomplete(None)),
        Error::Busy,
    ]
}

/// Errors of a Redis that cannot be read.
pub(super) fn reading_redis() -> Vec<Error> {
    let refused = CallError::NotRun((redis::ErrorKind::Io, "refused").into());
    vec![
        Error::QueueUnavailable("Redis does not answer"),
        Error::QueueRefused(refused),
        Error::Internal,
    ]
}

/// Errors of an event that cannot be queued.
pub(super) fn queueing() -> Vec<Error> {
    let mut errors = reading_redis();
    errors.extend([Error::ResultUnknown(None), Error::BacklogFull]);
    errors
}

/// Error of an undefined platform.
pub(super) fn unknown() -> Error {
    Error::unsupported_platform("acme")
}

/// Errors of a platform that receives nothing.
pub(super) fn platform() -> Vec<Error> {
    vec![Error::PlatformDisabled, Error::ConfigMissing]
}

/// Errors of a refused webhook.
pub(super) fn webhook() -> Vec<Error> {
    let mut errors = vec![unknown()];
    errors.extend(platform());
    errors.extend(reading_body());
    errors.extend([VerifyError::Missing, VerifyError::BodyHashMismatch].map(Error::Signature));
    let (received, current) = (1_767_225_600, 1_767_226_200);
    let late = VerifyError::OutsideTolerance {
        received,
        current,
        diff: current - received,
        signature_valid: true,
    };
    errors.push(Error::Signature(late));
    errors.push(Error::ClockInDoubt(ClockDoubt::NeverCompared));
    errors.push(Error::InvalidPayload(IdentifyError::Json(JsonError::NotUtf8)));
    errors.push(Error::InvalidPayload(IdentifyError::LargeBatch("/events".to_owned())));
    errors.extend(queueing());
    errors.push(Error::DeadLettersFull);
    errors.extend(busy());
    errors
}

/// Errors whose status `busy_status` replaces.
pub(super) fn busy() -> [Error; 2] {
    [Error::RateLimited { retry_after_s: 7 }, Error::BodyTimeout]
}
