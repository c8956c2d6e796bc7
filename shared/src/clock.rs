//! The wall clock, and how its instants are written.
//!
//! Guarantee: one text form for every instant that leaves the system: RFC 3339 in UTC with milliseconds and `Z`, 24
//! characters wide, so that texts sort as instants do. What orders *events* is Redis's clock, not this one.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::macros::datetime;

use crate::event::Millis;

const FIRST: OffsetDateTime = datetime!(0000-01-01 00:00:00 UTC);
const LAST: OffsetDateTime = datetime!(9999-12-31 23:59:59.999 UTC);

/// Milliseconds since the Unix epoch by this host's clock; 0 if that stands before 1970.
#[must_use]
pub fn now_ms() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX))
}

/// A clock elsewhere, as it was read once. It goes on in true seconds, whatever becomes of this host's clock, so that a
/// jump of either is seen at once instead of at the next reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockSample {
    said: Millis,
    at: Instant,
}

impl ClockSample {
    /// The clock said `said` at `at`.
    #[must_use]
    pub fn new(said: Millis, at: Instant) -> Self {
        Self { said, at }
    }

    /// What it says now, if nobody has set it since.
    #[must_use]
    pub fn now_ms(&self) -> Millis {
        self.said
            .saturating_add(Millis::try_from(self.at.elapsed().as_millis()).unwrap_or(Millis::MAX))
    }

    /// How far it is ahead of this host's clock now.
    #[must_use]
    pub fn skew_ms(&self) -> Millis {
        self.now_ms().saturating_sub(now_ms())
    }
}

/// `at` as `2026-01-31T23:59:59.123Z`. Instants outside the years 0 to 9999 are written as the nearest one inside.
#[must_use]
pub fn rfc3339(at: Millis) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .unwrap_or(if at < 0 { FIRST } else { LAST })
        .clamp(FIRST, LAST);
    // Digit by digit: every event has several, and `format!` is felt.
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
        let reading = ClockSample::new(now_ms() - 60_000, at);
        assert!(reading.skew_ms().abs() < 1_000, "{}", reading.skew_ms());
        // This host's clock was set ahead by an hour since.
        let reading = ClockSample::new(now_ms() - 60_000 - 3_600_000, at);
        assert!((reading.skew_ms() + 3_600_000).abs() < 1_000, "{}", reading.skew_ms());
    }

    #[test]
    fn now_ms_is_past_2025() {
        assert!(now_ms() > 1_735_689_600_000);
    }

    proptest! {
        #[test]
        fn texts_sort_as_instants_do(a in -62_167_219_200_000_i64..253_402_300_800_000, b in -62_167_219_200_000_i64..253_402_300_800_000) {
            prop_assert_eq!(a.cmp(&b), rfc3339(a).cmp(&rfc3339(b)));
        }

        #[test]
        fn rfc3339_text_is_24_characters_wide(at in any::<i64>()) {
            prop_assert_eq!(rfc3339(at).len(), 24);
        }
    }
}
