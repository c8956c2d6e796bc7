//! Converts JSON values of a body to column values.
//!
//! # Guarantees
//!
//! - Both databases store each value in its column (`odd_values_are_stored`).
//! - A [`ColumnWarningReason`] reveals nothing about the value.

use std::borrow::Cow;

use super::column_reader::ColumnValue;
use super::invalid_event::{InvalidEventError, MAX_KEY_BYTES, RequiredValue};
use super::warning::ColumnWarningReason;
use crate::event::{EventTime, Millis};
use crate::json::time::UtcOffset;
use crate::json::{JsonNode, Value, time};

/// Times that both databases and RFC 3339 represent: 0001-01-01 to the last millisecond of 9999.
const TIME_RANGE: std::ops::RangeInclusive<Millis> = -62_135_596_800_000..=253_402_300_799_999;

/// Refuses a text with NUL characters.
pub(super) fn storable(text: &str, what: RequiredValue) -> Result<(), InvalidEventError> {
    if has_nul(text) { Err(InvalidEventError::Nul { what }) } else { Ok(()) }
}

/// Checks one of the envelope's own times.
pub(super) fn in_range(at: Millis, what: RequiredValue) -> Result<(), InvalidEventError> {
    if TIME_RANGE.contains(&at) {
        Ok(())
    } else {
        Err(InvalidEventError::WrongType { what, expected: "a time" })
    }
}

/// Reads an index key: a string, or a number as written. Returns `None` for null and an empty text.
pub(super) fn key(node: &JsonNode<'_>) -> Result<Option<String>, ColumnWarningReason> {
    if node.is_null() {
        return Ok(None);
    }
    let text = node.as_text().ok_or(ColumnWarningReason::WrongType)?;
    if has_nul(&text) {
        return Err(ColumnWarningReason::NulCharacter);
    }
    // `json::text` may have replaced different bytes of several ids, so they would be equal here.
    // Nearly all ids are ASCII, which is faster to find out.
    if !text.is_ascii() && text.contains(char::REPLACEMENT_CHARACTER) {
        return Err(ColumnWarningReason::ReplacementCharacter);
    }
    if text.len() > MAX_KEY_BYTES {
        return Err(ColumnWarningReason::TooLong);
    }
    Ok(if text.is_empty() { None } else { Some(text.into_owned()) })
}

/// Reads a text. Numbers count as written.
pub(super) fn text(node: &JsonNode<'_>) -> ColumnValue<String> {
    match node.value() {
        Value::Null => ColumnValue::Absent,
        Value::String(text) if has_nul(text) => {
            ColumnValue::Replaced(without_nul(text).into_owned())
        }
        Value::String(text) => ColumnValue::Value(text.clone().into_owned()),
        Value::Number(lexeme) => ColumnValue::Value((*lexeme).to_owned()),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            ColumnValue::Unusable(ColumnWarningReason::WrongType)
        }
    }
}

/// Reads a text. A boolean, array or object becomes its JSON.
pub(super) fn wording(node: &JsonNode<'_>) -> ColumnValue<String> {
    match node.value() {
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            ColumnValue::Value(node.raw().to_owned())
        }
        Value::Null | Value::String(_) | Value::Number(_) => text(node),
    }
}

/// Reads a count: a whole number, as number or text. Senders write -1 for "unknown".
pub(super) fn count(node: &JsonNode<'_>) -> ColumnValue<Option<i64>> {
    /// Largest magnitude up to which a float identifies one whole number (2^53).
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let text = match numeric(node) {
        Ok(text) => text,
        Err(nothing) => return nothing,
    };
    if let Ok(whole) = text.parse::<i64>() {
        return non_negative(whole);
    }
    match decimal(text) {
        Err(reason) => ColumnValue::Unusable(reason),
        Ok(float) if float.fract() != 0.0 => ColumnValue::Unusable(ColumnWarningReason::WrongType),
        Ok(float) if float.abs() > EXACT => ColumnValue::Unusable(ColumnWarningReason::OutOfRange),
        #[allow(clippy::cast_possible_truncation, reason = "whole and within the exact range")]
        Ok(float) => non_negative(float as i64),
    }
}

/// Reads a number, as number or text. Senders write -1 for "unknown".
pub(super) fn number(node: &JsonNode<'_>) -> ColumnValue<Option<f64>> {
    match numeric(node) {
        Ok(text) => decimal(text).map_or_else(ColumnValue::Unusable, non_negative),
        Err(nothing) => nothing,
    }
}

/// Reads a number that may have a percent sign.
pub(super) fn progress(node: &JsonNode<'_>) -> ColumnValue<Option<f64>> {
    match numeric(node) {
        Ok(text) => {
            let text = text.strip_suffix('%').map_or(text, str::trim_end);
            decimal(text).map_or_else(ColumnValue::Unusable, non_negative)
        }
        Err(nothing) => nothing,
    }
}

