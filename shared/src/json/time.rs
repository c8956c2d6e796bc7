//! Provider times, however they are written.
//!
//! Guarantee: a time that is found lies after the epoch and before the year 10000, so every store can hold it.

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

use super::Node;
use crate::event::Millis;

/// The end of the year 9999, which RFC 3339 cannot write beyond.
const MAX: Millis = 253_402_300_799_999;

/// Units of a time in numbers: where the unit's range ends, and its power of ten in ms.
const UNITS: [(u128, i32); 4] = [
    (100_000_000_000, 3),
    (100_000_000_000_000, 0),
    (100_000_000_000_000_000, -3),
    (100_000_000_000_000_000_000, -6),
];

/// The time that `node` names, a text or a number: see [`parse_text`].
#[must_use]
pub fn parse(node: &Node<'_>) -> Option<Millis> {
    parse_text(&node.as_text()?)
}

/// The time that `text` names, in ms since the epoch, rounded down: RFC 3339 with an offset, or a number of seconds,
/// ms, µs or ns since the epoch, told apart by magnitude (each unit's range begins in 1973, where the one before it
/// would pass the year 5138). A time at or before the epoch is none: zero is how several senders write "absent".
#[must_use]
pub fn parse_text(text: &str) -> Option<Millis> {
    rfc3339(text).or_else(|| since_epoch(text))
}

/// RFC 3339 with an offset; `T`, `t` or a blank between date and time. Fractions below a ms are cut off.
#[must_use]
pub fn rfc3339(text: &str) -> Option<Millis> {
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    sane(at.unix_timestamp() * 1000 + Millis::from(at.millisecond()))
}

fn sane(at: Millis) -> Option<Millis> {
    (1..=MAX).contains(&at).then_some(at)
}

fn since_epoch(text: &str) -> Option<Millis> {
    let (mantissa, exponent) = decimal(text)?;
    let whole = shift(mantissa, exponent)?;
    let (_, to_ms) = UNITS.into_iter().find(|(end, _)| whole < *end)?;
    sane(Millis::try_from(shift(mantissa, exponent.checked_add(to_ms)?)?).ok()?)
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
