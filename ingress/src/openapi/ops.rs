//! Documents the routes at `OPS_BIND` of every process, and those of a worker.

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

/// Path of an event's state, at a worker's `OPS_BIND`.
const EVENT: &str = "/api/v1/webhooks/{platform}/events/{event_id}";

/// Row of a session. Times are RFC 3339 in UTC with milliseconds; unknown values are null.
#[allow(dead_code, reason = "documents JSON that a worker writes")]
#[derive(ToSchema)]
#[schema(as = Session)]
pub(super) struct SessionDoc {
    /// Room of the session.
    #[schema(required)]
    room_id: String,
    /// Platform of the session; `sessions` if an application announced it.
    platform: String,
    /// Current status.
    status: sessions::SessionStatusDoc,
    /// Live stream id of the provider.
    #[schema(required)]
    live_stream_id: Option<String>,
    /// Data of the application.
    #[schema(required, value_type = Option<Object>)]
    config: Option<()>,
    /// Title of the broadcast.
    #[schema(required)]
    title: Option<String>,
    /// Id of the streamer.
    #[schema(required)]
    streamer_id: Option<String>,
    /// Application of the provider.
    #[schema(required)]
    app_id: Option<String>,
    /// Current number of viewers.
    #[schema(required)]
    viewer_count: Option<i64>,
    /// Most viewers of the current broadcast.
    #[schema(required)]
    peak_viewers: Option<i64>,
    /// Length of the broadcast in seconds.
    #[schema(required)]
    duration_seconds: Option<f64>,
    /// Error code of the provider.
    #[schema(required)]
    error_code: Option<String>,
    /// Error text of the provider.
    #[schema(required)]
    error_message: Option<String>,
    /// Start of the broadcast.
    #[schema(required, format = DateTime)]
    started_at: Option<String>,
    /// End of the broadcast.
    #[schema(required, format = DateTime)]
    ended_at: Option<String>,
    /// Values without a column.
    #[schema(required, value_type = Option<Object>)]
    data: Option<()>,
    /// Newest event that changed the session.
    #[schema(required)]
    last_event_id: Option<String>,
    /// Time of that event at the provider.
    #[schema(required, format = DateTime)]
    last_event_at: Option<String>,
    /// Time of the row's creation.
    #[schema(format = DateTime)]
    created_at: String,
    /// Time of the last change.
    #[schema(format = DateTime)]
    updated_at: String,
}

/// Returns the routes.
pub(super) fn routes() -> Vec<RouteDoc> {
    let live = operation(
        TAG,
        "live",
        "Liveness of the process",
        "Depends on nothing outside the process.",
    )
    .servers(Some([ingress(), worker()]))
    .response("200", text("Live", "live\n"));
    let ready = operation(
        TAG,
        "ready",
        "Readiness of the process",
        "Not ready while Redis or a worker's database is unavailable, and during shutdown.",
    )
    .servers(Some([ingress(), worker()]))
    .response("200", text("Ready", "ready\n"))
    .response("503", text("Not ready, with the reason", "not ready: Redis does not answer\n"));
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
        "State of an event",
        "The ledger has processed events, and Redis has all others. An unknown event gets 404.",
    )
    .servers(Some([worker()]))
    .security(admin())
    .parameter(in_path("platform", "The platform's name or an alias", string().examples(["mux"])))
    .parameter(in_path(
        "event_id",
        "The event's id, as ingress returned it",
        string().examples(["evt-1"]),
    ))
    .response(
        "200",
        json(
            "State and result of the event",
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

/// Documents the same request without a body, as load balancers send it.
fn probe(id: &str, may_fail: bool) -> OperationBuilder {
    let answer = |description: &str| ResponseBuilder::new().description(description);
    let probe = operation(TAG, id, "The same as GET, without a body", "")
        .description(None::<String>)
        .servers(Some([ingress(), worker()]))
        .response("200", answer("As GET"));
    if may_fail { probe.response("503", answer("As GET")) } else { probe }
}

/// Ops server of ingress.
fn ingress() -> Server {
    server("ingress: its `OPS_BIND`", "9100")
}

/// Ops server of a worker.
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
    json!({"room_id": "room-1", "platform": "mux", "status": "live", "live_stream_id": "ls-1",
        "config": {},
        "title": null, "streamer_id": null, "app_id": null, "viewer_count": 12, "peak_viewers": 40,
        "duration_seconds": null, "error_code": null, "error_message": null,
        "started_at": "2026-01-01T00:00:00.000Z", "ended_at": null, "data": null,
        "last_event_id": "evt-1",
        "last_event_at": "2026-01-01T00:00:00.000Z", "created_at": "2026-01-01T00:00:00.000Z",
        "updated_at": "2026-01-01T00:00:00.000Z"})
}
