//! Traces: one from a webhook's request to what became of its event, for who wants to see it.
//!
//! Guarantee: without `OTEL_EXPORTER_OTLP_ENDPOINT` there is no span, only the question whether there is one. With it, a span
//! costs who makes it no waiting: it goes into a bounded queue, or is dropped when that is full, and a thread of its own
//! sends it. A collector that is slow, refuses or is not there delays neither an answer nor the end of the process by
//! more than [`TraceGuard::flush_timeout`]. Spans carry names and outcomes, never a body, a signature or a secret.
//!
//! The context crosses Redis as the entry's `traceparent` (W3C Trace Context, version 00).

mod config;
mod export;

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

pub use config::TraceConfig;
pub use opentelemetry::Value;
pub use opentelemetry::trace::SpanKind;

use export::OtlpExporter;

/// Longest that an end waits for the last spans.
const MAX_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What sends spans, if anything does.
#[must_use = "the last spans are sent by its end"]
pub struct TraceGuard(Option<SdkTracerProvider>);

/// Begins to trace if `config` says so, on the runtime that this is called on; once per process. `service` is what it is
/// known as unless `OTEL_SERVICE_NAME` says otherwise. A client that cannot be set up is logged; then
/// nothing is traced.
pub fn start(config: Option<&TraceConfig>, service: &'static str) -> TraceGuard {
    let Some(config) = config else { return TraceGuard(None) };
    let exporter = match OtlpExporter::new(config) {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::error!(%error, "the client for traces cannot be set up; nothing is traced");
            return TraceGuard(None);
        }
    };
    let service = config.service.clone().unwrap_or_else(|| service.to_owned());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let provider = SdkTracerProvider::builder()
        .with_sampler(config.sampler.clone())
        .with_resource(
            Resource::builder().with_service_name(service).with_attribute(version).build(),
        )
        .with_batch_exporter(exporter)
        .build();
    let _ = TRACER.set(provider.tracer("tributary"));
    TraceGuard(Some(provider))
}

impl TraceGuard {
    /// The part of a grace period that sending the last spans may take; nothing where there are none.
    #[must_use]
    pub fn flush_timeout(&self, grace: Duration) -> Duration {
        if self.0.is_some() { MAX_FLUSH_TIMEOUT.min(grace / 10) } else { Duration::ZERO }
    }

    /// Sends what is left, within [`flush_timeout`](Self::flush_timeout) of `grace`.
    pub async fn finish(self, grace: Duration) {
        let within = self.flush_timeout(grace);
        if let Some(provider) = self.0 {
            // The SDK waits by blocking, and this runtime may have no other thread to send with.
            let ended =
                tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(within)).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::warn!("the last spans were not sent in time");
            }
        }
    }
}

/// The time, if anything is traced: for a span that may come of what begins now.
#[must_use]
pub fn now() -> Option<SystemTime> {
    TRACER.get().map(|_| SystemTime::now())
}

/// One step of an event. Dropped without an outcome it says that it was cut off.
#[derive(Debug)]
pub struct TraceSpan(Option<Box<opentelemetry_sdk::trace::Span>>);

/// A span that began at `began`, under what `parent`, a `traceparent`, says; without one it begins a trace. `None`: nothing
/// is traced.
#[must_use]
pub fn span(
    name: &'static str,
    kind: SpanKind,
    parent: Option<&str>,
    began: SystemTime,
) -> Option<TraceSpan> {
    let tracer = TRACER.get()?;
    let context = match parent.and_then(context) {
        Some(parent) => Context::new().with_remote_span_context(parent),
        None => Context::new(),
    };
    let builder = tracer.span_builder(name).with_kind(kind).with_start_time(began);
    Some(TraceSpan(Some(Box::new(builder.start_with_context(tracer, &context)))))
}

impl TraceSpan {
    /// The context for what follows from this step.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?.span_context();
        let flags = context.trace_flags().to_u8();
        Some(format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
    }

    /// Says something about it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Notes that something has happened now.
    pub fn note(&mut self, what: &'static str) {
        if let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) {
            span.add_event(what, Vec::new());
        }
    }

    /// Marks it as failed, for the reason that `code` names.
    pub fn failed(&mut self, code: impl Into<Cow<'static, str>>) {
        if let Some(span) = self.0.as_mut() {
            span.set_status(Status::error(code));
        }
    }

    /// Ends it now.
    pub fn end(mut self, outcome: impl Into<Value>) {
        self.close(outcome);
    }

    fn close(&mut self, outcome: impl Into<Value>) {
        if let Some(mut span) = self.0.take() {
            span.set_attribute(KeyValue::new("outcome", outcome));
            span.end();
        }
    }
}

impl Drop for TraceSpan {
    fn drop(&mut self) {
        self.close("unfinished");
    }
}

/// The id of the trace that a `traceparent` belongs to, for log lines.
#[must_use]
pub fn trace_id(traceparent: Option<&str>) -> Option<&str> {
    traceparent?.get(3..35)
}

/// Whether a `traceparent` names a trace and a span.
#[must_use]
pub fn is_valid_traceparent(traceparent: &str) -> bool {
    context(traceparent).is_some()
}

fn context(traceparent: &str) -> Option<SpanContext> {
    let (trace, span, flags) =
        (traceparent.get(3..35)?, traceparent.get(36..52)?, traceparent.get(53..55)?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE)).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_is_parsed() {
        let context = context(PARENT).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(trace_id(Some(PARENT)), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
    }

    #[test]
    fn invalid_traceparent_is_no_parent() {
        let zeros = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for wrong in [
            "",
            "00",
            "t",
            zeros,
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            &PARENT[..54],
        ] {
            assert!(context(wrong).is_none(), "{wrong}");
        }
        assert_eq!(trace_id(Some("t")), None);
        assert_eq!(trace_id(None), None);
    }

    #[test]
    fn span_is_none_before_tracing_starts() {
        assert!(now().is_none());
        assert!(span("x", SpanKind::Server, Some(PARENT), SystemTime::now()).is_none());
    }
}
