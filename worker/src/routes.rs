//! Serves the worker's admin routes about sessions and events, beside the operational ones.

mod events;

use std::sync::{Arc, OnceLock};

use actix_web::http::header::{ALLOW, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use actix_web::web::{self, Data, Path, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use shared::config::{AdminAuthError, AdminToken};

use crate::context::WorkerContext;

/// The worker, once it has started.
pub type StartedWorker = Arc<OnceLock<Arc<WorkerContext>>>;

/// Adds the routes about sessions and events, which need the admin token.
pub fn configure(config: &mut ServiceConfig, started: StartedWorker, token: Option<AdminToken>) {
    let only_get = || async {
        let mut response = error(405, "E_METHOD_NOT_ALLOWED", "only GET is allowed here");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        response
    };
    config
        .app_data(Data::new(started))
        .app_data(Data::new(token))
        .service(
            web::resource("/api/v1/sessions/{room_id}")
                .route(web::get().to(session))
                .default_service(web::to(only_get)),
        )
        .service(
            web::resource("/api/v1/webhooks/{platform}/events/{event_id}")
                .route(web::get().to(events::event))
                .default_service(web::to(only_get)),
        )
        .default_service(web::to(|| async { error(404, "E_NOT_FOUND", "no such route") }));
}

/// Returns the worker if the request has the admin token, or else the error response.
fn require_admin<'s>(
    request: &HttpRequest,
    started: &'s StartedWorker,
    token: &Option<AdminToken>,
) -> Result<&'s Arc<WorkerContext>, Box<HttpResponse>> {
    let presented = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    match AdminToken::authorize(token.as_ref(), presented) {
        Ok(()) => started.get().ok_or_else(|| error(500, "E_INTERNAL", "starting").into()),
        Err(refusal @ AdminAuthError::Missing) => {
            let mut response = error(401, "E_ADMIN_FORBIDDEN", &refusal.to_string());
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            Err(response.into())
        }
        Err(refusal) => Err(error(403, "E_ADMIN_FORBIDDEN", &refusal.to_string()).into()),
    }
}

/// `GET /api/v1/sessions/{room_id}`: returns a session's row.
async fn session(
    request: HttpRequest,
    room: Path<String>,
    started: Data<StartedWorker>,
    token: Data<Option<AdminToken>>,
) -> HttpResponse {
    let worker = match require_admin(&request, &started, &token) {
        Ok(worker) => worker,
        Err(refused) => return *refused,
    };
    match worker.store.session(&room).await {
        Ok(Some(row)) => HttpResponse::Ok().json(row),
        Ok(None) => error(404, "E_NOT_FOUND", "no such session"),
        Err(failure) => {
            tracing::warn!(error = %failure, "cannot read a session");
            error(500, "E_INTERNAL", "the session database does not answer")
        }
    }
}

fn error(status: u16, code: &str, message: &str) -> HttpResponse {
    let id = &uuid::Uuid::new_v4().simple().to_string()[..10];
    tracing::info!(erresid = id, errcode = code, status, "{message}");
    let status = actix_web::http::StatusCode::from_u16(status).unwrap_or_default();
    HttpResponse::build(status)
        .json(json!({"success": false, "errcode": code, "errmesg": message, "erresid": id}))
}