/// Returns the trimmed text of a number, or the result for a value of another type.
fn numeric<'n, T>(node: &'n JsonNode<'_>) -> Result<&'n str, ColumnValue<T>> {
    match node.value() {
        Value::Null => Err(ColumnValue::Absent),
        Value::Number(lexeme) => Ok(lexeme),
        Value::String(text) => match text.trim() {
            "" => Err(ColumnValue::Unusable(ColumnWarningReason::Empty)),
            text => Ok(text),
        },
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            Err(ColumnValue::Unusable(ColumnWarningReason::WrongType))
        }
    }
}

/// Parses a finite number. Refuses forms that Rust alone accepts, such as `inf` and `NaN`.
fn decimal(text: &str) -> Result<f64, ColumnWarningReason> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c == '.' || c.is_ascii_digit()) {
        return Err(ColumnWarningReason::WrongType);
    }
    let number: f64 = text.parse().map_err(|_| ColumnWarningReason::WrongType)?;
    if number.is_finite() { Ok(number) } else { Err(ColumnWarningReason::OutOfRange) }
}

/// Reads -1 as unknown. Refuses other negative numbers, since no column has any.
fn non_negative<N: PartialOrd + From<i8>>(number: N) -> ColumnValue<Option<N>> {
    if number >= N::from(0) {
        ColumnValue::Value(Some(number))
    } else if number == N::from(-1) {
        ColumnValue::Unknown(None)
    } else {
        ColumnValue::Unusable(ColumnWarningReason::OutOfRange)
    }
}

/// Reads a time. Several senders write zero or an empty text for "absent". `default` is the offset
/// of a time without one.
pub(super) fn instant(node: &JsonNode<'_>, default: UtcOffset) -> ColumnValue<Millis> {
    let text = match node.value() {
        Value::Null => return ColumnValue::Absent,
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            return ColumnValue::Unusable(ColumnWarningReason::WrongType);
        }
        Value::String(text) => text,
        Value::Number(lexeme) => *lexeme,
    };
    match time::read_text(text, default) {
        EventTime::Known(at) => ColumnValue::Value(at),
        EventTime::Absent => ColumnValue::Absent,
        EventTime::Unreadable => ColumnValue::Unusable(ColumnWarningReason::UnreadableTime),
    }
}

pub(super) fn has_nul(text: &str) -> bool {
    text.as_bytes().contains(&0)
}

