//! The URL table.

use actix_web::web::{self, ServiceConfig};

use crate::handlers::{fallback, handshake, sessions, webhook};

/// Where webhooks are received; the last segment is the platform's name or an alias.
const WEBHOOKS: [&str; 4] = [
    "/api/v1/webhooks/{platform}",
    "/webhooks/{platform}",
    "/webhook/{platform}",
    "/api/v1/live/webhooks/{platform}",
];

/// All routes.
pub(crate) fn configure(service: &mut ServiceConfig) {
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
