//! Serves the operational routes of a process: `/metrics`, `/live` and `/ready`.
//!
//! # Guarantees
//!
//! - `/live` depends on nothing outside the process, so a Redis outage restarts no process
//!   (`ops_routes_answer_and_ready_follows_its_check`).
//! - `/ready` names the reason while the process cannot work
//!   (`ops_routes_answer_and_ready_follows_its_check`).
//! - The server has its own address and thread, so a busy process still answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::http::header;
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, HttpResponse, HttpServer, Resource, Route, guard};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::JoinHandle;

/// Returns an error if the process cannot work now, with a reason that holds no secret.
///
/// It is called for each request to `/ready`, so it must do no I/O.
pub type ReadinessCheck = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Media type of the Prometheus text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Media type of other responses.
const TEXT: &str = "text/plain; charset=utf-8";

/// The running operational server.
#[derive(Debug)]
pub struct OpsServer {
    address: SocketAddr,
    handle: ServerHandle,
    task: JoinHandle<io::Result<()>>,
}

impl OpsServer {
    /// Address that the server listens on. Holds the actual port if port 0 was requested.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops the server. Does not wait for open connections.
    pub async fn stop(self) {
        self.handle.stop(false).await;
        if let Ok(Err(error)) = self.task.await {
            tracing::warn!(%error, "operational server failed");
        }
    }
}

/// Starts to serve on `bind`. Requires a tokio runtime.
///
/// # Errors
/// The address cannot be bound.
pub fn serve(
    bind: SocketAddr,
    metrics: PrometheusHandle,
    readiness: ReadinessCheck,
) -> io::Result<OpsServer> {
    serve_with(bind, metrics, readiness, |_| {})
}

/// As [`serve`], with further routes, such as a worker's lookups.
///
/// # Errors
/// The address cannot be bound.
pub fn serve_with(
    bind: SocketAddr,
    metrics: PrometheusHandle,
    readiness: ReadinessCheck,
    routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<OpsServer> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(metrics.clone()))
            .app_data(web::Data::new(readiness.clone()))
            .service(read_only("/metrics", web::to(render)))
            .service(read_only(
                "/live",
                web::to(|| async { HttpResponse::Ok().content_type(TEXT).body("live\n") }),
            ))
            .service(read_only("/ready", web::to(ready)))
            .configure(routes.clone())
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .bind(bind)?;
    let address = server.addrs().first().copied().unwrap_or(bind);
    let server = server.run();
    let handle = server.handle();
    tracing::info!(role = "ops", %address, "listening");
    Ok(OpsServer { address, handle, task: tokio::spawn(server) })
}

/// Builds a route for GET and HEAD. Some probes use HEAD.
fn read_only(path: &str, route: Route) -> Resource {
    let reading = guard::Any(guard::Get()).or(guard::Head());
    web::resource(path).route(route.guard(reading)).default_service(web::to(method_not_allowed))
}

async fn method_not_allowed() -> HttpResponse {
    HttpResponse::MethodNotAllowed()
        .insert_header((header::ALLOW, "GET, HEAD"))
        .content_type(TEXT)
        .body("only GET and HEAD are allowed here\n")
}

async fn render(metrics: web::Data<PrometheusHandle>) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CONTENT_TYPE, PROMETHEUS_TEXT)).body(metrics.render())
}

async fn ready(readiness: web::Data<ReadinessCheck>) -> HttpResponse {
    match readiness() {
        Ok(()) => HttpResponse::Ok().content_type(TEXT).body("ready\n"),
        Err(reason) => HttpResponse::ServiceUnavailable()
            .content_type(TEXT)
            .body(format!("not ready: {reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::sync::atomic::{AtomicBool, Ordering};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        send("GET", address, path).await
    }

    async fn send(method: &str, address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let status = response.split(' ').nth(1).unwrap().parse().unwrap();
        (status, response)
    }

    #[tokio::test]
    async fn ops_routes_answer_and_ready_follows_its_check() {
        let healthy = Arc::new(AtomicBool::new(false));
        let state = healthy.clone();
        let readiness: ReadinessCheck = Arc::new(move || {
            if state.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("Redis does not answer".to_owned())
            }
        });
        let recorder = PrometheusBuilder::new().build_recorder();
        let metrics = recorder.handle();
        ::metrics::with_local_recorder(&recorder, || {
            ::metrics::counter!("seen_total").increment(7)
        });
        let ops = serve_with("127.0.0.1:0".parse().unwrap(), metrics, readiness, |routes| {
            routes.route("/extra", web::get().to(HttpResponse::NoContent));
        })
        .unwrap();
        let address = ops.address();
        assert_ne!(address.port(), 0);

        assert_eq!(get(address, "/live").await.0, 200);
        assert_eq!(send("HEAD", address, "/live").await.0, 200);
        let (status, response) = send("POST", address, "/live").await;
        assert_eq!((status, response.contains("allow: GET, HEAD")), (405, true), "{response}");
        let (status, response) = get(address, "/ready").await;
        assert_eq!(status, 503);
        assert!(response.ends_with("not ready: Redis does not answer\n"), "{response}");
        healthy.store(true, Ordering::SeqCst);
        assert_eq!(get(address, "/ready").await.0, 200);
        let (status, response) = get(address, "/metrics").await;
        assert_eq!(status, 200);
        assert!(response.contains("content-type: text/plain; version=0.0.4"), "{response}");
        assert!(response.contains("seen_total 7"), "{response}");
        assert_eq!(get(address, "/extra").await.0, 204);
        assert_eq!(get(address, "/other").await.0, 404);

        ops.stop().await;
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn address_in_use_is_an_error() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        assert!(serve(taken.local_addr().unwrap(), metrics, Arc::new(|| Ok(()))).is_err());
    }
}
