//! Platforms: registered, listed, paused and removed while the system runs.

use serde_json::{Value, json};
use shared::registration::MAX_REQUEST_BYTES;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, Parameter};
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Schema};
use utoipa::openapi::{ComponentsBuilder, RefOr, Required};
use utoipa::{PartialSchema, ToSchema};

use super::builders::{RouteDoc, admin, body, content, in_path, json, operation, schema, string};
use super::errors::{self, DocumentErrors};
use crate::error::Error;
use crate::handlers::platforms::{
    KeyValidity, PlatformChange, PlatformListResponse, PlatformSettings, PlatformView,
    RegistrationView,
};
use crate::routes::{PLATFORM, PLATFORMS, REGISTER};

const TAG: &str = "platforms";

const ABOUT_REGISTER: &str = "Known to every replica and worker within two seconds, and after restarts. The same platform \
    again updates it: what is not given is as by default, and the old secret stays valid beside the new one for \
    `old_secret_expires_in`. A platform that is being removed stays. What stands in `PLATFORMS_FILE`, or is bundled and \
    configured, cannot be registered (409). Secrets are kept sealed with `SECRETS_KEY`; without it nothing is registered \
    (503), unless `ALLOW_PLAINTEXT_SECRETS=true`.";
const ABOUT_LIST: &str =
    "Everything that is defined: bundled, in `PLATFORMS_FILE`, registered. Never a secret.";
const ABOUT_PAUSE: &str = "Webhooks of a paused platform are accepted and kept, and processed once it is resumed. Any platform \
    can be paused, wherever it is defined.";
const ABOUT_REMOVE: &str = "Only a registered one. Its webhooks are refused with 404 from now on; what is queued is still \
    processed, and then the platform is forgotten. Dead letters stay.";

/// A platform that is to be registered. Beside these members, any key of a definition in `PLATFORMS_FILE` may be given:
/// `aliases`, `enabled`, `paused`, `burst`, `limits`, `ack_status`, `busy_status`, `invalid`,
/// `dedup_ttl_hours`, `missing_session`, `signature`, `event`, `handshake`, `effects`, …
#[allow(dead_code, reason = "describes what is read member by member")]
#[derive(ToSchema)]
#[schema(as = Registration)]
pub(super) struct RegistrationRequestDoc {
    /// Its name.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    platform: String,
    /// What its webhooks are verified with; never shown again.
    #[schema(min_length = 1, max_length = 4096)]
    secret: String,
    /// The API key, where the scheme is `livekit-jwt`.
    #[schema(min_length = 1, max_length = 256)]
    key: Option<String>,
    /// How long the secret before this one stays valid: `0s`, `90s`, `15m`, `24h`, `7d`.
    #[schema(default = "24h")]
    old_secret_expires_in: Option<String>,
    /// The platform that this one is made from.
    #[schema(default = "generic")]
    preset: Option<String>,
    /// The events that are taken; others are answered `ignored`. Absent: all.
    #[schema(min_items = 1)]
    event_types: Option<Vec<String>>,
    /// Events a minute, across all replicas.
    #[schema(minimum = 1)]
    rate_limit: Option<u32>,
}

/// The schemas that the routes refer to.
pub(super) fn schemas(components: ComponentsBuilder) -> ComponentsBuilder {
    components
        .schema(RegistrationRequestDoc::name(), asked())
        .schema_from::<PlatformChange>()
        .schema_from::<PlatformListResponse>()
        .schema(PlatformView::name(), defined())
        .schema_from::<KeyValidity>()
}

/// A registration, which may have the members of a definition, too.
fn asked() -> RefOr<Schema> {
    let mut schema = RegistrationRequestDoc::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
    }
    schema
}

