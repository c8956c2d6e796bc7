//! Documents the webhook routes.

use serde_json::{Value, json};
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter};
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, SchemaType};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, ContentBuilder, Required, ResponseBuilder};

use super::builders::{
    JSON, RouteDoc, SIGNATURE, TEXT, body, content, in_header, in_path, in_query, json, narrowed,
    operation, schema, string, text,
};
use super::errors::{self, DocumentErrors, answer};
use super::results;
use crate::error::Error;
use crate::handlers::QueuedResponse;
use crate::handlers::fallback::WEBHOOK_METHODS;
use crate::handlers::handshake::{DASHBOARD_FORM, HUB_FORM};
use crate::handlers::wait_response::{ProcessedResponse, ProcessingErrorResponse};
use crate::pipeline::handshake::TokenProof;
use crate::routes::WEBHOOKS;

const TAG: &str = "webhooks";

/// Suffixes of the operation ids, one for each path of the webhook route.
const SPELLINGS: [&str; WEBHOOKS.len()] = ["", "Short", "Singular", "Live"];

const RECEIVE: &str = "The body is the provider's JSON, verified byte by byte as received; its \
    content type does not matter. A 2xx is sent only after Redis confirmed the write, and the \
    event is applied exactly once. A 5xx means that it was not queued, or not certainly; sending \
    the same request again is always safe. Checked in this order: platform known, enabled, \
    configured; size and encoding; signature; JSON and schema; handshake; subscription; then \
    duplicate, backlog and rate limit. Duplicates and ignored events cost no quota. A verified \
    request that is no usable event is refused with 400, or accepted and kept as a dead letter \
    where the definition has `invalid = \"keep\"`. Handshakes of providers (Twitch, Zoom, Slack) \
    are answered if the request verifies. A batch (Twitch's drops) is accepted as a whole or not \
    at all, and answered with `event_ids`; an empty one is `ignored`.";

const CONFIRM: &str = "For platforms whose definition has `handshake = { kind = \"websub\" }`: a \
    subscription is confirmed for the topics that the definition declares, and its end for any \
    other. With `kind = \"meta\"`: `hub.challenge` is sent back if `hub.verify_token` is the \
    definition's. Without a handshake: a `hub.challenge` of at most 32 digits is sent back for \
    `hub.mode=subscribe`, which proves nothing and changes nothing. Anything else is answered 405.";

const PROBE: &str = "Succeeds if a webhook could be posted here. Nothing is queued.";

const OPTIONS: &str = "Lists the methods. A CloudEvents sender with `WebHook-Request-Origin` gets \
    its permission. Each of its events is still verified.";

/// Returns the routes.
pub(super) fn routes() -> Vec<RouteDoc> {
    let spelled = WEBHOOKS.into_iter().zip(SPELLINGS);
    spelled
        .flat_map(|(path, spelling)| {
            [
                RouteDoc::new(
                    path,
                    HttpMethod::Post,
                    receive(&format!("receiveWebhook{spelling}")),
                ),
                RouteDoc::new(
                    path,
                    HttpMethod::Get,
                    confirm(&format!("confirmSubscription{spelling}")),
                ),
                RouteDoc::new(path, HttpMethod::Head, probe(&format!("probeWebhook{spelling}"))),
                RouteDoc::new(
                    path,
                    HttpMethod::Options,
                    options(&format!("listWebhookMethods{spelling}")),
                ),
            ]
        })
        .collect()
}

fn receive(id: &str) -> OperationBuilder {
    let errors = errors::webhook();
    let busy = errors::busy();
    let unavailable =
        errors.iter().filter(|error| error.rendered().head.status() == 503).chain(&busy);
    operation(TAG, id, "Receive a webhook", RECEIVE)
        .security(SecurityRequirement::new(SIGNATURE, [""; 0]))
        .parameter(platform())
        .parameter(in_header(
            "Content-Encoding",
            "Compression of the body. Bytes that verify as sent and are JSON are accepted as they \
             are. The signature may cover the compressed or the decoded bytes; `MAX_BODY_BYTES` \
             bounds both.",
            string().enum_values(Some(["gzip", "zstd", "br"])),
        ))
        .parameter(in_header(
            "Prefer",
            "`wait=N`: answer with the result of the event if it is known within N seconds, at \
             most 30. A definition can set the same (`wait`). A duplicate gets the result if it is \
             known; a batch does not wait.",
            string().examples(["wait=5"]),
        ))
        .request_body(Some(body("The provider's JSON", event(), Required::True)))
        .response("200", settled())
        .response("202", accepted("Queued"))
        .response("204", ResponseBuilder::new().description(
            "The end of a subscription was acknowledged (Twitch); or queued, if the definition has \
             `ack_status = 204`",
        ))
        .response("2XX", accepted("Queued, with the `ack_status` of the platform's definition"))
        .with_errors(&errors)
        .response("503", answer(unavailable))
        .response("5XX", answer(&busy))
}

fn confirm(id: &str) -> OperationBuilder {
    let mut errors = errors::platform();
    errors.extend(errors::reading_redis());
    errors.extend([
        Error::Busy,
        errors::invalid(HUB_FORM),
        errors::invalid(DASHBOARD_FORM),
        errors::unknown(),
        Error::SubscriptionRefused,
        Error::MethodNotAllowed { allow: WEBHOOK_METHODS },
    ]);
    let mode = string().enum_values(Some(["subscribe", "unsubscribe", "denied"]));
    operation(TAG, id, "Confirm a subscription", CONFIRM)
        .parameter(platform())
        .parameter(in_query("hub.mode", "Subject of the verification", mode))
        .parameter(optional("hub.topic", "WebSub: the topic's URL"))
        .parameter(optional(
            "hub.verify_token",
            "Meta: the token that the operator entered in the dashboard",
        ))
        .parameter(optional("hub.challenge", "Text to echo; required unless the mode is `denied`"))
        .response("200", text("Confirmed: the challenge", "a-challenge"))
        .response("204", ResponseBuilder::new().description("`denied` was acknowledged"))
        .with_errors(&errors)
}

