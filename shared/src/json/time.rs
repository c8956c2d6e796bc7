//! Reads times in the forms that senders use.
//!
//! # Guarantees
//!
//! - A known time is after the epoch and before the year 10000, so every store can hold it
//!   (`time_of_any_text_is_storable_or_none`).
//! - A present value that is not a time is [`EventTime::Unreadable`], never absent
//!   (`times_without_a_meaning_are_unreadable`).

mod date_text;
mod number;
mod offset;
mod words;

use std::borrow::Cow;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use jiff::Timestamp;

use super::JsonNode;
use crate::event::{EventTime, Millis};

pub use offset::{UtcOffset, UtcOffsetError};

/// End of the year 9999, the last year that RFC 3339 can represent.
const MAX: Millis = 253_402_300_799_999;

/// Instants that may be 0001-01-01T00:00:00, the zero time of Go and .NET, in some zone.
const ZERO_TIMES: std::ops::RangeInclusive<Millis> = {
    const ZERO: Millis = -62_135_596_800_000;
    const LARGEST_OFFSET: Millis = 14 * 3_600_000;
    ZERO - LARGEST_OFFSET..=ZERO + LARGEST_OFFSET
};

/// Reads the time in `node`, see [`parse_text`].
#[must_use]
pub fn parse(node: &JsonNode<'_>) -> Option<Millis> {
    parse_text(&node.as_text()?)
}

/// Reads a time, see [`read_text`]. A time without an offset is UTC.
#[must_use]
pub fn parse_text(text: &str) -> Option<Millis> {
    read_text(text, UtcOffset::UTC).known()
}

/// Reads the first usable one of several values, see [`read_text`]. `None` is a value that is
/// neither a text nor a number.
#[must_use]
pub fn read_first<'t>(
    values: impl Iterator<Item = Option<Cow<'t, str>>>,
    default: UtcOffset,
) -> EventTime {
    let mut found = EventTime::Absent;
    for value in values {
        match value.map_or(EventTime::Unreadable, |text| read_text(&text, default)) {
            EventTime::Known(at) => return EventTime::Known(at),
            EventTime::Unreadable => found = EventTime::Unreadable,
            EventTime::Absent => {}
        }
    }
    found
}

/// Reads a time, in ms since the epoch, rounded down.
///
/// `default` is the offset of a time without one. A date without a time of day is its midnight.
/// These forms are known:
///
/// - ISO 8601 calendar, ordinal and week dates in the extended or basic format, with or without a
///   time of day, RFC 3339, RFC 2822, and the dates of HTTP.
/// - The output of Go, JavaScript, Java, Ruby, PHP, .NET and `date`: year, month and day in this
///   order, or in any order with the month's English name. The time of day has 12 or 24 hours. A
///   numeric offset takes precedence over the name of a zone. Without one, the zone is `UTC`,
///   `GMT` or a zone of RFC 2822.
/// - A number of seconds, ms, µs or ns since the epoch. Its magnitude decides: each unit's range
///   begins in 1973, where the previous unit would pass the year 5138.
/// - 8, 12, 14, 17 or 20 digits: a date, with minutes, seconds, ms or µs.
///
/// The empty text, zero, negative numbers, the epoch itself, and the zero times of Go, .NET and
/// MySQL are absent. Other times outside the years 1970 to 9999 are unreadable, and so are numbers
/// that would be a time before 1973.
#[must_use]
pub fn read_text(text: &str, default: UtcOffset) -> EventTime {
    // Most senders use this form, so it is tried before any other work.
    if let Some(at) = rfc3339_instant(text) {
        return checked(at);
    }
    let text = text.trim();
    if let Some(time) = number::read(text, default) {
        return time;
    }
    if text.is_empty() || number::is_negative(text) || is_zero_date(text) {
        return EventTime::Absent;
    }
    if text.contains(MINUS_SIGN) {
        return read_text(&text.replace(MINUS_SIGN, "-"), default);
    }
    if let Some(ms) = dot_net(text) {
        return if ms < 0 { EventTime::Absent } else { checked(ms) };
    }
    date_text::read(text, default).map_or(EventTime::Unreadable, checked)
}

/// U+2212, the minus sign that ISO 8601 prefers to a hyphen.
const MINUS_SIGN: char = '\u{2212}';

/// Reads RFC 3339 with an offset, and `T`, `t` or a blank after the date. Truncates to ms.
#[must_use]
pub fn rfc3339(text: &str) -> Option<Millis> {
    rfc3339_instant(text).filter(|at| (1..=MAX).contains(at))
}

fn rfc3339_instant(text: &str) -> Option<Millis> {
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    Some(at.unix_timestamp() * 1000 + Millis::from(at.millisecond()))
}

fn checked(at: Millis) -> EventTime {
    match at {
        1..=MAX => EventTime::Known(at),
        0 => EventTime::Absent,
        _ if ZERO_TIMES.contains(&at) => EventTime::Absent,
        _ => EventTime::Unreadable,
    }
}

/// Returns true for a date of zeros only, such as MySQL's `0000-00-00 00:00:00`.
fn is_zero_date(text: &str) -> bool {
    text.len() >= "0000-00-00".len()
        && text.starts_with("00")
        && text
            .bytes()
            .all(|b| matches!(b, b'0' | b'-' | b'/' | b'.' | b':' | b'+' | b' ' | b'T' | b'Z'))
}

/// Milliseconds of .NET's `/Date(1796119200000+0200)/`. The sender's zone has no effect on them.
fn dot_net(text: &str) -> Option<Millis> {
    let inner = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
    let zone = inner.char_indices().skip(1).find(|(_, c)| matches!(c, '+' | '-'));
    inner.get(..zone.map_or(inner.len(), |(at, _)| at))?.parse().ok()
}

fn millis(at: Timestamp) -> Millis {
    // jiff rounds times before the epoch up.
    at.as_nanosecond().div_euclid(1_000_000).try_into().unwrap_or(Millis::MIN)
}

#[cfg(test)]
mod tests;