/// A platform with the members that are written beside its own, each of which may be absent.
fn defined() -> Schema {
    let mut all = ObjectBuilder::new().description(Some("One platform.")).build();
    for part in [PlatformView::schema(), PlatformSettings::schema(), RegistrationView::schema()] {
        let own = |part: RefOr<Schema>| match part {
            RefOr::T(Schema::Object(object)) => Some(object),
            _ => None,
        };
        let parts = match part {
            RefOr::T(Schema::AllOf(parts)) => parts.items.into_iter().filter_map(own).collect(),
            part => Vec::from_iter(own(part)),
        };
        for object in parts {
            // Only what is the platform's own is always there.
            if object.properties.contains_key("platform") {
                all.required.extend(object.required);
            }
            all.properties.extend(object.properties);
        }
    }
    all.into()
}

/// The routes.
pub(super) fn routes() -> Vec<RouteDoc> {
    let asked = json!({"platform": "acme", "secret": "a-secret-of-acme", "rate_limit": 600,
        "event": {"type": "/kind", "time": "/at", "session": "/room"},
        "effects": {"stream.up": {"effect": "session.status", "status": "live"}}});
    let register = change("registerPlatform", "Register a platform, or update it", ABOUT_REGISTER)
        .request_body(Some(body(
            "The platform",
            content(schema::<RegistrationRequestDoc>(), asked),
            Required::True,
        )))
        .response("201", json("Registered", schema::<PlatformView>(), registered("active")))
        .with_errors(&refusals([
            errors::invalid("rate_limit: must be 1 to 60000000"),
            Error::Conflict(
                "Platform cannot be registered: acme is defined in PLATFORMS_FILE".to_owned(),
            ),
            Error::CannotRegister,
            Error::ResultUnknown(None),
        ]));
    let list = change("listPlatforms", "What is defined, and from where", ABOUT_LIST)
        .response(
            "200",
            json(
                "All platforms",
                schema::<PlatformListResponse>(),
                json!({"platforms": [registered("active")]}),
            ),
        )
        .with_errors(&refusals([]));
    let pause = change("changePlatform", "Pause or resume a platform", ABOUT_PAUSE)
        .parameter(named())
        .request_body(Some(body(
            "What is to change",
            content(schema::<PlatformChange>(), json!({"paused": true})),
            Required::True,
        )))
        .response("200", json("Changed", schema::<PlatformView>(), registered("active")))
        .with_errors(&refusals([
            errors::invalid("body: must be {\"paused\": true} or {\"paused\": false}"),
            Error::NotFound,
            Error::ResultUnknown(None),
        ]));
    let remove = change("removePlatform", "Remove a registered platform", ABOUT_REMOVE)
        .parameter(named())
        .response(
            "202",
            json("It is being removed", schema::<PlatformView>(), registered("draining")),
        )
        .with_errors(&refusals([
            Error::NotFound,
            Error::Conflict("Platform mux is not registered, but bundled".to_owned()),
            Error::ResultUnknown(None),
        ]));
    vec![
        RouteDoc::new(REGISTER, HttpMethod::Post, register),
        RouteDoc::new(PLATFORMS, HttpMethod::Get, list),
        RouteDoc::new(PLATFORM, HttpMethod::Patch, pause),
        RouteDoc::new(PLATFORM, HttpMethod::Delete, remove),
    ]
}

fn change(id: &str, summary: &str, description: &str) -> OperationBuilder {
    operation(TAG, id, summary, description).security(admin())
}

/// What each of them may refuse, and `more`.
fn refusals<const N: usize>(more: [Error; N]) -> Vec<Error> {
    let mut errors = errors::admin();
    errors.extend(errors::reading_body());
    errors.push(Error::PayloadTooLarge { limit: MAX_REQUEST_BYTES });
    errors.extend(errors::reading_redis());
    errors.extend(more);
    errors
}

fn named() -> Parameter {
    in_path("platform", "The platform's name or an alias", string().examples(["acme"]))
}

fn registered(state: &str) -> Value {
    json!({"platform": "acme", "source": "registered", "state": state, "configured": state == "active",
        "enabled": true, "paused": false, "aliases": [], "event_types": null, "rate_limit": 600, "burst": 600,
        "limits": {}, "signature": "hmac", "ack_status": 202, "busy_status": null, "invalid": "refuse",
        "missing_session": "create",
        "definition": {"rate_limit": 600}, "keys": [{"expires_at": null}],
        "registered_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z"})
}
