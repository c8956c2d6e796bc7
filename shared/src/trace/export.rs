//! The way to the collector: OTLP as protobuf over HTTP.
//!
//! Guarantee: every request ends in time, nothing is sent twice, and a collector that does not take spans costs those spans
//! and one warning a minute. No warning holds the endpoint, which may hold credentials.

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

/// Between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// The longest that connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends batches of spans; asked by the SDK's own thread, it sends on the runtime that it was made on.
pub(super) struct OtlpExporter {
    clients: HttpClients,
    url: Url,
    headers: HeaderMap,
    runtime: Handle,
    resource: ResourceAttributesWithSchema,
    warned: Mutex<Option<Instant>>,
}

impl fmt::Debug for OtlpExporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

impl OtlpExporter {
    /// One for this runtime.
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
            warned: Mutex::default(),
        })
    }

    /// What went wrong, if it did.
    async fn send(&self, body: Vec<u8>) -> Result<(), String> {
        self.clients.search();
        let client =
            self.clients.get(self.url.scheme() == "https").map_err(|none| none.to_string())?;
        let request = client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        // Sending looks for the runtime before it is polled, and the thread that asks has none.
        match self.runtime.spawn(async { request.send().await }).await {
            Ok(Ok(answer)) if answer.status().is_success() => Ok(()),
            Ok(Ok(answer)) => Err(format!("it answered {}", answer.status().as_u16())),
            Ok(Err(error)) => Err(chain(&error.without_url())),
            Err(_) => Err("the process is ending".to_owned()),
        }
    }

    fn warn(&self, spans: usize, reason: &str) {
        dropped(spans);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.is_none_or(|at| at.elapsed() >= WARN_INTERVAL) {
            *warned = Some(Instant::now());
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
        // It has been told, less often than the SDK would.
        Ok(())
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
