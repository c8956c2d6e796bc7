//! What traces show of the worker: one span per entry, from its being taken to its being settled.
//!
//! Guarantee: it follows from what the entry says, so it belongs to the trace of its request. Its outcome is what Redis
//! confirmed; one that nothing was confirmed of, since another worker was first or this one stops, ends as `unfinished`.
//! Where nothing is traced this holds nothing.

use std::collections::HashMap;
use std::time::Instant;

use shared::error_code::DeadLetterCode;
use shared::event::{Envelope, StreamId};
use shared::platform::PlatformName;
use shared::trace::{self, SpanKind, TraceSpan};

/// The spans of a batch.
#[derive(Default)]
pub(super) struct Spans(HashMap<StreamId, TraceSpan>);

impl Spans {
    /// Begins that of `event`, which was taken at `taken` and has been executed by now. Says what follows from it.
    pub(super) fn open(
        &mut self,
        platform: &PlatformName,
        event: &Envelope,
        taken: Instant,
    ) -> Option<String> {
        let now = trace::now()?;
        let began = now.checked_sub(taken.elapsed()).unwrap_or(now);
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

    /// Ends that of an entry; `code` says what was wrong with it.
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
