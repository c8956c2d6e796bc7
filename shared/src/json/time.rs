//! Reads times as senders write them.
//!
//! # Guarantees
//!
//! - A known time lies after the epoch and before the year 10000, so every store can hold it
//!   (`any_text_is_a_storable_time_or_none`).
//! - A value that is present and no time is [`EventTime::Unreadable`], never absent
//!   (`times_without_a_meaning_are_unreadable`).

use std::borrow::Cow;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::{rfc2822, strtime, temporal};
use jiff::tz::Offset;

use super::Node;
use crate::event::{EventTime, Millis};

/// End of the year 9999, the last that RFC 3339 can write.
const MAX: Millis = 253_402_300_799_999;

/// Units of a time in numbers: where the unit's range ends, and its power of ten in ms.
const UNITS: [(u128, i32); 4] = [
    (100_000_000_000, 3),
    (100_000_000_000_000, 0),
    (100_000_000_000_000_000, -3),
    (100_000_000_000_000_000_000, -6),
];

/// Forms with names of months that no standard describes: JavaScript's `toString`, Ruby's, Java's,
/// and those of `date` and C's `ctime`.
const NAMED: [&str; 5] = [
    "%a %b %d %Y %H:%M:%S GMT%z",
    "%a %b %d %H:%M:%S %z %Y",
    "%a %b %d %H:%M:%S UTC %Y",
    "%a %b %d %H:%M:%S GMT %Y",
    "%a %b %d %H:%M:%S %Y",
];

/// Years in which a number of 14 or 17 digits is a date and a time rather than a time since the
/// epoch, which it would put between the years 2570 and 2665.
const DATED_YEARS: std::ops::RangeInclusive<i16> = 1970..=2199;

/// Returns the known time that `node` names, see [`read_text`].
#[must_use]
pub fn parse(node: &Node<'_>) -> Option<Millis> {
    parse_text(&node.as_text()?)
}

/// Returns the known time that `text` names, see [`read_text`].
#[must_use]
pub fn parse_text(text: &str) -> Option<Millis> {
    read_text(text).known()
}

/// Reads the first usable one of several values. A value that is no text and no number is `None`.
#[must_use]
pub fn read_first<'t>(values: impl Iterator<Item = Option<Cow<'t, str>>>) -> EventTime {
    let mut found = EventTime::Absent;
    for value in values {
        match value.map_or(EventTime::Unreadable, |text| read_text(&text)) {
            EventTime::Known(at) => return EventTime::Known(at),
            EventTime::Unreadable => found = EventTime::Unreadable,
            EventTime::Absent => {}
        }
    }
    found
}

/// Reads a time, in ms since the epoch, rounded down.
///
/// - ISO 8601 in the extended or the basic format, with or without seconds, fractions and an
///   offset; RFC 3339; RFC 2822 and the dates of HTTP; what Go, JavaScript, Java, Ruby, .NET and
///   `date` print. A time without an offset is UTC, a date without a time is its midnight.
/// - A number of seconds, ms, µs or ns since the epoch, told apart by magnitude: each unit's range
///   begins in 1973, where the one before it would pass the year 5138. 14 or 17 digits that are
///   `YYYYMMDDhhmmss` and ms.
///
/// The empty text, zero, negative numbers, the epoch itself, and the zero times of Go, .NET and
/// MySQL are absent. Other times outside the years 1970 to 9999 are unreadable.
#[must_use]
pub fn read_text(text: &str) -> EventTime {
    // The form that most senders use comes first, without anything to be done beside it.
    if let Some(at) = rfc3339_instant(text) {
        return checked(at, text);
    }
    let text = text.trim();
    if let Some(at) = compact(text).or_else(|| since_epoch(text)) {
        return checked(at, text);
    }
    if says_nothing(text) {
        return EventTime::Absent;
    }
    lenient(text).map_or(EventTime::Unreadable, |at| checked(at, text))
}

/// RFC 3339 with an offset; `T`, `t` or a blank between date and time. Fractions below a ms are cut off.
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

fn checked(at: Millis, text: &str) -> EventTime {
    match at {
        1..=MAX => EventTime::Known(at),
        0 => EventTime::Absent,
        _ if says_nothing(text) => EventTime::Absent,
        _ => EventTime::Unreadable,
    }
}

/// Returns true if `text` is one of the values that stand for "no time".
fn says_nothing(text: &str) -> bool {
    let negative = || {
        text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
            && text.parse::<f64>().is_ok()
    };
    text.is_empty() || text.starts_with("0001-01-01") || text.starts_with("0000-00-00") || negative()
}

/// `YYYYMMDDhhmmss`, with or without ms.
fn compact(text: &str) -> Option<Millis> {
    if !matches!(text.len(), 14 | 17) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| text.get(from..to)?.parse::<i16>().ok();
    let small = |from: usize| i8::try_from(part(from, from + 2)?).ok();
    let year = part(0, 4).filter(|year| DATED_YEARS.contains(year))?;
    let at = DateTime::new(year, small(4)?, small(6)?, small(8)?, small(10)?, small(12)?, 0).ok()?;
    Some(in_utc(at)? + part(14, 17).map_or(0, Millis::from))
}

