//! OTLP collector: receives traces over HTTP, decodes and keeps them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{self, Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use prost::Message;

use crate::poll;

/// A received span.
#[derive(Clone, Debug)]
pub struct Span {
    /// `service.name` of the sender.
    pub service: String,
    /// Name of the span.
    pub name: String,
    /// Trace id, in hex.
    pub trace: String,
    /// Span id, in hex.
    pub id: String,
    /// Id of the parent span, in hex; empty for none.
    pub parent: String,
    /// Attributes of the span.
    pub attributes: BTreeMap<String, String>,
    /// Names of the span's events.
    pub notes: Vec<String>,
    /// Error message, if the span failed.
    pub error: Option<String>,
    /// Duration in ns.
    pub took: u64,
}

impl Span {
    /// Returns an attribute, or an empty string.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Default)]
struct ReceivedTraces {
    spans: Vec<Span>,
    raw: Vec<(String, String, Bytes)>,
}

/// A collector on a free port.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    seen: Arc<Mutex<ReceivedTraces>>,
    running: ServerHandle,
}

impl Collector {
    /// Starts a collector that accepts every request.
    ///
    /// # Panics
    /// If there is no free port.
    #[must_use]
    pub fn start() -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], crate::ports::free()));
        let seen = Arc::<Mutex<ReceivedTraces>>::default();
        let state = Data::from(Arc::clone(&seen));
        let server = HttpServer::new(move || {
            App::new()
                .app_data(state.clone())
                .app_data(web::PayloadConfig::new(8 * 1024 * 1024))
                .default_service(web::to(receive))
        })
        .workers(1)
        .disable_signals()
        .shutdown_timeout(1)
        .bind(address)
        .expect("the collector's port")
        .run();
        let running = server.handle();
        tokio::spawn(server);
        Self { address, seen, running }
    }

    /// Returns `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Returns every span, in the order of arrival.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).spans.clone()
    }

    /// Returns path, authorization and body of every request, also of undecodable ones.
    #[must_use]
    pub fn requests(&self) -> Vec<(String, String, Bytes)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).raw.clone()
    }

    /// Waits for exactly `count` spans named `name`.
    ///
    /// # Panics
    /// If there is another number after `within`.
    pub async fn has(&self, name: &str, count: usize, within: Duration) -> Vec<Span> {
        poll::until(&format!("{count} spans {name:?}"), within, async || {
            let spans: Vec<Span> =
                self.spans().into_iter().filter(|span| span.name == name).collect();
            if spans.len() == count { Ok(spans) } else { Err(format!("{:#?}", self.spans())) }
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        drop(self.running.stop(false));
    }
}

async fn receive(
    request: HttpRequest,
    body: Bytes,
    seen: Data<Mutex<ReceivedTraces>>,
) -> HttpResponse {
    let authorization = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.raw.push((request.path().to_owned(), authorization.to_owned(), body.clone()));
    let protobuf =
        request.headers().get("content-type").is_some_and(|kind| kind == "application/x-protobuf");
    let Some(batch) = ExportTraceServiceRequest::decode(body).ok().filter(|_| protobuf) else {
        return HttpResponse::BadRequest().finish();
    };
    for from in batch.resource_spans {
        let service = attributes(from.resource.unwrap_or_default().attributes)
            .remove("service.name")
            .unwrap_or_default();
        for span in from.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            seen.spans.push(Span {
                service: service.clone(),
                name: span.name,
                trace: hex::encode(span.trace_id),
                id: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
                attributes: attributes(span.attributes),
                notes: span.events.into_iter().map(|event| event.name).collect(),
                error: span.status.filter(|status| status.code == 2).map(|status| status.message),
                took: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
            });
        }
    }
    HttpResponse::Ok().content_type("application/x-protobuf").finish()
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: any_value::Value| match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    pairs
        .into_iter()
        .map(|pair| {
            (pair.key, pair.value.and_then(|value| value.value).map(text).unwrap_or_default())
        })
        .collect()
}