fn platform() -> Parameter {
    in_path("platform", "The platform's name or an alias", string().examples(["netflix"]))
}

fn optional(name: &str, description: &str) -> Parameter {
    let mut parameter = in_query(name, description, string().min_length(Some(1)));
    parameter.required = Required::False;
    parameter
}

/// Responses to `HEAD` have no body.
fn probe(id: &str) -> OperationBuilder {
    let described = |description: &str| ResponseBuilder::new().description(description);
    operation(TAG, id, "Probe a receiver", PROBE)
        .parameter(platform())
        .response("200", described("A webhook could be posted"))
        .response(
            "4XX",
            described(
                "As a webhook would be refused: unknown, or disabled; or the probe has a body",
            ),
        )
        .response(
            "5XX",
            described("As a webhook would be refused: not configured, or not known at the moment"),
        )
}

fn options(id: &str) -> OperationBuilder {
    let mut errors = errors::platform();
    errors.extend(errors::reading_redis());
    errors.extend([Error::Busy, errors::invalid("A probe has no body"), errors::unknown()]);
    let header = |description: &str, example: &str| {
        let header = HeaderBuilder::new().schema(Some(string())).description(Some(description));
        header.example(Some(example.into())).build()
    };
    let allow =
        || header("Methods that the route takes for this platform", "POST, GET, HEAD, OPTIONS");
    let granted = ResponseBuilder::new()
        .description("A CloudEvents sender may send")
        .header("Allow", allow())
        .header(
            "WebHook-Allowed-Origin",
            header("The origin that asked", "eventemitter.example.com"),
        )
        .header(
            "WebHook-Allowed-Rate",
            header("Rate limit of the platform per minute, if a rate was requested", "6000"),
        );
    operation(TAG, id, "List the methods", OPTIONS)
        .parameter(platform())
        .parameter(in_header(
            "WebHook-Request-Origin",
            "Origin of the sender (CloudEvents)",
            string(),
        ))
        .parameter(in_header("WebHook-Request-Rate", "Requested rate per minute", string()))
        .response("200", granted)
        .response(
            "204",
            ResponseBuilder::new().description("Only the methods").header("Allow", allow()),
        )
        .with_errors(&errors)
}

fn event() -> Content {
    let any = ObjectBuilder::new()
        .schema_type(SchemaType::AnyValue)
        .description(Some("Any JSON document"));
    let example = json!({"event_type": "content_added", "timestamp": "2026-01-01T00:00:00Z",
        "payload": {"content_id": "film-1", "title": "A film"}});
    content(any, example)
}

fn accepted(description: &str) -> ResponseBuilder {
    let example = json!({"event_id": "evt-1", "status": "accepted"});
    json(description, narrowed::<QueuedResponse<'_>>("status", &["accepted"]), example)
}

/// Describes 200, whose meaning the body tells.
fn settled() -> ResponseBuilder {
    let bodies = AnyOfBuilder::new()
        .item(schema::<QueuedResponse<'_>>())
        .item(schema::<TokenProof>())
        .item(schema::<ProcessedResponse<'_>>())
        .item(schema::<ProcessingErrorResponse<'_>>());
    let applied = HeaderBuilder::new()
        .schema(Some(string().pattern(Some("^wait=[0-9]+$"))))
        .description(Some("The applied preference, if the answer is the result of the event"))
        .example(Some("wait=5".into()));
    let example = |summary: &str, value: Value| {
        ExampleBuilder::new().summary(summary).value(Some(value)).build()
    };
    let failed = json!({"success": false, "errcode": "E_WEBHOOK_PROCESSING_ERROR",
        "errmesg": "Webhook event could not be processed: session_not_found",
        "erresid": "000000000000",
        "event_id": "evt-1"});
    let examples = [
        ("duplicate", example("Seen before", json!({"event_id": "evt-1", "status": "duplicate"}))),
        (
            "ignored",
            example("Not subscribed to", json!({"event_id": "evt-1", "status": "ignored"})),
        ),
        (
            "processed",
            example("Waited for", json!({"success": true, "results": results::example()})),
        ),
        ("dead", example("Waited for, and a dead letter", failed)),
        (
            "proof",
            example(
                "Zoom's URL validation",
                json!({"plainToken": "token", "encryptedToken": "5f0c…"}),
            ),
        ),
    ];
    ResponseBuilder::new()
        .description(
            "Seen before (`duplicate`, with the first one's id), not subscribed to (`ignored`), or \
             queued if the definition has `ack_status = 200`. If the request waited: the result of \
             the event, or its dead letter. For a handshake: the challenge (Twitch, Slack), or the \
             token and its HMAC (Zoom)",
        )
        .header("Preference-Applied", applied.build())
        .content(
            JSON,
            ContentBuilder::new().schema(Some(bodies)).examples_from_iter(examples).build(),
        )
        .content(
            TEXT,
            ContentBuilder::new()
                .schema(Some(string()))
                .example(Some("a-challenge".into()))
                .build(),
        )
}
