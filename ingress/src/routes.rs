//! The URL table.

use actix_web::web::{self, ServiceConfig};

use crate::handlers::{fallback, handshake, sessions, stats, webhook};

/// Where webhooks are received; the last segment is the platform's name or an alias.
const WEBHOOKS: [&str; 4] = [
    "/api/v1/webhooks/{platform}",
    "/webhooks/{platform}",
    "/webhook/{platform}",
    "/api/v1/live/webhooks/{platform}",
];

/// Where what became of webhooks is told.
const METRICS: [&str; 2] = ["/api/v1/webhooks/metrics", "/webhooks/stats"];

/// All routes.
pub(crate) fn configure(service: &mut ServiceConfig) {
    // Before the webhooks' routes, in which these words would stand where a platform's name does; none may be called so.
    for path in METRICS {
        service.service(
            web::resource(path).route(web::get().to(stats::metrics)).default_service(web::to(fallback::only_get)),
        );
    }
    service.service(
        web::resource("/api/v1/webhooks/stats")
            .route(web::get().to(stats::stats))
            .default_service(web::to(fallback::only_get)),
    );
    for path in WEBHOOKS {
        service.service(
            web::resource(path)
                .route(web::post().to(webhook::receive))
                .route(web::get().to(handshake::confirm))
                .default_service(web::to(fallback::only_post)),
        );
    }
    service.service(
        web::resource("/api/v1/sessions/{room_id}")
            .route(web::put().to(sessions::announce))
            .default_service(web::to(fallback::only_put)),
    );
    service.default_service(web::to(fallback::not_found));
}

#[cfg(test)]
mod tests;
