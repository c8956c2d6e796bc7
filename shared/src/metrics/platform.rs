//! Metrics of a platform.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, SharedString, counter, gauge, histogram};

use super::{
    Action, BACKLOG, COLUMN_WARNINGS, DEAD_LETTERS, DEAD_LETTERS_FULL, END_TO_END_DURATION,
    ENQUEUE_DURATION, EVENTS, EventOutcome, FUTURE_TIMES, OLDEST_AGE, ORPHANS, PENDING,
    PROCESSING_DURATION, REQUEST_DURATION, REQUESTS, RETRYING, RequestOutcome, SESSION_UPDATES,
    STREAM_BROKEN, UNREADABLE_TIMES, bool_value, gauge_value,
};
use crate::effects::ColumnWarning;
use crate::platform::PlatformName;

/// Label value for requests to undefined platforms.
const UNKNOWN_PLATFORM: &str = "unknown";

const REQUEST_OUTCOMES: usize = RequestOutcome::ALL.len();
const EVENT_OUTCOMES: usize = EventOutcome::ALL.len();
const ACTIONS: usize = Action::ALL.len();

/// Ingress's metrics of one platform.
#[derive(Clone)]
pub struct IngressMetrics {
    requests: [Counter; REQUEST_OUTCOMES],
    request_duration: Histogram,
    enqueue_duration: Histogram,
    unreadable_times: Counter,
    future_times: Counter,
}

impl IngressMetrics {
    /// Registers all series of `platform`.
    #[must_use]
    pub fn new(platform: &PlatformName) -> Self {
        Self::labelled(platform.as_str())
    }

    /// Registers the series of all undefined platforms.
    #[must_use]
    pub fn unknown() -> Self {
        Self::labelled(UNKNOWN_PLATFORM)
    }

    fn labelled(platform: &str) -> Self {
        let platform = platform.to_owned();
        Self {
            requests: outcomes(
                REQUESTS,
                &platform,
                "outcome",
                RequestOutcome::ALL,
                RequestOutcome::as_str,
            ),
            request_duration: histogram!(REQUEST_DURATION, "platform" => platform.clone()),
            enqueue_duration: histogram!(ENQUEUE_DURATION, "platform" => platform.clone()),
            unreadable_times: counter!(UNREADABLE_TIMES, "platform" => platform.clone()),
            future_times: counter!(FUTURE_TIMES, "platform" => platform),
        }
    }

    /// Counts an answered request, or one event of an answered batch.
    pub fn request(&self, outcome: RequestOutcome) {
        self.requests[outcome as usize].increment(1);
    }

    /// Counts an event with an unreadable time.
    pub fn unreadable_time(&self) {
        self.unreadable_times.increment(1);
    }

    /// Counts an event whose time is too far ahead of arrival.
    pub fn future_time(&self) {
        self.future_times.increment(1);
    }

    /// Records the time from the first byte of a request to its response.
    pub fn request_duration(&self, taken: Duration) {
        self.request_duration.record(taken);
    }

    /// Records the time that a request waited for its batch and for Redis.
    pub fn enqueue_duration(&self, taken: Duration) {
        self.enqueue_duration.record(taken);
    }
}

/// A worker's metrics of one platform.
#[derive(Clone)]
pub struct WorkerMetrics {
    platform: SharedString,
    events: [Counter; EVENT_OUTCOMES],
    updates: [Counter; ACTIONS],
    orphans: Counter,
    processing_duration: Histogram,
    end_to_end_duration: Histogram,
}

impl WorkerMetrics {
    /// Registers all series of `platform`.
    #[must_use]
    pub fn new(platform: &PlatformName) -> Self {
        let platform = platform.as_str().to_owned();
        Self {
            events: outcomes(EVENTS, &platform, "outcome", EventOutcome::ALL, EventOutcome::as_str),
            updates: outcomes(SESSION_UPDATES, &platform, "action", Action::ALL, Action::as_str),
            orphans: counter!(ORPHANS, "platform" => platform.clone()),
            processing_duration: histogram!(PROCESSING_DURATION, "platform" => platform.clone()),
            end_to_end_duration: histogram!(END_TO_END_DURATION, "platform" => platform.clone()),
            platform: platform.into(),
        }
    }

