//! Bare HTTP baseline: actix with one thread reads the body and answers 202.

use std::io;
use std::net::SocketAddr;

use actix_web::{App, HttpResponse, HttpServer, web};

/// Response body of the same size as that of ingress.
const RESPONSE_BODY: &str = r#"{"event_id":"evt-00000000-0000000000000000","status":"accepted"}"#;

/// Serves until SIGTERM.
pub(crate) fn serve(bind: SocketAddr) -> io::Result<()> {
    actix_web::rt::System::new().block_on(
        HttpServer::new(|| App::new().default_service(web::to(accept)))
            .workers(1)
            .bind(bind)?
            .run(),
    )
}

async fn accept(body: web::Bytes) -> HttpResponse {
    if body.is_empty() {
        return HttpResponse::BadRequest().finish();
    }
    HttpResponse::Accepted().content_type("application/json").body(RESPONSE_BODY)
}
