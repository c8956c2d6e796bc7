//! Reads the host's clock and formats times.
//!
//! # Guarantees
//!
//! - Every time that leaves the system is RFC 3339 in UTC with milliseconds and `Z`. The text has
//!   24 characters, so texts sort as their times do (`texts_sort_as_instants_do`,
//!   `rfc3339_text_is_24_characters_wide`).
//!
//! Redis's clock orders events. The host's clock does not.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::datetime;

use crate::event::Millis;

const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999 UTC);

/// Milliseconds since the Unix epoch by this host's clock, or 0 if it is set before 1970.
#[must_use]
pub fn now_ms() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX))
}

/// One reading of another host's clock.
///
/// The sample advances with the monotonic clock, so a step of either wall clock shows at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    shown_ms: Millis,
    at: Instant,
}

impl ClockSample {
    /// Creates a sample of a clock that showed `shown_ms` at `at`.
    #[must_use]
    pub fn new(shown_ms: Millis, at: Instant) -> Self {
        Self { shown_ms, at }
    }

    /// Time of the sampled clock now, provided that it was not set since.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        self.shown_ms
            .saturating_add(Millis::try_from(self.at.elapsed().as_millis()).unwrap_or(Millis::MAX))
    }

    /// Time by which the sampled clock is ahead of this host's clock now.
    #[must_use]
    pub fn skew_ms(&self) -> Millis {
        self.now_ms().saturating_sub(now_ms())
    }
}

/// Formats `at` as `2026-01-31T23:59:59.123Z`. Years outside 0 to 9999 become the nearest limit.
#[must_use]
pub fn rfc3339(at: Millis) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .unwrap_or(if at < 0 { FIRST } else { LAST })
        .clamp(FIRST, LAST);
    // Each event formats several times, and `format!` is measurably slower.
    let mut text = *b"0000-00-00T00:00:00.000Z";
    let mut put = |end: usize, digits: usize, mut number: u32| {
        for digit in text[end - digits..end].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    };
    put(4, 4, at.year().unsigned_abs());
    put(7, 2, u8::from(at.month()).into());
    put(10, 2, at.day().into());
    put(13, 2, at.hour().into());
    put(16, 2, at.minute().into());
    put(19, 2, at.second().into());
    put(23, 3, at.millisecond().into());
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_instants_are_written_in_full() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_769_904_000_007), "2026-02-01T00:00:00.007Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn instants_out_of_range_are_clamped() {
        assert_eq!(rfc3339(Millis::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(Millis::MIN), "0000-01-01T00:00:00.000Z");
    }

    #[test]
    fn clock_sample_advances_and_its_skew_follows_the_host_clock() {
        let ago = Duration::from_secs(60);
        let Some(at) = Instant::now().checked_sub(ago) else { return };
        let sample = ClockSample::new(now_ms() - 60_000, at);
        assert!(sample.skew_ms().abs() < 1_000, "{}", sample.skew_ms());
        // Since the sample, this host's clock was set ahead by an hour.
        let sample = ClockSample::new(now_ms() - 60_000 - 3_600_000, at);
        assert!((sample.skew_ms() + 3_600_000).abs() < 1_000, "{}", sample.skew_ms());
    }

    #[test]
    fn now_ms_is_past_2025() {
        assert!(now_ms() > 1_735_689_600_000);
    }

    proptest! {
        #[test]
        fn texts_sort_as_instants_do(
            a in -62_167_219_200_000_i64..253_402_300_800_000,
            b in -62_167_219_200_000_i64..253_402_300_800_000,
        ) {
            prop_assert_eq!(a.cmp(&b), rfc3339(a).cmp(&rfc3339(b)));
        }

        #[test]
        fn rfc3339_text_is_24_characters_wide(at in any::<i64>()) {
            prop_assert_eq!(rfc3339(at).len(), 24);
        }
    }
}
