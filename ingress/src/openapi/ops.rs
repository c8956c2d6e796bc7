//! What every process answers at its operational address, and what a worker answers there beside it.

use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::ResponseBuilder;
use utoipa::openapi::path::{HttpMethod, OperationBuilder};
use utoipa::openapi::server::{Server, ServerBuilder, ServerVariableBuilder};

use super::builders::{RouteDoc, admin, in_path, json, operation, schema, string, text};
use super::errors::{self, DocumentErrors};
use super::results;
use super::sessions::{self, room};
use crate::error::Error;
use crate::routes::SESSION;

const TAG: &str = "operations";

/// Where a worker tells what became of an event.
const EVENT: &str = "/api/v1/webhooks/{platform}/events/{event_id}";

/// A session's row. Times are RFC 3339 in UTC with milliseconds; what is not known is null.
#[allow(dead_code, reason = "describes what a database writes")]
#[derive(ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionDoc {
    /// The room.
    #[schema(required)]
    room_id: String,
    /// Whose session it is; `sessions` where an application announced it.
    platform: String,
    /// What it is now.
    status: sessions::SessionStatusDoc,
    /// The live stream's id at the provider.
    #[schema(required)]
    live_stream_id: Option<String>,
    /// What the application keeps with it.
    #[schema(required, value_type = Option<Object>)]
    config: Option<()>,
    /// Title of the broadcast.
    #[schema(required)]
    title: Option<String>,
    /// Who streams.
    #[schema(required)]
    streamer_id: Option<String>,
    /// In which application of the provider.
    #[schema(required)]
    app_id: Option<String>,
    /// Viewers now.
    #[schema(required)]
    viewer_count: Option<i64>,
    /// Most viewers of the current broadcast.
    #[schema(required)]
    peak_viewers: Option<i64>,
    /// Length of the broadcast in seconds.
    #[schema(required)]
    duration_seconds: Option<f64>,
    /// The provider's error code.
    #[schema(required)]
    error_code: Option<String>,
    /// The provider's error in words.
    #[schema(required)]
    error_message: Option<String>,
    /// When the broadcast began.
    #[schema(required, format = DateTime)]
    started_at: Option<String>,
    /// When it ended.
    #[schema(required, format = DateTime)]
    ended_at: Option<String>,
    /// What has no column.
    #[schema(required, value_type = Option<Object>)]
    data: Option<()>,
    /// The newest event that changed it.
    #[schema(required)]
    last_event_id: Option<String>,
    /// The provider's time of that event.
    #[schema(required, format = DateTime)]
    last_event_at: Option<String>,
    /// When the row was made.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it was changed last.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// The routes.
pub(super) fn routes() -> Vec<RouteDoc> {
    let live = operation(
        TAG,
        "live",
        "Whether the process runs",
        "Depends on nothing outside the process.",
    )
    .servers(Some([ingress(), worker()]))
    .response("200", text("It runs", "live\n"));
    let ready = operation(
        TAG,
        "ready",
        "Whether the process can do its work",
        "Not while Redis is away, or a worker's database, and no more once the process was told to stop.",
    )
    .servers(Some([ingress(), worker()]))
    .response("200", text("It can", "ready\n"))
    .response("503", text("It cannot, and why", "not ready: Redis does not answer\n"));
    let metrics = operation(
        TAG,
        "metrics",
        "Metrics for Prometheus",
        "In the Prometheus text format, version 0.0.4.",
    )
    .servers(Some([ingress(), worker()]))
    .response("200", text("All metrics of this process", "webhook_redis_up 1\n"));
    let mut errors = errors::admin();
    errors.extend([Error::NotFound, Error::Internal]);
    let session = operation(
        sessions::TAG,
        "getSession",
        "A session's row",
        "Read from the session database.",
    )
    .servers(Some([worker()]))
    .security(admin())
    .parameter(room())
    .response("200", json("The row", schema::<SessionDoc>(), example()))
    .with_errors(&errors);
    let event = operation(
        "webhooks",
        "getEvent",
        "What became of an event",
        "The ledger says what is processed; of the rest, Redis knows where it is. One that nobody knows is 404.",
    )
    .servers(Some([worker()]))
    .security(admin())
    .parameter(in_path("platform", "The platform's name or an alias", string().examples(["mux"])))
    .parameter(in_path("event_id", "The event's id, as ingress told it", string().examples(["evt-1"])))
    .response(
        "200",
        json(
            "Where it is, and what it did",
            schema::<results::EventStateDoc>(),
            json!({"state": "processed", "results": results::example()}),
        ),
    )
    .with_errors(&errors);
    vec![
        RouteDoc::new(EVENT, HttpMethod::Get, event),
        RouteDoc::new("/live", HttpMethod::Get, live),
        RouteDoc::new("/live", HttpMethod::Head, probe("probeLive", false)),
        RouteDoc::new("/ready", HttpMethod::Get, ready),
        RouteDoc::new("/ready", HttpMethod::Head, probe("probeReady", true)),
        RouteDoc::new("/metrics", HttpMethod::Get, metrics),
        RouteDoc::new("/metrics", HttpMethod::Head, probe("probeMetrics", false)),
        RouteDoc::new(SESSION, HttpMethod::Get, session),
    ]
}

/// The same without a body, as load balancers ask.
fn probe(id: &str, may_fail: bool) -> OperationBuilder {
    let answer = |description: &str| ResponseBuilder::new().description(description);
    let probe = operation(TAG, id, "The same as GET, without a body", "")
        .description(None::<String>)
        .servers(Some([ingress(), worker()]))
        .response("200", answer("As GET"));
    if may_fail { probe.response("503", answer("As GET")) } else { probe }
}

/// Where ingress answers such requests.
fn ingress() -> Server {
    server("ingress: its `OPS_BIND`", "9100")
}

/// Where workers do.
fn worker() -> Server {
    server("worker: its `OPS_BIND`", "9101")
}

fn server(description: &str, port: &str) -> Server {
    let variable = |value: &str| ServerVariableBuilder::new().default_value(value);
    ServerBuilder::new()
        .url("http://{host}:{port}")
        .description(Some(description))
        .parameter("host", variable("localhost"))
        .parameter("port", variable(port))
        .build()
}

fn example() -> Value {
    json!({"room_id": "room-1", "platform": "mux", "status": "live", "live_stream_id": "ls-1", "config": {},
        "title": null, "streamer_id": null, "app_id": null, "viewer_count": 12, "peak_viewers": 40,
        "duration_seconds": null, "error_code": null, "error_message": null,
        "started_at": "2026-01-01T00:00:00.000Z", "ended_at": null, "data": null, "last_event_id": "evt-1",
        "last_event_at": "2026-01-01T00:00:00.000Z", "created_at": "2026-01-01T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.000Z"})
}
