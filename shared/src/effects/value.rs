//! From JSON values to column values, with everything refused that a database would refuse.
//!
//! Guarantee: a value that passes is storable in its column on both databases. Errors name the place, never the value.

use crate::event::Millis;
use crate::json::{Node, Value, time};

use super::change::{InvalidEvent, MAX_KEY_BYTES};

/// 0001-01-01 and the last millisecond of 9999: what both databases and RFC 3339 can say.
const TIME_RANGE: std::ops::RangeInclusive<Millis> = -62_135_596_800_000..=253_402_300_799_999;

/// Digits that a number in a JSON column may need when it is written out.
const MAX_DIGITS: usize = 1000;

/// Refuses NUL characters.
pub(super) fn storable(text: &str, what: &'static str) -> Result<(), InvalidEvent> {
    if text.as_bytes().contains(&0) { Err(InvalidEvent::Nul { what }) } else { Ok(()) }
}

/// A text; numbers count as they are written.
pub(super) fn text(node: &Node<'_>, what: &'static str) -> Result<String, InvalidEvent> {
    let text = node.as_text().ok_or(InvalidEvent::WrongType { what, expected: "a text" })?;
    storable(&text, what)?;
    Ok(text.into_owned())
}

/// An index key. An empty one is none.
pub(super) fn key(node: &Node<'_>, what: &'static str) -> Result<Option<String>, InvalidEvent> {
    let text = text(node, what)?;
    if text.len() > MAX_KEY_BYTES {
        return Err(InvalidEvent::TooLong { what, max: MAX_KEY_BYTES });
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// A count: a whole number that is not negative, as number or text.
pub(super) fn count(node: &Node<'_>, what: &'static str) -> Result<i64, InvalidEvent> {
    /// 2^53: beyond it a float does not name one whole number.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let text = node.as_text().unwrap_or_default();
    let text = text.trim();
    let whole = text.parse::<i64>().ok().or_else(|| {
        let float = text.parse::<f64>().ok()?;
        #[allow(clippy::cast_possible_truncation, reason = "whole and within the exact range")]
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    });
    whole.filter(|whole| *whole >= 0).ok_or(InvalidEvent::WrongType { what, expected: "a count" })
}

/// A number, as number or text.
pub(super) fn number(node: &Node<'_>, what: &'static str) -> Result<f64, InvalidEvent> {
    let text = node.as_text().unwrap_or_default();
    let text = text.trim();
    let written_as_number = text.starts_with(|c: char| c == '-' || c == '.' || c.is_ascii_digit());
    let number = text.parse::<f64>().ok().filter(|number| written_as_number && number.is_finite());
    number.ok_or(InvalidEvent::WrongType { what, expected: "a number" })
}

/// A time; zero and empty are how several senders write "absent".
pub(super) fn instant(node: &Node<'_>, what: &'static str) -> Result<Option<Millis>, InvalidEvent> {
    let wrong = InvalidEvent::WrongType { what, expected: "a time" };
    match time::parse(node) {
        Some(at) if TIME_RANGE.contains(&at) => Ok(Some(at)),
        Some(_) => Err(wrong),
        None => match node.as_text() {
            Some(text) if says_nothing(text.trim()) => Ok(None),
            _ => Err(wrong),
        },
    }
}

/// Empty, zero, before the epoch, or Go's zero time: how several senders write "absent".
fn says_nothing(time: &str) -> bool {
    time.is_empty()
        || time.starts_with("0001-01-01T00:00:00")
        || time.parse::<f64>().is_ok_and(|number| number <= 0.0)
}

/// A text that says what it can: a string's text, anything else as JSON.
pub(super) fn wording(node: &Node<'_>, what: &'static str) -> Result<String, InvalidEvent> {
    match node.value() {
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Ok(node.raw().to_owned()),
        Value::Null | Value::String(_) | Value::Number(_) => text(node, what),
    }
}

/// A text, a number or a truth value, as JSON.
pub(super) fn scalar(node: &Node<'_>, what: &'static str) -> Result<String, InvalidEvent> {
    match node.value() {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => json(node, what),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(InvalidEvent::WrongType { what, expected: "a text, a number or a truth value" })
        }
    }
}

/// An object without the members `known`, as written; any other JSON value whole.
pub(super) fn rest(node: &Node<'_>, known: &[&str], what: &'static str) -> Result<String, InvalidEvent> {
    let Value::Object(members) = node.value() else { return json(node, what) };
    let mut rest = String::from("{");
    for (key, node) in members.iter().filter(|(key, _)| !known.contains(&&**key)) {
        if key.as_bytes().contains(&0) {
            return Err(InvalidEvent::Nul { what });
        }
        if rest.len() > 1 {
            rest.push(',');
        }
        rest.push_str(&serde_json::Value::from(&**key).to_string());
        rest.push(':');
        rest.push_str(&json(node, what)?);
    }
    rest.push('}');
    Ok(rest)
}

/// Any JSON value, as written.
pub(super) fn json(node: &Node<'_>, what: &'static str) -> Result<String, InvalidEvent> {
    if has_nul(node) {
        return Err(InvalidEvent::Nul { what });
    }
    if has_huge_number(node) {
        return Err(InvalidEvent::WrongType { what, expected: "JSON whose numbers have at most 1000 digits" });
    }
    Ok(node.raw().to_owned())
}

/// PostgreSQL writes the numbers of a `jsonb` out: eight bytes (`1e131071`) would become 128 KiB, and more are refused.
fn has_huge_number(node: &Node<'_>) -> bool {
    match node.value() {
        Value::Number(lexeme) => {
            let (digits, exponent) = lexeme.split_once(['e', 'E']).unwrap_or((lexeme, "0"));
            let exponent = exponent.parse::<i64>().map_or(usize::MAX, |exponent| exponent.unsigned_abs() as usize);
            digits.len().saturating_add(exponent) > MAX_DIGITS
        }
        Value::Array(items) => items.iter().any(has_huge_number),
        Value::Object(members) => members.iter().any(|(_, node)| has_huge_number(node)),
        _ => false,
    }
}

/// Checks one of the envelope's own times.
pub(super) fn in_range(at: Millis, what: &'static str) -> Result<(), InvalidEvent> {
    if TIME_RANGE.contains(&at) { Ok(()) } else { Err(InvalidEvent::WrongType { what, expected: "a time" }) }
}

/// `jsonb` refuses `\u0000` anywhere, keys included.
fn has_nul(node: &Node<'_>) -> bool {
    match node.value() {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.as_bytes().contains(&0),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(members) => members.iter().any(|(key, node)| key.as_bytes().contains(&0) || has_nul(node)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use crate::json::Document;

    use super::*;

    fn with<T>(json: &str, read: impl Fn(&Node<'_>, &'static str) -> T) -> T {
        read(Document::parse(json.as_bytes()).unwrap().root(), "x")
    }

    #[test]
    fn text_takes_strings_and_numbers_as_written() {
        assert_eq!(with("\"a\"", text).unwrap(), "a");
        assert_eq!(with("1.50", text).unwrap(), "1.50");
        for wrong in ["true", "[]", "{}"] {
            assert_eq!(
                with(wrong, text),
                Err(InvalidEvent::WrongType { what: "x", expected: "a text" }),
                "{wrong}"
            );
        }
        assert_eq!(with("\"a\\u0000b\"", text), Err(InvalidEvent::Nul { what: "x" }));
    }

    #[test]
    fn keys_are_bounded_and_an_empty_one_is_none() {
        let longest = format!("\"{}\"", "k".repeat(MAX_KEY_BYTES));
        assert_eq!(with(&longest, key).unwrap().unwrap().len(), MAX_KEY_BYTES);
        let longer = format!("\"{}\"", "k".repeat(MAX_KEY_BYTES + 1));
        assert_eq!(with(&longer, key), Err(InvalidEvent::TooLong { what: "x", max: MAX_KEY_BYTES }));
        assert_eq!(with("\"\"", key), Ok(None));
    }

    #[test]
    fn counts_are_whole_and_not_negative() {
        for (json, expected) in [("0", 0), ("12", 12), ("\"12\"", 12), ("12.0", 12), ("1e3", 1000)] {
            assert_eq!(with(json, count), Ok(expected), "{json}");
        }
        assert_eq!(with("9223372036854775807", count), Ok(i64::MAX));
        for wrong in ["-1", "1.5", "\"\"", "\"x\"", "1e300", "true", "\"NaN\"", "\"inf\""] {
            assert!(with(wrong, count).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_finite() {
        assert_eq!(with("1.25", number), Ok(1.25));
        assert_eq!(with("\"330\"", number), Ok(330.0));
        for wrong in ["\"NaN\"", "\"inf\"", "1e999", "\"\"", "null", "false"] {
            assert!(with(wrong, number).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_of_several_forms_are_one_and_zero_is_absent() {
        for json in ["\"2026-01-02T03:04:05.006Z\"", "1767323045006", "\"1767323045.006\""] {
            assert_eq!(with(json, instant), Ok(Some(1_767_323_045_006)), "{json}");
        }
        assert_eq!(with("0", instant), Ok(None));
        assert_eq!(with("\"\"", instant), Ok(None));
        for wrong in ["\"yesterday\"", "[]", "true"] {
            assert!(with(wrong, instant).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_error_that_is_no_text_is_kept_as_json() {
        for (json, expected) in
            [("\"late\"", "late"), ("{\"a\": [1]}", "{\"a\": [1]}"), ("7", "7"), ("true", "true")]
        {
            assert_eq!(with(json, wording).unwrap(), expected);
        }
        assert_eq!(with("\"\\u0000\"", wording), Err(InvalidEvent::Nul { what: "x" }));
    }

    #[test]
    fn the_rest_of_an_object_is_what_has_no_column() {
        let rest = |json: &str| with(json, |node, what| rest(node, &["a", "b"], what));
        assert_eq!(
            rest("{\"a\": 1, \"c\": {\"a\": 1.0}, \"q\\\"\": \"x\"}").unwrap(),
            "{\"c\":{\"a\": 1.0},\"q\\\"\":\"x\"}"
        );
        assert_eq!(rest("{\"a\": 1, \"b\": \"\\u0000\"}").unwrap(), "{}");
        assert_eq!(rest("[\"a\"]").unwrap(), "[\"a\"]");
        assert_eq!(rest("{\"c\": \"\\u0000\"}"), Err(InvalidEvent::Nul { what: "x" }));
        assert_eq!(rest("{\"\\u0000\": 1}"), Err(InvalidEvent::Nul { what: "x" }));
    }

    #[test]
    fn a_number_that_a_database_would_write_out_at_length_is_refused() {
        for (body, good) in
            [("[1e100, -2.5E-3]", true), ("{\"a\":[1e131071]}", false), ("1e-99999999999999999999", false)]
        {
            let document = Document::parse(body.as_bytes()).unwrap();
            assert_eq!(json(document.root(), "it").is_ok(), good, "{body}");
        }
    }

    #[test]
    fn zero_times_are_absent() {
        for body in ["0", "-1", "\"0001-01-01T00:00:00Z\"", "\"\"", "\"0\""] {
            let document = Document::parse(body.as_bytes()).unwrap();
            assert_eq!(instant(document.root(), "it"), Ok(None), "{body}");
        }
    }

    #[test]
    fn json_keeps_its_text_and_a_nul_is_found_at_any_depth() {
        assert_eq!(with("{\"a\": [1.0]}", json).unwrap(), "{\"a\": [1.0]}");
        assert_eq!(
            with("{\"a\":[\"\\\\u0000\"]}", json).unwrap(),
            "{\"a\":[\"\\\\u0000\"]}",
            "an escaped backslash"
        );
        for wrong in ["{\"a\":[{\"b\":\"\\u0000\"}]}", "{\"\\u0000\":1}"] {
            assert_eq!(with(wrong, json), Err(InvalidEvent::Nul { what: "x" }), "{wrong}");
        }
    }
}
