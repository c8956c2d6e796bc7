//! All error codes of answers in one table, for `docs/reference/error-codes.md`.
//!
//! # Guarantees
//!
//! - The table has exactly the codes and statuses of [`Error`](super::Error), beside the code of an
//!   awaited event (`errcode_table_matches_the_errors`).

/// One `errcode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerCode {
    /// Spelling.
    pub errcode: &'static str,
    /// Statuses of its answers, in ascending order.
    pub statuses: &'static [u16],
    /// True if `busy_status` of the platform replaces the status.
    pub busy_status: bool,
    /// Meaning: a sentence.
    pub meaning: &'static str,
}

const fn code(
    errcode: &'static str,
    statuses: &'static [u16],
    meaning: &'static str,
) -> AnswerCode {
    AnswerCode { errcode, statuses, busy_status: false, meaning }
}

const fn busy(
    errcode: &'static str,
    statuses: &'static [u16],
    meaning: &'static str,
) -> AnswerCode {
    AnswerCode { errcode, statuses, busy_status: true, meaning }
}

/// Code of an awaited event that became a dead letter. Its answer is no [`Error`](super::Error).
pub(crate) const PROCESSING_ERROR: &str = "E_WEBHOOK_PROCESSING_ERROR";

/// All codes, in the order of the documentation.
pub const ANSWER_CODES: &[AnswerCode] = &[
    code(
        "E_WEBHOOK_INVALID_PAYLOAD",
        &[400],
        "The body is not JSON, has no event type, or does not match the schema. With \
         `invalid = \"keep\"` it is accepted as a dead letter instead.",
    ),
    code("E_WEBHOOK_INVALID_SIGNATURE", &[401], "The signature is missing, malformed or wrong."),
    code(
        "E_WEBHOOK_SIGNATURE_ERROR",
        &[401],
        "The signature's time is outside the tolerance, or the JWT has expired.",
    ),
    code("E_WEBHOOK_PLATFORM_DISABLED", &[403], "The platform has `enabled = false`."),
    code("E_WEBHOOK_UNSUPPORTED_PLATFORM", &[404], "The path names no defined platform."),
    busy("E_WEBHOOK_BODY_TIMEOUT", &[408], "The body did not arrive in time."),
    code(
        "E_WEBHOOK_PAYLOAD_TOO_LARGE",
        &[413],
        "The body or the batch is too large. With `invalid = \"keep\"`, a body that is too large \
         only after decoding is accepted as a dead letter instead.",
    ),
    code(
        "E_WEBHOOK_UNSUPPORTED_ENCODING",
        &[415],
        "The `Content-Encoding` is unknown. With `invalid = \"keep\"`, a verified request is \
         accepted as a dead letter instead.",
    ),
    busy("E_WEBHOOK_RATE_LIMITED", &[429], "The limit of the platform or the type is exceeded."),
    code("E_WEBHOOK_CONFIG_MISSING", &[500], "The platform is defined, but has no secret."),
    code("E_WEBHOOK_QUEUE_ERROR", &[503], "The event is certainly not queued."),
    code(
        "E_WEBHOOK_DEDUPLICATION_ERROR",
        &[503],
        "Redis's answer was lost, so the event may be queued. A retry is safe.",
    ),
    code(
        "E_WEBHOOK_OVERLOADED",
        &[503],
        "A bound is reached: memory, backlog, dead letters or open requests.",
    ),
    code(PROCESSING_ERROR, &[200], "An awaited event became a dead letter."),
    code(
        "E_ADMIN_FORBIDDEN",
        &[401, 403],
        "401: the token is missing. 403: it is wrong, or none is configured.",
    ),
    code(
        "E_REGISTRATION_UNAVAILABLE",
        &[503],
        "Neither `SECRETS_KEY` nor `ALLOW_PLAINTEXT_SECRETS` is set.",
    ),
    code(
        "E_INVALID_REQUEST",
        &[400, 409],
        "400: the request is invalid, or its body ended early. 409: the name is taken.",
    ),
    code("E_NOT_FOUND", &[404], "No such route or object."),
    code(
        "E_METHOD_NOT_ALLOWED",
        &[405],
        "The route has other methods, which the header `Allow` lists.",
    ),
    code(
        "E_INTERNAL",
        &[500],
        "A fault of this program. At a worker's lookups: Redis or the database does not answer, or \
         the worker is still starting.",
    ),
];
