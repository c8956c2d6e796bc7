//! The routes on which providers send and hubs ask.

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

/// What the operations of each spelling of the route are called.
const SPELLINGS: [&str; WEBHOOKS.len()] = ["", "Short", "Singular", "Live"];

const RECEIVE: &str = "The body is the provider's JSON, verified byte by byte as received; its content type is not looked \
    at. A 2xx is a promise: it is sent only after Redis confirmed the write, and the event is applied exactly once. A 5xx \
    says that it was not queued, or not certainly; sending the same request again is always safe. Checked in this order: \
    platform known, enabled, configured; size and encoding; signature; JSON and schema; handshake; subscription; then \
    duplicate, backlog and rate limit. Duplicates and ignored events cost nothing of the limit. \
    A verified request that is no usable event is refused with 400, or accepted and kept as a dead letter where the \
    definition has `invalid = \"keep\"`. What the provider asks \
    before it sends events (Twitch, Zoom, Slack) is answered, too, once the request has proved genuine. A batch (Twitch's \
    drops) is taken as a whole or not at all, and answered with `event_ids`; an empty one is `ignored`.";

const CONFIRM: &str = "For platforms whose definition has `handshake = { kind = \"websub\" }`: a subscription is confirmed \
    for the topics that the definition declares, and its end for any other. With `kind = \"meta\"`: `hub.challenge` is sent \
    back if `hub.verify_token` is the definition's. Without a handshake: a `hub.challenge` of at most 32 digits is sent back \
    for `hub.mode=subscribe`, which proves nothing and changes nothing. Anything else is answered 405.";

const PROBE: &str = "Tells whether a webhook could be posted here. Nothing is queued.";

const OPTIONS: &str = "Lists the methods. A CloudEvents sender that asks with `WebHook-Request-Origin` is granted what it asks \
    for; each of its events is verified all the same.";

/// The routes.
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
            "What the body is compressed with, if it is. Bytes that verify as sent and are JSON are taken as they are. The signature may be over the bytes on the wire or over what they \
             stand for; `MAX_BODY_BYTES` bounds both.",
            string().enum_values(Some(["gzip", "zstd", "br"])),
        ))
        .parameter(in_header(
            "Prefer",
            "`wait=N`: answer with what became of the event, if that is known within N seconds, of which 30 count at most. \
             A definition can ask for the same (`wait`). A duplicate is told what is known; a batch does not wait.",
            string().examples(["wait=5"]),
        ))
        .request_body(Some(body("The provider's JSON", event(), Required::True)))
        .response("200", settled())
        .response("202", accepted("Queued"))
        .response("204", ResponseBuilder::new().description(
            "The end of a subscription was noted (Twitch); or queued, where the definition says `ack_status = 204`",
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
        .parameter(in_query("hub.mode", "What the hub asks about", mode))
        .parameter(optional("hub.topic", "WebSub: the topic's URL"))
        .parameter(optional(
            "hub.verify_token",
            "Meta: the token that the operator has typed into the dashboard",
        ))
        .parameter(optional(
            "hub.challenge",
            "What is to be sent back; demanded unless the mode is `denied`",
        ))
        .response("200", text("Confirmed: the challenge, as it came", "a-challenge"))
        .response("204", ResponseBuilder::new().description("`denied` was noted"))
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

/// An answer to `HEAD` has a head only.
fn probe(id: &str) -> OperationBuilder {
    let told = |description: &str| ResponseBuilder::new().description(description);
    operation(TAG, id, "Probe a receiver", PROBE)
        .parameter(platform())
        .response("200", told("A webhook could be posted"))
        .response(
            "4XX",
            told("As a webhook would be refused: unknown, or disabled; or the probe has a body"),
        )
        .response(
            "5XX",
            told("As a webhook would be refused: not configured, or not known for the moment"),
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
            header("The platform's limit a minute, if a rate was asked for", "6000"),
        );
    operation(TAG, id, "List the methods", OPTIONS)
        .parameter(platform())
        .parameter(in_header("WebHook-Request-Origin", "Who asks (CloudEvents)", string()))
        .parameter(in_header(
            "WebHook-Request-Rate",
            "Requests a minute that it asks for",
            string(),
        ))
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

/// 200 has several meanings, which its body tells apart.
fn settled() -> ResponseBuilder {
    let bodies = AnyOfBuilder::new()
        .item(schema::<QueuedResponse<'_>>())
        .item(schema::<TokenProof>())
        .item(schema::<ProcessedResponse<'_>>())
        .item(schema::<ProcessingErrorResponse<'_>>());
    let applied = HeaderBuilder::new()
        .schema(Some(string().pattern(Some("^wait=[0-9]+$"))))
        .description(Some(
            "The preference that was met, where the answer is what became of the event",
        ))
        .example(Some("wait=5".into()));
    let example = |summary: &str, value: Value| {
        ExampleBuilder::new().summary(summary).value(Some(value)).build()
    };
    let failed = json!({"success": false, "errcode": "E_WEBHOOK_PROCESSING_ERROR",
        "errmesg": "Webhook event could not be processed: session_not_found", "erresid": "000000000000",
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
            example("Zoom's question", json!({"plainToken": "token", "encryptedToken": "5f0c…"})),
        ),
    ];
    ResponseBuilder::new()
        .description(
            "Seen before (`duplicate`, with the first one's id), not subscribed to (`ignored`), or queued where the \
             definition says `ack_status = 200`; or, where the request waited, what became of the event: `results`, or that \
             it is a dead letter; or the answer to what the provider asked: its challenge as it came \
             (Twitch, Slack), or its token and the proof (Zoom)",
        )
        .header("Preference-Applied", applied.build())
        .content(JSON, ContentBuilder::new().schema(Some(bodies)).examples_from_iter(examples).build())
        .content(TEXT, ContentBuilder::new().schema(Some(string())).example(Some("a-challenge".into())).build())
}
