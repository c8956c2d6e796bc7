//! Defines the time of an event, as its sender gives it and as entries carry it.

use super::{MAX_FUTURE_MS, Millis};

/// Order of an event with an unreadable time: below every known time, since those follow the epoch.
///
/// Entries carry it as `occurred_at`, so workers of earlier releases order the event alike.
pub(super) const UNREADABLE: Millis = 0;

/// Time of an event, as its sender gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventTime {
    /// A time after the epoch.
    Known(Millis),
    /// No time. The time of arrival counts.
    #[default]
    Absent,
    /// A value that is not a time. The event is older than any event with a known time. Arrival
    /// orders events with unreadable times.
    Unreadable,
}

impl EventTime {
    /// The time, if it is known.
    #[must_use]
    pub const fn known(self) -> Option<Millis> {
        match self {
            Self::Known(at) => Some(at),
            Self::Absent | Self::Unreadable => None,
        }
    }

    /// Value of `occurred_at` in an entry. `None` stands for the time of arrival.
    #[must_use]
    pub const fn on_wire(self) -> Option<Millis> {
        match self {
            Self::Known(at) => Some(at),
            Self::Absent => None,
            Self::Unreadable => Some(UNREADABLE),
        }
    }

    /// Value of `occurred_at` that the enqueue script writes for an arrival at `received_at`.
    #[must_use]
    pub fn clamped(self, received_at: Millis) -> Millis {
        self.on_wire().filter(|_| !self.is_ahead(received_at)).unwrap_or(received_at)
    }

    /// Returns true if the time is so far ahead of `received_at` that the time of arrival counts.
    #[must_use]
    pub const fn is_ahead(self, received_at: Millis) -> bool {
        matches!(self, Self::Known(at) if at > received_at.saturating_add(MAX_FUTURE_MS))
    }

    /// Returns true if an entry's `occurred_at` stands for an unreadable time.
    #[must_use]
    pub const fn is_unreadable(occurred_at: Millis) -> bool {
        occurred_at == UNREADABLE
    }
}

impl From<Option<Millis>> for EventTime {
    fn from(known: Option<Millis>) -> Self {
        known.map_or(Self::Absent, Self::Known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_clamped_as_the_enqueue_script_clamps_it() {
        let at = |time: EventTime| time.clamped(1_000_000);
        assert_eq!(at(EventTime::Absent), 1_000_000);
        assert_eq!(at(EventTime::Known(5)), 5);
        assert_eq!(at(EventTime::Known(1_000_000 + MAX_FUTURE_MS)), 1_000_000 + MAX_FUTURE_MS);
        assert_eq!(at(EventTime::Known(1_000_001 + MAX_FUTURE_MS)), 1_000_000);
        let ahead = |time: EventTime| time.is_ahead(1_000_000);
        assert!(!ahead(EventTime::Known(1_000_000 + MAX_FUTURE_MS)));
        assert!(ahead(EventTime::Known(1_000_001 + MAX_FUTURE_MS)));
        assert!(!ahead(EventTime::Absent) && !ahead(EventTime::Unreadable));
        assert!(EventTime::is_unreadable(at(EventTime::Unreadable)));
    }
}
