//! Parses offsets from UTC.

use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::Offset;

use super::millis;
use crate::event::Millis;

/// Offset from UTC of less than a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UtcOffset {
    seconds: i32,
}

/// Error for a text that is neither `UTC` nor an offset.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "must be \"UTC\" or an offset such as \"+02:00\" or \"-0530\"; instead of a zone's name, give \
     its offset"
)]
pub struct UtcOffsetError;

impl UtcOffset {
    /// The offset of UTC itself.
    pub const UTC: Self = Self { seconds: 0 };

    /// Returns the instant at which clocks of this offset show `at`.
    pub(super) fn instant(self, at: DateTime) -> Option<Millis> {
        let offset = Offset::from_seconds(self.seconds).ok()?;
        Some(millis(offset.to_timestamp(at).ok()?))
    }

    /// Parses `+hh:mm`, `+hhmm` or `+hh`, with optional seconds after the minutes. The hour may
    /// have one digit, unless minutes follow without a colon.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (sign, rest) = match text.split_at_checked(1)? {
            ("+", rest) => (1, rest),
            ("-", rest) => (-1, rest),
            _ => return None,
        };
        let (hours, minutes, seconds) =
            match (rest.split(':').collect::<Vec<_>>().as_slice(), rest.len()) {
                ([hours], 1 | 2) => (*hours, "0", "0"),
                ([_], 4) => (rest.get(..2)?, rest.get(2..)?, "0"),
                ([_], 6) => (rest.get(..2)?, rest.get(2..4)?, rest.get(4..)?),
                ([hours, minutes @ ..], _) if hours.len() <= 2 => match minutes {
                    [minutes] if minutes.len() == 2 => (*hours, *minutes, "0"),
                    [minutes, seconds] if minutes.len() == 2 && seconds.len() == 2 => {
                        (*hours, *minutes, *seconds)
                    }
                    _ => return None,
                },
                _ => return None,
            };
        let number = |digits: &str, end: i32| {
            let digits =
                Some(digits).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?;
            digits.parse::<i32>().ok().filter(|number| *number < end)
        };
        let seconds = number(hours, 24)? * 3600 + number(minutes, 60)? * 60 + number(seconds, 60)?;
        Some(Self { seconds: sign * seconds })
    }
}

impl FromStr for UtcOffset {
    type Err = UtcOffsetError;

    /// Parses `UTC`, or an offset of hours and minutes.
    fn from_str(text: &str) -> Result<Self, UtcOffsetError> {
        match text {
            "UTC" => Ok(Self::UTC),
            _ => Self::parse(text).filter(|_| text.len() >= "+0000".len()).ok_or(UtcOffsetError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_is_utc_or_hours_and_minutes() {
        for (text, seconds) in [
            ("UTC", 0),
            ("+00:00", 0),
            ("-00:00", 0),
            ("+02:00", 7200),
            ("-0530", -19_800),
            ("+14:00", 50_400),
            ("+05:53:28", 21_208),
        ] {
            assert_eq!(text.parse(), Ok(UtcOffset { seconds }), "{text}");
        }
        for text in [
            "",
            "utc",
            "GMT",
            "Z",
            "CET",
            "Europe/Berlin",
            "+2",
            "+02",
            "02:00",
            "+24:00",
            "+02:60",
            "+02:0",
            "+ 2:00",
            "++2:00",
            "+02:00:00:00",
            "+\u{e9}200",
            "+002:00",
        ] {
            assert_eq!(text.parse::<UtcOffset>(), Err(UtcOffsetError), "{text}");
        }
    }
}
