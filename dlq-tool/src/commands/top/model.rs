//! Data that `top` shows: numbers per platform, counts by error code, and the list of dead letters.

use std::collections::{BTreeMap, VecDeque};

use shared::event::{Millis, StreamId};
use shared::platform::PlatformName;
use shared::queue::DeadLetter;

/// Samples kept for the chart, one per read.
const MAX_HISTORY_SAMPLES: usize = 240;

/// Numbers of one platform at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PlatformSample {
    /// Time of Redis's clock, in ms.
    pub(super) at: Millis,
    pub(super) backlog: u64,
    pub(super) pending: u64,
    pub(super) retrying: u64,
    pub(super) dead: u64,
    /// Age of the oldest unfinished event, in ms.
    pub(super) oldest_ms: Option<u64>,
    /// Events accepted and finished since the counters began.
    pub(super) accepted: u64,
    pub(super) finished: u64,
}

/// Dead letters of one platform by error code.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ErrorCodeCounts {
    pub(super) counts: BTreeMap<String, u64>,
    /// Dead letters counted so far, of `total`.
    pub(super) counted: u64,
    pub(super) total: u64,
    /// Time at which counting began, by Redis's clock.
    pub(super) at: Millis,
}

impl ErrorCodeCounts {
    /// Returns true if all are counted.
    pub(super) fn is_complete(&self) -> bool {
        self.counted >= self.total
    }
}

/// Row of a platform.
#[derive(Clone, Debug)]
pub(super) struct PlatformRow {
    pub(super) platform: PlatformName,
    pub(super) now: PlatformSample,
    /// Accepted and finished events per second between the last two reads.
    pub(super) per_second: Option<(f64, f64)>,
    /// Finished events per second, oldest first.
    pub(super) history: VecDeque<u64>,
    pub(super) reasons: ErrorCodeCounts,
}

/// Row of the list of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListItem {
    pub(super) id: StreamId,
    pub(super) code: String,
    pub(super) kind: String,
    pub(super) event_id: String,
    pub(super) died_at: Millis,
}

impl From<&DeadLetter> for ListItem {
    fn from(letter: &DeadLetter) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        Self {
            id: letter.id,
            code: text(&letter.error_code),
            kind: text(&letter.event_type),
            event_id: text(&letter.event_id),
            died_at: letter.dead_lettered_at(),
        }
    }
}

/// Filter of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) code: Option<String>,
    /// Text in type, event id, error or body.
    pub(super) text: String,
}

impl Filter {
    /// Returns true if the filter shows `letter`.
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        let code = self
            .code
            .as_deref()
            .is_none_or(|code| letter.error_code.as_deref().unwrap_or("") == code);
        let contains = |value: &Option<String>| {
            value.as_deref().is_some_and(|value| value.contains(&self.text))
        };
        let body = || {
            letter
                .body
                .as_ref()
                .and_then(|body| body.as_text())
                .is_some_and(|body| body.contains(&self.text))
        };
        code && (self.text.is_empty()
            || [&letter.event_type, &letter.event_id, &letter.error].into_iter().any(contains)
            || body())
    }
}

/// List of dead letters as it was read, newest first.
#[derive(Clone, Debug)]
pub(super) struct DeadLetterList {
    pub(super) platform: PlatformName,
    pub(super) filter: Filter,
    pub(super) items: Vec<ListItem>,
    /// True if older dead letters were not read.
    pub(super) more: bool,
}

impl PlatformRow {
    /// Creates the row with its first sample.
    pub(super) fn first(platform: PlatformName, now: PlatformSample) -> Self {
        Self {
            platform,
            now,
            per_second: None,
            history: VecDeque::new(),
            reasons: ErrorCodeCounts::default(),
        }
    }

    /// Adds a sample and computes the rates.
    pub(super) fn next(mut self, now: PlatformSample) -> Self {
        let seconds = now.at.saturating_sub(self.now.at) as f64 / 1000.0;
        if seconds > 0.0 {
            // A counter that decreased was reset with Redis; its rate is 0.
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let rates =
                (rate(now.accepted, self.now.accepted), rate(now.finished, self.now.finished));
            self.per_second = Some(rates);
            self.history.push_back(rates.1.round() as u64);
            if self.history.len() > MAX_HISTORY_SAMPLES {
                self.history.pop_front();
            }
        }
        self.now = now;
        self
    }
}
