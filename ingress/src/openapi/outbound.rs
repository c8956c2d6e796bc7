//! Documents the destination routes.

use serde_json::{Value, json};
use utoipa::openapi::path::{HttpMethod, OperationBuilder};
use utoipa::openapi::{ComponentsBuilder, Required};

use super::builders::{RouteDoc, admin, body, content, in_path, json, operation, schema, string};
use super::errors::{self, DocumentErrors};
use crate::error::Error;
use crate::handlers::outbound::{
    CHANGE_FORM, DestinationChange, DestinationList, DestinationStatus, DestinationTestRequest,
    DestinationTestResponse, DestinationTestResult, MAX_BODY, OverflowSummary, ParkedQueue,
    TriggerRequest, TriggerResponse, TriggeredDelivery,
};
use crate::routes::{DESTINATION, STATUS, TEST, TRIGGER};

const TAG: &str = "outbound";

const ABOUT_TEST: &str = "Sends one test event to the URL, signed with `WEBHOOK_SECRET_KEY`, and \
    returns the result. The status is 200 even if the URL is unreachable. Private addresses are \
    refused unless `WEBHOOK_ALLOW_PRIVATE` allows them (`EBLOCKED`).";
const ABOUT_TRIGGER: &str = "Enqueues an event for every destination that subscribes to its type. \
    It changes no session. The ids are those of `X-<Source>-Delivery`.";
const ABOUT_STATUS: &str = "Status of all destinations of the whole system. `parked` lists the \
    queues whose URL is not configured any more. Their deliveries are kept, and not sent to \
    another URL.";
const ABOUT_HOLD: &str = "Deliveries of a paused destination are kept, and sent once it is \
    resumed. Resuming also ends the stop that a 410 caused, and clears the overflow. `take_over` \
    names a parked queue: its deliveries are sent to this destination from now on.";

/// Adds the schemas of the routes.
pub(super) fn schemas(components: ComponentsBuilder) -> ComponentsBuilder {
    components
        .schema_from::<DestinationTestRequest>()
        .schema_from::<DestinationTestResponse>()
        .schema_from::<TriggerRequest>()
        .schema_from::<TriggerResponse>()
        .schema_from::<DestinationList>()
        .schema_from::<DestinationTestResult>()
        .schema_from::<TriggeredDelivery>()
        .schema_from::<DestinationStatus>()
        .schema_from::<OverflowSummary>()
        .schema_from::<ParkedQueue>()
        .schema_from::<DestinationChange>()
}

/// Returns the routes.
pub(super) fn routes() -> Vec<RouteDoc> {
    let test = route("testDestination", "Test a destination's URL", ABOUT_TEST)
        .request_body(Some(body(
            "URL to test",
            content(
                schema::<DestinationTestRequest>(),
                json!({"url": "https://your-app.example/webhooks"}),
            ),
            Required::True,
        )))
        .response("200", json("The test was made", schema::<DestinationTestResponse>(), tested()))
        .with_errors(&refusals([errors::invalid(
            "url: must be an http:// or https:// URL with a host",
        )]));
    let trigger = route("triggerEvent", "Send an event by hand", ABOUT_TRIGGER)
        .request_body(Some(body(
            "The event",
            content(
                schema::<TriggerRequest>(),
                json!({"event": "job.completed", "data": {"job_id": "test_job_123"}}),
            ),
            Required::True,
        )))
        .response(
            "202",
            json("The deliveries are queued", schema::<TriggerResponse>(), triggered()),
        )
        .with_errors(&refusals([
            errors::invalid("body: must be {\"event\": \"job.completed\", \"data\": {…}}"),
            Error::ResultUnknown(None),
        ]));
    let status = route("destinations", "Status of all destinations", ABOUT_STATUS)
        .response(
            "200",
            json(
                "All destinations",
                schema::<DestinationList>(),
                json!({"destinations": [shown()],
            "parked": [parked()]}),
            ),
        )
        .with_errors(&refusals([]));
    let hold = route("changeDestination", "Pause or resume a destination", ABOUT_HOLD)
        .parameter(in_path("name", "The destination's name", string().examples(["webhook_1"])))
        .request_body(Some(body(
            "Change",
            content(schema::<DestinationChange>(), json!({"paused": true})),
            Required::True,
        )))
        .response("200", json("Changed", schema::<DestinationStatus>(), shown()))
        .with_errors(&refusals([
            errors::invalid(&format!("body: must be {CHANGE_FORM}")),
            Error::NotFound,
            Error::ResultUnknown(None),
        ]));
    vec![
        RouteDoc::new(TEST, HttpMethod::Post, test),
        RouteDoc::new(TRIGGER, HttpMethod::Post, trigger),
        RouteDoc::new(STATUS, HttpMethod::Get, status),
        RouteDoc::new(DESTINATION, HttpMethod::Patch, hold),
    ]
}

fn route(id: &str, summary: &str, description: &str) -> OperationBuilder {
    operation(TAG, id, summary, description).security(admin())
}

fn refusals<const N: usize>(more: [Error; N]) -> Vec<Error> {
    let mut errors = errors::admin();
    errors.extend(errors::reading_body());
    errors.push(Error::PayloadTooLarge { limit: MAX_BODY });
    errors.extend(errors::reading_redis());
    errors.extend(more);
    errors
}

fn tested() -> Value {
    json!({"success": true, "test_result": {"success": true, "status": 200, "duration": 156,
        "url": "https://your-app.example/webhooks", "message": "Webhook endpoint is reachable"}})
}

fn triggered() -> Value {
    json!({"success": true, "event": "job.completed", "deliveries": [{"destination": "webhook_1",
        "delivery_id": "550e8400-e29b-51d4-a716-446655440000", "status": "queued"}]})
}

fn shown() -> Value {
    json!({"name": "webhook_1", "queue": "out:webhook_1", "host": "your-app.example",
        "format": "standard", "events": ["job.*"],
        "paused": false, "gone": false, "busy_until": null, "busy_since": null, "circuit": "closed",
        "depth": 0, "retrying": 0, "dead_letters": 0,
        "delivered": 1204, "failed": 0, "last_error": null, "last_error_at": null,
        "overflow": null})
}

fn parked() -> Value {
    json!({"queue": "out:webhook_2", "host": "former.example", "depth": 17, "retrying": 3,
        "dead_letters": 0})
}