    /// Counts an execution.
    pub fn event(&self, outcome: EventOutcome) {
        self.events[outcome as usize].increment(1);
    }

    /// Counts an applied event.
    pub fn session_update(&self, action: Action) {
        self.updates[action as usize].increment(1);
    }

    /// Counts a column that is not stored as sent.
    pub fn column_warning(&self, warning: &ColumnWarning) {
        let (platform, column, reason) =
            (self.platform.clone(), warning.label(), warning.reason.as_str());
        counter!(COLUMN_WARNINGS, "platform" => platform, "column" => column, "reason" => reason)
            .increment(1);
    }

    /// Counts events that were in no queue and were requeued.
    pub fn orphans(&self, found: u64) {
        self.orphans.increment(found);
    }

    /// Records the time from reading an event to settling it.
    pub fn processing_duration(&self, taken: Duration) {
        self.processing_duration.record(taken);
    }

    /// Records the time from arrival at ingress to settlement.
    pub fn end_to_end_duration(&self, taken: Duration) {
        self.end_to_end_duration.record(taken);
    }
}

/// Gauges of one platform's queue.
#[derive(Clone)]
pub struct QueueMetrics {
    backlog: Gauge,
    pending: Gauge,
    retrying: Gauge,
    dead_letters: Gauge,
    oldest_age: Gauge,
    dead_letters_full: Gauge,
    stream_broken: Gauge,
}

impl QueueMetrics {
    /// Registers all series of `platform` at 0.
    #[must_use]
    pub fn new(platform: &PlatformName) -> Self {
        let at_zero = |name: &'static str| {
            let gauge = gauge!(name, "platform" => platform.as_str().to_owned());
            gauge.set(0);
            gauge
        };
        Self {
            backlog: at_zero(BACKLOG),
            pending: at_zero(PENDING),
            retrying: at_zero(RETRYING),
            dead_letters: at_zero(DEAD_LETTERS),
            oldest_age: at_zero(OLDEST_AGE),
            dead_letters_full: at_zero(DEAD_LETTERS_FULL),
            stream_broken: at_zero(STREAM_BROKEN),
        }
    }

    /// Sets the four queue depths.
    pub fn depth(&self, backlog: u64, pending: u64, retrying: u64, dead_letters: u64) {
        self.backlog.set(gauge_value(backlog));
        self.pending.set(gauge_value(pending));
        self.retrying.set(gauge_value(retrying));
        self.dead_letters.set(gauge_value(dead_letters));
    }

    /// Sets all gauges to 0, for a removed platform.
    pub fn clear(&self) {
        self.depth(0, 0, 0, 0);
        self.oldest_age(Duration::ZERO);
        self.dead_letters_full(false);
        self.stream_broken(false);
    }

    /// Sets the age of the oldest unfinished event that is ready to be processed, or zero.
    pub fn oldest_age(&self, age: Duration) {
        self.oldest_age.set(age.as_secs_f64());
    }

    /// Sets whether the dead letters are at their limit.
    pub fn dead_letters_full(&self, full: bool) {
        self.dead_letters_full.set(bool_value(full));
    }

    /// Sets whether the stream cannot be read, and waiting does not help.
    pub fn stream_broken(&self, broken: bool) {
        self.stream_broken.set(bool_value(broken));
    }
}

/// Registers one counter for each label value, in the order of `all`.
fn outcomes<const N: usize, L: Copy>(
    metric: &'static str,
    platform: &str,
    label: &'static str,
    all: &[L],
    text: fn(L) -> &'static str,
) -> [Counter; N] {
    std::array::from_fn(
        |i| counter!(metric, "platform" => platform.to_owned(), label => text(all[i])),
    )
}
