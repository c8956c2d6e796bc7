//! Serves `GET /api/openapi.json`: the OpenAPI 3.1 document of the HTTP interface.
//!
//! # Guarantees
//!
//! - Paths come from the URL table. (`openapi_routes_are_those_of_the_router`)
//! - Bodies come from the types that handlers serialize, and errors from [`crate::error::Error`].
//!   (`openapi_document_is_valid_and_matches_the_answers`)

mod builders;
mod errors;
mod ops;
mod outbound;
mod platforms;
pub(crate) mod results;
mod sessions;
mod statistics;
mod webhooks;

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::header::{CONTENT_TYPE, HeaderValue};
use bytes::Bytes;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::{Tag, TagBuilder};
use utoipa::openapi::{
    Components, ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem,
    Paths,
};

use crate::error::{Error, ErrorResponse};
use crate::handlers::QueuedResponse;
use crate::handlers::stats::{Metrics, Stats};
use crate::handlers::wait_response::{ProcessedResponse, ProcessingErrorResponse};
use crate::pipeline::handshake::TokenProof;
use builders::RouteDoc;

const ABOUT: &str = "\
Webhooks from streaming and media platforms, received once, kept safely, applied exactly once.

Every error is answered as `{\"success\": false, \"errcode\", \"errmesg\", \"erresid\"}`. The \
log line also has the `erresid`. A route that does not exist answers 404 `E_NOT_FOUND`; one that \
exists for other methods, 405 `E_METHOD_NOT_ALLOWED` with `Allow`. A request that is not HTTP, or \
whose head is too large, gets a 400 or 431 without a body. A head that does not arrive in time is \
not answered. Ports in `servers` are the defaults.";

/// Answers with the document.
pub(crate) async fn serve() -> HttpResponse {
    static JSON: LazyLock<Bytes> =
        LazyLock::new(|| serde_json::to_vec(&document()).unwrap_or_default().into());
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("application/json")))
        .body(JSON.clone())
}

/// Builds the whole document.
fn document() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Tributary")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .license(Some(
            LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
        ));
    let ingress =
        ServerBuilder::new().url("/").description(Some("ingress: serves this document")).build();
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([ingress]))
        .paths(paths())
        .components(Some(components()))
        .tags(Some(tags()))
        .build()
}

fn described() -> impl Iterator<Item = RouteDoc> {
    [
        webhooks::routes,
        platforms::routes,
        sessions::routes,
        outbound::routes,
        statistics::routes,
        ops::routes,
    ]
    .into_iter()
    .flat_map(|of| of())
}

fn paths() -> Paths {
    let mut paths = Paths::new();
    for (path, item) in described().map(RouteDoc::item) {
        let known: &mut PathItem = paths.paths.entry(path.to_owned()).or_default();
        known.merge_operations(item);
    }
    paths
}

fn components() -> Components {
    let token = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("`ADMIN_TOKEN`; if none is configured, every such route answers 403"))
        .build();
    let signature = ApiKeyValue::with_description(
        "X-Webhook-Signature",
        "Signature of the body by the sender, with a shared secret. Each platform has its own \
         header and scheme. This is the one of `generic`, `netflix` and platforms made from \
         them: `sha256=` and the HMAC-SHA256 of the body in hex. Mux has `Mux-Signature`, LiveKit \
         `Authorization`, Twitch `Twitch-Eventsub-Message-Signature`, …",
    );
    outbound::schemas(platforms::schemas(ComponentsBuilder::new()))
        .schema_from::<ErrorResponse<'_>>()
        .schema_from::<QueuedResponse<'_>>()
        .schema_from::<TokenProof>()
        .schema_from::<ProcessedResponse<'_>>()
        .schema_from::<ProcessingErrorResponse<'_>>()
        .schema_from::<results::EventResultsDoc>()
        .schema_from::<results::ProcessingResultDoc>()
        .schema_from::<results::ActionDoc>()
        .schema_from::<results::ColumnWarningDoc>()
        .schema_from::<results::ColumnWarningReasonDoc>()
        .schema_from::<results::EventStateDoc>()
        .schema_from::<results::StateDoc>()
        .schema_from::<Metrics>()
        .schema_from::<Stats>()
        .schema_from::<sessions::AnnouncementRequest>()
        .schema_from::<sessions::SessionStatusDoc>()
        .schema_from::<ops::SessionDoc>()
        .response("NoSuchRoute", errors::answer(&[Error::NotFound]))
        .response("NoSuchMethod", errors::answer(&[Error::MethodNotAllowed { allow: "GET" }]))
        .security_scheme(builders::ADMIN, SecurityScheme::Http(token))
        .security_scheme(builders::SIGNATURE, SecurityScheme::ApiKey(ApiKey::Header(signature)))
        .build()
}

fn tags() -> [Tag; 6] {
    let tag = |name: &str, description: &str| {
        TagBuilder::new().name(name).description(Some(description)).build()
    };
    [
        tag("webhooks", "Webhooks of providers"),
        tag("platforms", "Definitions, changed at run time"),
        tag("sessions", "Sessions that applications announce and read"),
        tag("outbound", "Destinations of processed events"),
        tag("statistics", "Numbers of the whole system"),
        tag("operations", "Health and metrics of one process"),
    ]
}

#[cfg(test)]
mod tests;
