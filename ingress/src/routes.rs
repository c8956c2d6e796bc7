//! The URL table.

mod fast_path;
mod path_form;

use actix_web::HttpRequest;
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};

use crate::handlers::{fallback, handshake, outbound, platforms, probe, sessions, stats, webhook};
use crate::openapi;

pub(crate) use fast_path::direct_platform_name;
pub(crate) use path_form::{PathForm, classify_path, replace_path};

/// Where webhooks are received; the last segment is the platform's name or an alias.
pub(crate) const WEBHOOKS: [&str; 4] = [
    "/api/v1/webhooks/{platform}",
    "/webhooks/{platform}",
    "/webhook/{platform}",
    "/api/v1/live/webhooks/{platform}",
];

/// Where what became of webhooks is told.
pub(crate) const METRICS: [&str; 2] = ["/api/v1/webhooks/metrics", "/webhooks/stats"];

/// Where it is told where events are.
pub(crate) const STATS: &str = "/api/v1/webhooks/stats";

/// Where platforms are registered.
pub(crate) const REGISTER: &str = "/api/v1/webhooks/register";

/// Where it is told what is defined.
pub(crate) const PLATFORMS: &str = "/api/v1/webhooks/platforms";

/// Where one of them is changed or removed.
pub(crate) const PLATFORM: &str = "/api/v1/webhooks/platforms/{platform}";

/// Where sessions are announced; at a worker's operational address, where they are shown.
pub(crate) const SESSION: &str = "/api/v1/sessions/{room_id}";

/// Where a destination's URL is tried.
pub(crate) const TEST: &str = "/api/webhooks/test";

/// Where an event is sent by hand.
pub(crate) const TRIGGER: &str = "/api/webhooks/trigger";

/// Where it is told what became of deliveries.
pub(crate) const STATUS: &str = "/api/webhooks/status";

/// Where a destination is held back.
pub(crate) const DESTINATION: &str = "/api/webhooks/destinations/{name}";

/// Where all of this is described.
pub(crate) const OPENAPI: &str = "/api/openapi.json";

/// The platform's name in the path of a request that the table has brought to the webhooks' route.
pub(crate) fn platform_name(request: &HttpRequest) -> &str {
    request.match_info().get("platform").unwrap_or_default()
}

/// All routes; see [`crate::dispatch`] for the short way to the busiest of them.
pub(crate) fn configure(service: &mut ServiceConfig) {
    // Before the webhooks' routes, in which these words would stand where a platform's name does; none may be called so.
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
