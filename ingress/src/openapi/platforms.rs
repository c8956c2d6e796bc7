//! Documents the platform routes.

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

const ABOUT_REGISTER: &str = "Known to every replica and worker within two seconds, and after \
    restarts. Registering the same platform again updates it: members that are not given get their \
    defaults, and the old secret stays valid beside the new one for `old_secret_expires_in`. It \
    also cancels a removal. A platform in `PLATFORMS_FILE`, or a bundled one that is configured, \
    cannot be registered (409). Secrets are encrypted with `SECRETS_KEY`; without it nothing is \
    registered (503), unless `ALLOW_PLAINTEXT_SECRETS=true`.";
const ABOUT_LIST: &str =
    "All platforms: bundled, in `PLATFORMS_FILE` and registered. Never a secret.";
const ABOUT_PAUSE: &str = "Webhooks of a paused platform are accepted and kept, and processed once \
    it is resumed. Any platform can be paused, wherever it is defined.";
const ABOUT_REMOVE: &str = "Only for registered platforms. Webhooks get 404 from now on. Queued \
    events are still processed, and then the platform is deleted. Dead letters stay.";

/// Registration of a platform. Besides these members, any key of a definition in `PLATFORMS_FILE`
/// is allowed: `aliases`, `enabled`, `paused`, `burst`, `limits`, `ack_status`, `busy_status`,
/// `invalid`, `dedup_ttl_hours`, `missing_session`, `signature`, `event`, `handshake`, `effects`, …
#[allow(dead_code, reason = "members are read one by one; this type only documents them")]
#[derive(ToSchema)]
#[schema(as = Registration)]
pub(super) struct RegistrationRequestDoc {
    /// Name of the platform.
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,63}$")]
    platform: String,
    /// Secret that verifies its webhooks; never shown again.
    #[schema(min_length = 1, max_length = 4096)]
    secret: String,
    /// API key, for the scheme `livekit-jwt`.
    #[schema(min_length = 1, max_length = 256)]
    key: Option<String>,
    /// Time for which the previous secret stays valid: `0s`, `90s`, `15m`, `24h`, `7d`.
    #[schema(default = "24h")]
    old_secret_expires_in: Option<String>,
    /// Platform whose definition this one starts from.
    #[schema(default = "generic")]
    preset: Option<String>,
    /// Event types that are accepted; others are answered `ignored`. Absent: all.
    #[schema(min_items = 1)]
    event_types: Option<Vec<String>>,
    /// Events per minute, for all replicas together.
    #[schema(minimum = 1)]
    rate_limit: Option<u32>,
}

/// Adds the schemas of the routes.
pub(super) fn schemas(components: ComponentsBuilder) -> ComponentsBuilder {
    components
        .schema(RegistrationRequestDoc::name(), asked())
        .schema_from::<PlatformChange>()
        .schema_from::<PlatformListResponse>()
        .schema(PlatformView::name(), defined())
        .schema_from::<KeyValidity>()
}

/// Returns the schema of a registration, which allows the members of a definition.
fn asked() -> RefOr<Schema> {
    let mut schema = RegistrationRequestDoc::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(true)));
    }
    schema
}

/// Returns the schema of a platform with its flattened members, each of which may be absent.
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
            // Only the platform's own members are always present.
            if object.properties.contains_key("platform") {
                all.required.extend(object.required);
            }
            all.properties.extend(object.properties);
        }
    }
    all.into()
}

/// Returns the routes.
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
    let list = change("listPlatforms", "List all platforms", ABOUT_LIST)
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
            "Change",
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
            json("The removal has started", schema::<PlatformView>(), registered("draining")),
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

/// Returns the common errors of these routes, and `more`.
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
    json!({"platform": "acme", "source": "registered", "state": state,
        "configured": state == "active",
        "enabled": true, "paused": false, "aliases": [], "event_types": null, "rate_limit": 600,
        "burst": 600,
        "limits": {}, "signature": "hmac", "ack_status": 202, "busy_status": null,
        "invalid": "refuse",
        "missing_session": "create",
        "definition": {"rate_limit": 600}, "keys": [{"expires_at": null}],
        "registered_at": "2026-01-01T00:00:00.000Z", "updated_at": "2026-01-01T00:00:00.000Z"})
}
