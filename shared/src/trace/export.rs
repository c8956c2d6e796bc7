//! Exports spans to a collector, with OTLP as protobuf over HTTP.
//!
//! # Guarantees
//!
//! - Every request has a timeout, and nothing is sent twice.
//! - If a collector does not accept spans, they are dropped, with one warning a minute
//!   (`unavailable_collector_harms_nothing`).
//! - No warning holds the endpoint, which may hold credentials.

use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use tokio::runtime::Handle;
use url::Url;

use super::config::TraceConfig;
use crate::metrics::spans_dropped as dropped;
use crate::outbound::certificates::HttpClients;

/// Least time between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Timeout of a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends batches of spans. The SDK's thread calls it, and it sends on the runtime of its creation.
pub(super) struct OtlpExporter {
    clients: HttpClients,
    url: Url,
    headers: HeaderMap,
    runtime: Handle,
    resource: ResourceAttributesWithSchema,
    last_warning: Mutex<Option<Instant>>,
}

impl fmt::Debug for OtlpExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpExporter").finish_non_exhaustive()
    }
}

impl OtlpExporter {
    /// Creates an exporter that sends on the current runtime.
    pub(super) fn new(config: &TraceConfig) -> Result<Self, reqwest::Error> {
        let timeout = config.timeout;
        let clients = HttpClients::new(move || {
            reqwest::Client::builder()
                .redirect(Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(timeout)
        })?;
        let mut headers = config.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        Ok(Self {
            clients,
            url: config.url.clone(),
            headers,
            runtime: Handle::current(),
            resource: ResourceAttributesWithSchema::default(),
            last_warning: Mutex::default(),
        })
    }

    /// Sends one request. The error describes the failure.
    async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        self.clients.search();
        let client =
            self.clients.get(self.url.scheme() == "https").map_err(|error| error.to_string())?;
        let request = client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        // reqwest needs a runtime even before the first poll, and the SDK's thread has none.
        match self.runtime.spawn(async { request.send().await }).await {
            Ok(Ok(response)) if response.status().is_success() => Ok(()),
            Ok(Ok(response)) => Err(format!("status {}", response.status().as_u16())),
            Ok(Err(error)) => Err(error_chain(&error.without_url())),
            Err(_) => Err("the process is stopping".to_owned()),
        }
    }

    fn warn(&self, spans: usize, reason: &str) {
        dropped(spans);
        let mut last_warning = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        if last_warning.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            *last_warning = Some(Instant::now());
            tracing::warn!(
                spans,
                reason,
                "the trace collector does not take spans; they are dropped"
            );
        }
    }
}

impl SpanExporter for OtlpExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        if let Err(reason) =
            self.send(ExportTraceServiceRequest { resource_spans }.encode_to_vec()).await
        {
            self.warn(spans, &reason);
        }
        // `warn` already logs this, less often than the SDK would.
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

fn error_chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
