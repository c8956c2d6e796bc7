//! What `top` knows of Redis: numbers of a moment, counts, and some of the dead letters.

use std::collections::{BTreeMap, VecDeque};

use shared::event::{Millis, StreamId};
use shared::platform::PlatformName;
use shared::queue::DeadLetter;

/// Samples that are kept for the curve, one per reading.
const MAX_HISTORY_SAMPLES: usize = 240;

/// One platform's numbers at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PlatformSample {
    /// Redis's clock.
    pub(super) at: Millis,
    pub(super) backlog: u64,
    pub(super) pending: u64,
    pub(super) retrying: u64,
    pub(super) dead: u64,
    /// Age of the oldest unfinished event, ms.
    pub(super) oldest_ms: Option<u64>,
    /// Accepted and finished events, ever.
    pub(super) accepted: u64,
    pub(super) finished: u64,
}

/// Dead letters of one platform by reason, as they were counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ErrorCodeCounts {
    pub(super) counts: BTreeMap<String, u64>,
    /// How many of `total` have been looked at.
    pub(super) counted: u64,
    pub(super) total: u64,
    /// When counting began, by Redis's clock.
    pub(super) at: Millis,
}

impl ErrorCodeCounts {
    /// Whether all have been looked at.
    pub(super) fn is_complete(&self) -> bool {
        self.counted >= self.total
    }
}

/// A platform's row.
#[derive(Clone, Debug)]
pub(super) struct PlatformRow {
    pub(super) platform: PlatformName,
    pub(super) now: PlatformSample,
    /// Events per second between the last two readings.
    pub(super) per_second: Option<(f64, f64)>,
    /// Finished events per second, oldest first.
    pub(super) history: VecDeque<u64>,
    pub(super) reasons: ErrorCodeCounts,
}

/// A line of the list of dead letters.
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

/// What the list shows of a platform's dead letters: newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) code: Option<String>,
    /// In type, event id, error or body.
    pub(super) text: String,
}

impl Filter {
    /// Whether `letter` is to be shown.
    pub(super) fn matches(&self, letter: &DeadLetter) -> bool {
        let code = self
            .code
            .as_deref()
            .is_none_or(|code| letter.error_code.as_deref().unwrap_or("") == code);
        let says = |value: &Option<String>| {
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
            || [&letter.event_type, &letter.event_id, &letter.error].into_iter().any(says)
            || body())
    }
}

/// A list that was read.
#[derive(Clone, Debug)]
pub(super) struct DeadLetterList {
    pub(super) platform: PlatformName,
    pub(super) filter: Filter,
    pub(super) items: Vec<ListItem>,
    /// There are older ones that were not looked at.
    pub(super) more: bool,
}

impl PlatformRow {
    /// As it is first seen.
    pub(super) fn first(platform: PlatformName, now: PlatformSample) -> Self {
        Self {
            platform,
            now,
            per_second: None,
            history: VecDeque::new(),
            reasons: ErrorCodeCounts::default(),
        }
    }

    /// As it is seen next.
    pub(super) fn next(mut self, now: PlatformSample) -> Self {
        let seconds = now.at.saturating_sub(self.now.at) as f64 / 1000.0;
        if seconds > 0.0 {
            // A counter that went down began anew: Redis was emptied.
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
