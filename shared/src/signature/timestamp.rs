//! Parses the timestamp of a signature and compares it with the clock.
//!
//! # Guarantees
//!
//! - A request verifies exactly within the tolerance, in both directions
//!   (`request_verifies_exactly_within_the_tolerance`).

use std::time::Duration;

use super::spec::TimestampUnit;
use super::verify_error::VerifyError;
use crate::event::Millis;
use crate::json::time;

/// Longest number. In either unit it reaches beyond the year 30000.
const MAX_DIGITS: usize = 15;

/// Parses the timestamp of a signature. The text itself is signed, so each number has only one
/// spelling: digits without a leading zero.
pub(super) fn parse(unit: TimestampUnit, text: &[u8]) -> Result<Millis, VerifyError> {
    let parsed = match unit {
        TimestampUnit::Seconds => digits(text).and_then(|seconds| seconds.checked_mul(1000)),
        TimestampUnit::Millis => digits(text),
        TimestampUnit::Rfc3339 => std::str::from_utf8(text).ok().and_then(time::rfc3339),
    };
    parsed.ok_or(VerifyError::Malformed("timestamp"))
}

fn digits(text: &[u8]) -> Option<i64> {
    let plain = matches!(text, [b'1'..=b'9', ..]) && text.len() <= MAX_DIGITS;
    if !plain || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Checks that `at` is at most `tolerance` before or after `now`, in whole seconds. The error
/// carries `signature_valid`.
pub(super) fn check(
    at: Millis,
    now: Millis,
    tolerance: Duration,
    signature_valid: bool,
) -> Result<(), VerifyError> {
    let (received, current) = (at.div_euclid(1000), now.div_euclid(1000));
    let diff = current.saturating_sub(received).saturating_abs();
    if diff.unsigned_abs() <= tolerance.as_secs() {
        Ok(())
    } else {
        Err(VerifyError::OutsideTolerance { received, current, diff, signature_valid })
    }
}
