//! Traces an event from the webhook request to its result.
//!
//! # Guarantees
//!
//! - Without `OTEL_EXPORTER_OTLP_ENDPOINT`, no span is created
//!   (`span_is_none_before_tracing_starts`).
//! - A span never waits. It enters a bounded queue, or is dropped if the queue is full, and a
//!   separate thread exports it.
//! - A slow or unavailable collector delays no response. It delays the end of the process by at
//!   most [`TraceGuard::flush_timeout`] (`unavailable_collector_harms_nothing`).
//! - Spans hold names and outcomes, but no body, signature or secret.
//!
//! An entry carries the context through Redis as `traceparent` (W3C Trace Context, version 00).

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

/// Longest wait for the last spans at the end of the process.
const MAX_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Handle of the exporter, if tracing is enabled.
#[must_use = "finish() exports the last spans"]
pub struct TraceGuard(Option<SdkTracerProvider>);

/// Starts tracing if `config` is set. Call it once, on the runtime that sends the spans.
///
/// `service` is the service's name, unless `OTEL_SERVICE_NAME` is set. If the client cannot be set
/// up, this logs an error and tracing stays off.
pub fn start(config: Option<&TraceConfig>, service: &'static str) -> TraceGuard {
    let Some(config) = config else { return TraceGuard(None) };
    let exporter = match OtlpExporter::new(config) {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::error!(%error, "cannot set up the trace exporter; tracing is off");
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
    /// Part of the grace period `grace` for exporting the last spans. Zero if tracing is off.
    #[must_use]
    pub fn flush_timeout(&self, grace: Duration) -> Duration {
        if self.0.is_some() { MAX_FLUSH_TIMEOUT.min(grace / 10) } else { Duration::ZERO }
    }

    /// Exports the remaining spans, within [`flush_timeout`](Self::flush_timeout) of `grace`.
    pub async fn finish(self, grace: Duration) {
        let timeout = self.flush_timeout(grace);
        if let Some(provider) = self.0 {
            // The SDK blocks while it waits, and this runtime may have no other thread for sending.
            let ended =
                tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(timeout)).await;
            if !matches!(ended, Ok(Ok(()))) {
                tracing::warn!("last spans were not exported in time; they are dropped");
            }
        }
    }
}

/// Start time of a possible span, or `None` if tracing is off.
#[must_use]
pub fn now() -> Option<SystemTime> {
    TRACER.get().map(|_| SystemTime::now())
}

/// A span: one step of an event. Dropped without an outcome, it ends as `unfinished`.
#[derive(Debug)]
pub struct TraceSpan(Option<Box<opentelemetry_sdk::trace::Span>>);

/// Starts a span at `began`. `parent` is a `traceparent`. Without it, the span starts a trace.
/// Returns `None` if tracing is off.
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
    /// Context of this span, for later steps.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?.span_context();
        let flags = context.trace_flags().to_u8();
        Some(format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()))
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Adds an event at the current time.
    pub fn note(&mut self, what: &'static str) {
        if let Some(span) = self.0.as_mut().filter(|span| span.is_recording()) {
            span.add_event(what, Vec::new());
        }
    }

    /// Sets the status to failed, with `code` as the description.
    pub fn failed(&mut self, code: impl Into<Cow<'static, str>>) {
        if let Some(span) = self.0.as_mut() {
            span.set_status(Status::error(code));
        }
    }

    /// Ends the span with this outcome.
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

/// Trace id in a `traceparent`, for log lines.
#[must_use]
pub fn trace_id(traceparent: Option<&str>) -> Option<&str> {
    traceparent?.get(3..35)
}

/// Returns true if a `traceparent` holds a valid trace id and span id.
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
