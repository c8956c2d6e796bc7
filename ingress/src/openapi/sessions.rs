//! Documents the session routes.

use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::Required;
use utoipa::openapi::path::{HttpMethod, Parameter};

use super::builders::{
    RouteDoc, admin, body, content, in_header, in_path, json, narrowed, operation, schema, string,
};
use super::errors::{self, DocumentErrors};
use crate::handlers::QueuedResponse;
use crate::handlers::sessions::MAX_ID_BYTES;
use crate::routes::SESSION;

/// Tag of the session operations.
pub(super) const TAG: &str = "sessions";

/// Pattern of ids: no control characters, and no replacement character, which stands for invalid
/// UTF-8.
const ID: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f\\ufffd]+$";

const ANNOUNCE: &str = "The announcement is queued like every event, and is applied before the \
    events that wait for it. Absent or null members leave the session unchanged; `config` is \
    replaced whole. There is no rate limit.";

/// Announcement of a session. An empty body announces that the session exists.
#[allow(dead_code, reason = "members are read one by one; this type only documents them")]
#[derive(ToSchema)]
#[schema(as = Announcement)]
#[serde(deny_unknown_fields)]
pub(super) struct AnnouncementRequest {
    /// Live stream id of the provider, 1 to 256 bytes without control characters.
    #[schema(
        min_length = 1,
        max_length = 256,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f\\ufffd]+$",
        example = "ls-1"
    )]
    live_stream_id: Option<String>,
    /// Status of the session.
    status: Option<SessionStatusDoc>,
    /// Data of the application.
    #[schema(value_type = Option<Object>)]
    config: Option<()>,
}

/// Status of a session.
#[allow(dead_code, reason = "documents a string")]
#[derive(ToSchema)]
#[schema(as = SessionStatus, rename_all = "lowercase")]
pub(super) enum SessionStatusDoc {
    Ready,
    Live,
    Idle,
    Ended,
    Stopped,
    Error,
}

/// Returns the route of announcements.
pub(super) fn routes() -> Vec<RouteDoc> {
    let mut errors = errors::admin();
    errors.extend(errors::reading_body());
    errors.extend(errors::queueing());
    errors
        .push(errors::invalid("/status: must be one of ready, live, idle, ended, stopped, error"));
    let announced = content(
        schema::<AnnouncementRequest>(),
        json!({"live_stream_id": "ls-1", "status": "ready",
            "config": {"egress": {"live_stream_id": "ls-2"}}}),
    );
    let key = "Makes the announcement happen once for this room, however often it is sent: 1 to \
        256 characters of ASCII";
    let announce = operation(TAG, "announceSession", "Announce a session", ANNOUNCE)
        .security(admin())
        .parameter(room())
        .parameter(in_header(
            "Idempotency-Key",
            key,
            string().min_length(Some(1)).max_length(Some(256)),
        ))
        .request_body(Some(body("The announcement", announced, Required::False)))
        .response(
            "202",
            json(
                "Queued",
                narrowed::<QueuedResponse<'_>>("status", &["accepted"]),
                json!({"event_id": "0b0e6e63-…", "status": "accepted"}),
            ),
        )
        .response(
            "200",
            json(
                "Announced before with this `Idempotency-Key`",
                narrowed::<QueuedResponse<'_>>("status", &["duplicate"]),
                json!({"event_id": "5f1c…", "status": "duplicate"}),
            ),
        )
        .with_errors(&errors);
    vec![RouteDoc::new(SESSION, HttpMethod::Put, announce)]
}

/// Room in the path.
pub(super) fn room() -> Parameter {
    let id = string()
        .pattern(Some(ID))
        .min_length(Some(1))
        .max_length(Some(MAX_ID_BYTES))
        .examples(["room-1"]);
    in_path("room_id", "The room's id, 1 to 256 bytes of text without control characters", id)
}
