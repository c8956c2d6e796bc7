//! Trace spans of the worker: one per entry, from its delivery to its settlement.
//!
//! # Guarantees
//! - A span belongs to the trace of the request that accepted the event
//!   (`trace_covers_the_request_up_to_the_delivery`).
//! - Its outcome is the one that Redis confirmed. Without a confirmation it ends as `unfinished`,
//!   because another worker was first or this one stops
//!   (`failed_spans_are_marked_and_last_spans_sent_at_exit`).
//! - Without tracing, no span is kept (`trace_context_passes_when_no_exporter_is_configured`).

use std::collections::HashMap;
use std::time::Instant;

use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, StreamId};
use shared::platform::PlatformName;
use shared::trace::{self, SpanKind, TraceSpan};

/// Spans of a batch.
#[derive(Default)]
pub(super) struct Spans(HashMap<StreamId, TraceSpan>);

impl Spans {
    /// Opens the span of `event`, which was received at `taken_at` and has been executed. Returns
    /// the `traceparent` for what follows.
    pub(super) fn open(
        &mut self,
        platform: &PlatformName,
        event: &Envelope,
        taken_at: Instant,
    ) -> Option<String> {
        let now = trace::now()?;
        let began = now.checked_sub(taken_at.elapsed()).unwrap_or(now);
        let mut span = trace::span(
            "webhook process",
            SpanKind::Consumer,
            event.traceparent.as_deref(),
            began,
        )?;
        span.set("platform", platform.as_str().to_owned());
        span.set("event_id", event.event_id.clone());
        span.set("event_type", event.event_type.clone());
        span.set("attempt", i64::from(event.attempt));
        span.note("executed");
        let traceparent = span.traceparent();
        self.0.insert(event.id, span);
        traceparent
    }

    /// Ends the span of an entry. `code` is its error, if it has one.
    pub(super) fn close(
        &mut self,
        id: StreamId,
        outcome: &'static str,
        code: Option<DeadLetterCode>,
    ) {
        if self.0.is_empty() {
            return;
        }
        if let Some(mut span) = self.0.remove(&id) {
            if let Some(code) = code {
                span.failed(code.as_str());
            }
            span.end(outcome);
        }
    }
}
