//! Defines the URL table.

mod fast_path;
mod path_form;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};

use crate::handlers::{fallback, handshake, outbound, platforms, probe, sessions, stats, webhook};
use crate::openapi;

pub(crate) use fast_path::direct_platform_name;
pub(crate) use path_form::{PathForm, classify_path, replace_path};

/// Paths of the webhook endpoint. The last segment is the platform's name or an alias.
pub(crate) const WEBHOOKS: [&str; 4] = [
    "/api/v1/webhooks/{platform}",
    "/webhooks/{platform}",
    "/webhook/{platform}",
    "/api/v1/live/webhooks/{platform}",
];

/// Paths of the webhook metrics endpoint.
pub(crate) const METRICS: [&str; 2] = ["/api/v1/webhooks/metrics", "/webhooks/stats"];

/// Path of the queue statistics endpoint.
pub(crate) const STATS: &str = "/api/v1/webhooks/stats";

/// Path of the registration endpoint.
pub(crate) const REGISTER: &str = "/api/v1/webhooks/register";

/// Path of the list of platforms.
pub(crate) const PLATFORMS: &str = "/api/v1/webhooks/platforms";

/// Path of one platform, to change or remove it.
pub(crate) const PLATFORM: &str = "/api/v1/webhooks/platforms/{platform}";

/// Path of session announcements. At a worker's `OPS_BIND`, path of a session's row.
pub(crate) const SESSION: &str = "/api/v1/sessions/{room_id}";

/// Path of the test of a destination's URL.
pub(crate) const TEST: &str = "/api/webhooks/test";

/// Path of the manual trigger.
pub(crate) const TRIGGER: &str = "/api/webhooks/trigger";

/// Path of the status of all destinations.
pub(crate) const STATUS: &str = "/api/webhooks/status";

/// Path of one destination, to pause or resume it.
pub(crate) const DESTINATION: &str = "/api/webhooks/destinations/{name}";

/// Path of the OpenAPI document.
pub(crate) const OPENAPI: &str = "/api/openapi.json";

/// Returns the platform's name in the path of a request on a webhook route.
pub(crate) fn platform_name(request: &HttpRequest) -> &str {
    request.match_info().get("platform").unwrap_or_default()
}

/// Registers all routes. Webhooks mostly take the direct path in [`crate::dispatch`].
pub(crate) fn configure(service: &mut ServiceConfig) {
    // These come before the webhook routes, whose last segment would match them. They are reserved
    // as names of platforms.
    for path in METRICS {
        service.service(
            web::resource(path)
                .route(web::get().to(stats::metrics))
                .default_service(web::to(fallback::only_get)),
        );
    }
    service.service(
        web::resource(STATS)
            .route(web::get().to(stats::stats))
            .default_service(web::to(fallback::only_get)),
    );
    service.service(
        web::resource(REGISTER)
            .route(web::post().to(platforms::register))
            .default_service(web::to(fallback::only_post)),
    );
    service.service(
        web::resource(PLATFORMS)
            .route(web::get().to(platforms::list))
            .default_service(web::to(fallback::only_get)),
    );
    service.service(
        web::resource(PLATFORM)
            .route(web::patch().to(platforms::change))
            .route(web::delete().to(platforms::remove))
            .default_service(web::to(fallback::only_delete_and_patch)),
    );
    for (path, route) in
        [(TEST, web::post().to(outbound::test)), (TRIGGER, web::post().to(outbound::trigger))]
    {
        service.service(
            web::resource(path).route(route).default_service(web::to(fallback::only_post)),
        );
    }
    service.service(
        web::resource(STATUS)
            .route(web::get().to(outbound::status))
            .default_service(web::to(fallback::only_get)),
    );
    service.service(
        web::resource(DESTINATION)
            .route(web::patch().to(outbound::change))
            .default_service(web::to(fallback::only_patch)),
    );
    for path in WEBHOOKS {
        service.service(
            web::resource(path)
                .route(web::post().to(webhook::receive))
                .route(web::get().to(handshake::confirm))
                .route(web::head().to(probe::head))
                .route(web::method(Method::OPTIONS).to(probe::options))
                .default_service(web::to(fallback::no_webhook)),
        );
    }
    service.service(
        web::resource(SESSION)
            .route(web::put().to(sessions::announce))
            .default_service(web::to(fallback::only_put)),
    );
    service.service(
        web::resource(OPENAPI)
            .route(web::get().to(openapi::serve))
            .default_service(web::to(fallback::only_get)),
    );
    service.default_service(web::to(fallback::not_found));
}

#[cfg(test)]
mod tests;