/// Any other form that has one meaning.
fn lenient(text: &str) -> Option<Millis> {
    if let Some(inner) = text.strip_prefix("/Date(").and_then(|rest| rest.strip_suffix(")/")) {
        // .NET's: ms; what follows a sign is the sender's zone and does not count.
        let ms = inner.split_once(['+', '-']).map_or(inner, |(ms, _)| ms);
        return ms.parse().ok();
    }
    if text.starts_with(|c: char| c.is_ascii_digit())
        && let Some(at) = iso8601(text)
    {
        return Some(at);
    }
    named(text)
}

/// ISO 8601 with what senders put around it: blanks, slashes in the date, names of zones behind or
/// instead of the offset, Go's monotonic clock.
fn iso8601(text: &str) -> Option<Millis> {
    let mut words = text.split_whitespace();
    let first = words.next()?;
    let mut joined =
        if first.as_bytes().get(4) == Some(&b'/') { first.replace('/', "-") } else { first.to_owned() };
    let mut has_time = first.len() > "2026-12-01".len();
    let mut has_offset = false;
    for word in words {
        let is_name = word.bytes().all(|b| b.is_ascii_alphabetic());
        if word.starts_with("m=") || has_offset && is_name {
            continue;
        }
        if !has_time && word.starts_with(|c: char| c.is_ascii_digit()) {
            joined.push('T');
            joined.push_str(word);
            has_time = true;
        } else if has_offset {
            return None;
        } else if matches!(word, "UTC" | "GMT" | "Z" | "z") {
            joined.push('Z');
            has_offset = true;
        } else if word.starts_with(['+', '-']) {
            joined.push_str(word);
            has_offset = true;
        } else {
            return None;
        }
    }
    for zone in ["UTC", "GMT"] {
        if let Some(rest) = joined.strip_suffix(zone) {
            joined = format!("{rest}Z");
        }
    }
    let pieces = temporal::DateTimeParser::new().parse_pieces(&joined).ok()?;
    let at = pieces.date().to_datetime(pieces.time().unwrap_or_default());
    match pieces.to_numeric_offset() {
        Some(offset) => Some(millis(offset.to_timestamp(at).ok()?)),
        None if pieces.time_zone_annotation().is_some() => None,
        None => in_utc(at),
    }
}

/// Forms with the name of a month.
fn named(text: &str) -> Option<Millis> {
    if let Ok(at) = httpdate::parse_http_date(text) {
        return Timestamp::try_from(at).ok().map(millis);
    }
    if let Ok(at) = rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(text) {
        return Some(millis(at));
    }
    // JavaScript adds the zone's name in the user's language.
    let text = text.split_once(" (").map_or(text, |(text, _)| text);
    NAMED.iter().find_map(|form| {
        let parsed = strtime::parse(form, text).ok()?;
        let at = parsed.to_datetime().ok()?;
        let offset = parsed.offset().unwrap_or(Offset::UTC);
        Some(millis(offset.to_timestamp(at).ok()?))
    })
}

fn in_utc(at: DateTime) -> Option<Millis> {
    Some(millis(Offset::UTC.to_timestamp(at).ok()?))
}

fn millis(at: Timestamp) -> Millis {
    // Before the epoch, jiff rounds towards it.
    at.as_nanosecond().div_euclid(1_000_000).try_into().unwrap_or(Millis::MIN)
}

fn since_epoch(text: &str) -> Option<Millis> {
    let (mantissa, exponent) = decimal(text)?;
    let whole = shift(mantissa, exponent)?;
    let (_, to_ms) = UNITS.into_iter().find(|(end, _)| whole < *end)?;
    Millis::try_from(shift(mantissa, exponent.checked_add(to_ms)?)?).ok()
}

/// A non-negative decimal number as `mantissa * 10^exponent`, exactly. Numbers of more than 38 digits are none.
fn decimal(text: &str) -> Option<(u128, i32)> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        split => split.unwrap_or((number, "")),
    };
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() + fraction.len() > 38 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mantissa =
        whole.bytes().chain(fraction.bytes()).fold(0, |sum: u128, digit| sum * 10 + u128::from(digit - b'0'));
    Some((mantissa, i32::checked_sub(exponent, i32::try_from(fraction.len()).ok()?)?))
}

/// `mantissa * 10^exponent`, rounded down; `None` where it does not fit.
fn shift(mantissa: u128, exponent: i32) -> Option<u128> {
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    if exponent >= 0 { mantissa.checked_mul(power?) } else { Some(power.map_or(0, |power| mantissa / power)) }
}

#[cfg(test)]
mod tests;
