//! Reads times that consist of digits: a number since the epoch, or a date without separators.

use jiff::civil::DateTime;

use super::{UtcOffset, checked};
use crate::event::{EventTime, Millis};

/// Smallest number of seconds that counts as a time (March 1973). Smaller numbers are years, dates,
/// counters and ids.
const MIN_EPOCH_SECONDS: u128 = 100_000_000;

/// Units of a number since the epoch: the end of the unit's range, and its power of ten in ms.
const UNITS: [(u128, i32); 4] = [
    (100_000_000_000, 3),
    (100_000_000_000_000, 0),
    (100_000_000_000_000_000, -3),
    (100_000_000_000_000_000_000, -6),
];

/// Last year of a date without separators.
const LAST_YEAR: i16 = 2199;

/// Reads a non-negative number. Returns `None` if `text` is not one.
pub(super) fn read(text: &str, default: UtcOffset) -> Option<EventTime> {
    if let Some(at) = common(text) {
        return Some(checked(at));
    }
    let (mantissa, exponent) = decimal(text.strip_prefix('+').unwrap_or(text))?;
    if mantissa == 0 {
        return Some(EventTime::Absent);
    }
    let at = compact(text, default).or_else(|| since_epoch(mantissa, exponent));
    Some(at.map_or(EventTime::Unreadable, checked))
}

/// Reads 10 digits as seconds and 13 digits as milliseconds since the epoch, as most senders write
/// them. [`since_epoch`] would read the same, with twice the instructions.
fn common(text: &str) -> Option<Millis> {
    let to_ms = match text.len() {
        10 => 1000,
        13 => 1,
        _ => return None,
    };
    let mut number: Millis = 0;
    for byte in text.bytes() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + Millis::from(digit);
    }
    (!text.starts_with('0')).then_some(number * to_ms)
}

/// Returns true for a negative number.
pub(super) fn is_negative(text: &str) -> bool {
    text.strip_prefix(['-', super::MINUS_SIGN]).is_some_and(|rest| {
        rest.starts_with(|c: char| c.is_ascii_digit()) && rest.parse::<f64>().is_ok()
    })
}

/// Reads `YYYYMMDD`, `YYYYMMDDhhmm` or `YYYYMMDDhhmmss`, the last one with 3 or 6 digits of its
/// fraction or without. A dot and a fraction may follow.
fn compact(text: &str, default: UtcOffset) -> Option<Millis> {
    let (digits, fraction) = text.split_once('.').unwrap_or((text, ""));
    // 8 and 12 digits may be a number since the epoch. Longer ones would be a time after 2570.
    let (first_year, last_unit_ms) = match digits.len() {
        8 => (1990, 0),
        12 => (1990, 60_000),
        14 => (1970, 1000),
        17 | 20 => (1970, 0),
        _ => return None,
    };
    if !is_digits(digits) || !is_digits(fraction) {
        return None;
    }
    let part = |from: usize, to: usize| {
        digits.get(from..to).map_or(Some(0), |part| part.parse::<i16>().ok())
    };
    let small = |from: usize| i8::try_from(part(from, from + 2)?).ok();
    let year = part(0, 4).filter(|year| (first_year..=LAST_YEAR).contains(year))?;
    let at =
        DateTime::new(year, small(4)?, small(6)?, small(8)?, small(10)?, small(12)?, 0).ok()?;
    let rest = match last_unit_ms {
        0 if fraction.bytes().all(|b| b == b'0') => Millis::from(part(14, 17)?),
        0 => return None,
        unit => portion(fraction, unit),
    };
    Some(default.instant(at)? + rest)
}

/// The part of `unit` that the digits after a dot represent, rounded down.
fn portion(fraction: &str, unit: Millis) -> Millis {
    let digits = fraction.bytes().take(9);
    let (value, scale) = digits.fold((0, 1), |(value, scale), digit| {
        (value * 10 + Millis::from(digit - b'0'), scale * 10)
    });
    value * unit / scale
}

fn since_epoch(mantissa: u128, exponent: i32) -> Option<Millis> {
    let whole = shift(mantissa, exponent).filter(|whole| *whole >= MIN_EPOCH_SECONDS)?;
    let (_, to_ms) = UNITS.into_iter().find(|(end, _)| whole < *end)?;
    Millis::try_from(shift(mantissa, exponent.checked_add(to_ms)?)?).ok()
}

/// Parses a non-negative decimal number exactly, as `mantissa * 10^exponent`. Refuses more than 38
/// digits.
fn decimal(text: &str) -> Option<(u128, i32)> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty()
        || whole.len() + fraction.len() > 38
        || !is_digits(whole)
        || !is_digits(fraction)
    {
        return None;
    }
    let mantissa = whole
        .bytes()
        .chain(fraction.bytes())
        .fold(0, |sum: u128, digit| sum * 10 + u128::from(digit - b'0'));
    Some((mantissa, i32::checked_sub(exponent, i32::try_from(fraction.len()).ok()?)?))
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// Computes `mantissa * 10^exponent`, rounded down. `None` on overflow.
fn shift(mantissa: u128, exponent: i32) -> Option<u128> {
    let power = 10_u128.checked_pow(exponent.unsigned_abs());
    if exponent >= 0 {
        mantissa.checked_mul(power?)
    } else {
        Some(power.map_or(0, |power| mantissa / power))
    }
}
