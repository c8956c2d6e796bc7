//! Times on the command line: RFC 3339, or an age (`15m`, `24h`).

use std::str::FromStr;

use shared::event::Millis;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// A time, absolute or as an age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeArg {
    /// Milliseconds since the epoch.
    At(Millis),
    /// Milliseconds before now.
    Ago(Millis),
}

/// Text that is neither a time nor an age.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("expected a time (2026-01-31T12:00:00Z) or an age (90s, 15m, 24h, 7d, 2w)")]
pub(crate) struct TimeArgError;

impl TimeArg {
    /// Returns the time in ms, counting back from `now`, the time of the server that stamped the
    /// dead letters.
    pub(crate) fn resolve(self, now: Millis) -> Millis {
        match self {
            Self::At(instant) => instant,
            Self::Ago(span) => now.saturating_sub(span),
        }
    }
}

impl FromStr for TimeArg {
    type Err = TimeArgError;

    fn from_str(text: &str) -> Result<Self, TimeArgError> {
        if let Some(span) = parse_ago(text) {
            return Ok(Self::Ago(span));
        }
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| TimeArgError)?;
        Millis::try_from(instant.unix_timestamp_nanos() / 1_000_000)
            .map(Self::At)
            .map_err(|_| TimeArgError)
    }
}

fn parse_ago(text: &str) -> Option<Millis> {
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let digits = text.strip_suffix(unit)?;
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<Millis>().ok()?.checked_mul(seconds * 1000)
}

/// Formats a time as `2026-01-31T12:00:00Z`, or as a number if it is outside the calendar.
pub(crate) fn format_seconds(instant: Millis) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    to_date_time(instant)
        .and_then(|when| when.format(format).ok())
        .unwrap_or_else(|| instant.to_string())
}

/// Formats a time as `2026-01-31T12:00:00.000Z`.
pub(crate) fn format_millis(instant: Millis) -> String {
    let format =
        format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    to_date_time(instant)
        .and_then(|when| when.format(format).ok())
        .unwrap_or_else(|| instant.to_string())
}

fn to_date_time(instant: Millis) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(instant) * 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn time_arg_span_counts_back_from_now() {
        assert_eq!("15m".parse(), Ok(TimeArg::Ago(900_000)));
        assert_eq!("24h".parse(), Ok(TimeArg::Ago(86_400_000)));
        assert_eq!("7d".parse(), Ok(TimeArg::Ago(604_800_000)));
        assert_eq!(TimeArg::Ago(900_000).resolve(1_000_000), 100_000);
    }

    #[test]
    fn time_arg_keeps_offset_and_milliseconds() {
        assert_eq!("1970-01-01T00:00:01.250Z".parse(), Ok(TimeArg::At(1250)));
        assert_eq!("1970-01-01T01:00:00+01:00".parse(), Ok(TimeArg::At(0)));
        assert_eq!(format_seconds(1250), "1970-01-01T00:00:01Z");
        assert_eq!(format_millis(1250), "1970-01-01T00:00:01.250Z");
    }

    #[test]
    fn time_arg_of_another_form_is_refused() {
        for text in [
            "",
            "m",
            "15",
            "-5m",
            "+5m",
            "1.5h",
            "15 m",
            "yesterday",
            "2026-01-31",
            "9223372036854775807w",
        ] {
            assert_eq!(text.parse::<TimeArg>(), Err(TimeArgError), "{text:?}");
        }
    }
}