/// Returns `text` with U+FFFD in place of each NUL character.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if has_nul(text) { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::json::Document;

    fn with<T>(json: &str, read: impl Fn(&JsonNode<'_>) -> T) -> T {
        read(Document::parse(json.as_bytes()).unwrap().root())
    }

    fn wrong<T>() -> ColumnValue<T> {
        ColumnValue::Unusable(ColumnWarningReason::WrongType)
    }

    #[test]
    fn text_takes_strings_and_numbers_as_written() {
        assert_eq!(with("\"a\"", text), ColumnValue::Value("a".to_owned()));
        assert_eq!(with("1.50", text), ColumnValue::Value("1.50".to_owned()));
        assert_eq!(with("null", text), ColumnValue::Absent);
        for json in ["true", "[]", "{}"] {
            assert_eq!(with(json, text), wrong(), "{json}");
        }
    }

    #[test]
    fn text_with_nul_is_read_with_replacement_characters() {
        assert_eq!(
            with(r#""a\u0000b\u0000""#, text),
            ColumnValue::Replaced("a\u{fffd}b\u{fffd}".to_owned())
        );
        assert_eq!(with(r#""\u0000""#, wording), ColumnValue::Replaced("\u{fffd}".to_owned()));
    }

    #[test]
    fn key_is_bounded_and_an_empty_one_is_none() {
        let longest = format!("\"{}\"", "k".repeat(MAX_KEY_BYTES));
        assert_eq!(with(&longest, key).unwrap().unwrap().len(), MAX_KEY_BYTES);
        let longer = format!("\"{}\"", "k".repeat(MAX_KEY_BYTES + 1));
        assert_eq!(with(&longer, key), Err(ColumnWarningReason::TooLong));
        for json in ["\"\"", "null"] {
            assert_eq!(with(json, key), Ok(None), "{json}");
        }
        assert_eq!(with("7", key), Ok(Some("7".to_owned())));
        assert_eq!(with(r#""a\u0000""#, key), Err(ColumnWarningReason::NulCharacter));
        for json in ["\"caf\u{fffd}\"", r#""\ufffd""#] {
            assert_eq!(with(json, key), Err(ColumnWarningReason::ReplacementCharacter), "{json}");
        }
        assert_eq!(with("{}", key), Err(ColumnWarningReason::WrongType));
    }

    #[test]
    fn count_takes_whole_numbers_however_they_are_written() {
        for (json, expected) in [
            ("0", 0),
            ("-0", 0),
            ("12", 12),
            ("\" 12 \"", 12),
            ("\"+12\"", 12),
            ("12.0", 12),
            ("1e3", 1000),
        ] {
            assert_eq!(with(json, count), ColumnValue::Value(Some(expected)), "{json}");
        }
        assert_eq!(with("9223372036854775807", count), ColumnValue::Value(Some(i64::MAX)));
        for json in ["1.5", "\"x\"", "true", "\"NaN\"", "\"inf\"", "[1]", "\"1,234\"", "\"5%\""] {
            assert_eq!(with(json, count), wrong(), "{json}");
        }
        for json in ["9223372036854775808", "1e300", "1e999", "-5", "-9223372036854775808"] {
            assert_eq!(
                with(json, count),
                ColumnValue::Unusable(ColumnWarningReason::OutOfRange),
                "{json}"
            );
        }
    }

    #[test]
    fn number_is_finite_and_not_negative() {
        assert_eq!(with("1.25", number), ColumnValue::Value(Some(1.25)));
        assert_eq!(with("\" 330 \"", number), ColumnValue::Value(Some(330.0)));
        for json in ["\"NaN\"", "\"inf\"", "\"-inf\"", "false", "\"1:30\"", "\"50%\""] {
            assert_eq!(with(json, number), wrong(), "{json}");
        }
        for json in ["1e999", "-2.5"] {
            assert_eq!(
                with(json, number),
                ColumnValue::Unusable(ColumnWarningReason::OutOfRange),
                "{json}"
            );
        }
    }

    #[test]
    fn minus_one_is_an_unknown_number() {
        for json in ["-1", "-1.0", "\"-1\"", "\"-1.0\""] {
            assert_eq!(with(json, count), ColumnValue::Unknown(None), "{json}");
            assert_eq!(with(json, number), ColumnValue::Unknown(None), "{json}");
            assert_eq!(with(json, progress), ColumnValue::Unknown(None), "{json}");
        }
    }

    #[test]
    fn empty_text_is_no_number() {
        for json in ["\"\"", "\"  \""] {
            assert_eq!(
                with(json, count),
                ColumnValue::Unusable(ColumnWarningReason::Empty),
                "{json}"
            );
            assert_eq!(
                with(json, number),
                ColumnValue::Unusable(ColumnWarningReason::Empty),
                "{json}"
            );
        }
        assert_eq!(with("null", number), ColumnValue::Absent);
    }

    #[test]
    fn progress_may_have_a_percent_sign() {
        for (json, expected) in
            [("\"100%\"", 100.0), ("\" 37.5 % \"", 37.5), ("50", 50.0), ("\"0.5\"", 0.5)]
        {
            assert_eq!(with(json, progress), ColumnValue::Value(Some(expected)), "{json}");
        }
        for json in ["\"%\"", "\"50%%\"", "\"half\""] {
            assert_eq!(with(json, progress), wrong(), "{json}");
        }
    }

    #[test]
    fn time_of_several_forms_is_one_and_zero_is_absent() {
        let instant = |node: &JsonNode<'_>| instant(node, UtcOffset::UTC);
        for json in ["\"2026-01-02T03:04:05.006Z\"", "1767323045006", "\"1767323045.006\""] {
            assert_eq!(with(json, instant), ColumnValue::Value(1_767_323_045_006), "{json}");
        }
        for json in ["0", "-1", "\"0001-01-01T00:00:00Z\"", "\"\"", "\"0\"", "null"] {
            assert_eq!(with(json, instant), ColumnValue::Absent, "{json}");
        }
        let offset: UtcOffset = "-05:30".parse().unwrap();
        for (json, expected) in [
            ("\"2026-01-01T21:34:05.006\"", 1_767_323_045_006),
            ("\"2026-01-02T03:04:05.006Z\"", 1_767_323_045_006),
            ("1767323045006", 1_767_323_045_006),
        ] {
            assert_eq!(
                with(json, |node| super::instant(node, offset)),
                ColumnValue::Value(expected),
                "{json}"
            );
        }
        assert_eq!(
            with("\"yesterday\"", instant),
            ColumnValue::Unusable(ColumnWarningReason::UnreadableTime)
        );
        for json in ["[]", "true"] {
            assert_eq!(with(json, instant), wrong(), "{json}");
        }
    }

    #[test]
    fn wording_that_is_no_text_is_kept_as_json() {
        for (json, expected) in
            [("\"late\"", "late"), ("{\"a\": [1]}", "{\"a\": [1]}"), ("7", "7"), ("true", "true")]
        {
            assert_eq!(with(json, wording), ColumnValue::Value(expected.to_owned()));
        }
    }
}
