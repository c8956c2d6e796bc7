//! Converts JSON values of a body to the text of JSON columns.
//!
//! # Guarantees
//!
//! - Both databases store each text, PostgreSQL's `jsonb` included (`odd_values_are_stored`).
//! - The text is the value of the body, with U+FFFD in place of NUL characters
//!   (`nul_at_any_depth_becomes_a_replacement_character`).

use std::borrow::Cow;

use super::column_reader::ColumnValue;
use super::value::{has_nul, without_nul};
use super::warning::ColumnWarningReason;
use crate::json::{JsonNode, Value};

/// Most digits of a number in a JSON column when it is written without an exponent.
const MAX_DIGITS: usize = 1000;

/// Reads a string, number or boolean as JSON.
pub(super) fn scalar(node: &JsonNode<'_>) -> ColumnValue<String> {
    match node.value() {
        Value::String(_) | Value::Number(_) | Value::Bool(_) => json(node),
        Value::Null => ColumnValue::Absent,
        Value::Array(_) | Value::Object(_) => ColumnValue::Unusable(ColumnWarningReason::WrongType),
    }
}

/// Reads any JSON value. The text stays as written, unless databases refuse it.
pub(super) fn json(node: &JsonNode<'_>) -> ColumnValue<String> {
    if node.is_null() {
        return ColumnValue::Absent;
    }
    let mut check = StorableCheck::default();
    check.inspect(node);
    check.into_value(|rewritten| {
        if !rewritten {
            return node.raw().to_owned();
        }
        let mut text = String::with_capacity(node.raw().len());
        write(node, &mut text);
        text
    })
}

/// Reads an object without its `known` members. Reads any other JSON value whole.
pub(super) fn rest(node: &JsonNode<'_>, known: &[&str]) -> ColumnValue<String> {
    let Value::Object(members) = node.value() else { return json(node) };
    let unknown = || members.iter().filter(|(key, _)| !known.contains(&&**key));
    let mut check = StorableCheck::default();
    unknown().for_each(|member| check.inspect_member(member));
    check.into_value(|rewritten| {
        let mut text = String::from("{");
        for (key, node) in unknown() {
            if text.len() > 1 {
                text.push(',');
            }
            write_text(key, &mut text);
            text.push(':');
            if rewritten {
                write(node, &mut text);
            } else {
                text.push_str(node.raw());
            }
        }
        text.push('}');
        text
    })
}

/// Reasons for which a JSON value cannot be stored as written.
#[derive(Default)]
struct StorableCheck {
    /// The value has `\u0000`, which PostgreSQL refuses in a `jsonb`, keys included.
    nul: bool,
    /// The value has a lone surrogate, which PostgreSQL refuses. The document holds U+FFFD instead.
    replaced: bool,
    /// A number has too many digits. PostgreSQL expands `1e131071` to 128 KiB, and refuses more.
    huge: bool,
}

impl StorableCheck {
    fn inspect(&mut self, node: &JsonNode<'_>) {
        match node.value() {
            Value::Null | Value::Bool(_) => {}
            Value::Number(lexeme) => self.huge |= is_huge(lexeme),
            Value::String(text) => self.inspect_text(text, matches!(text, Cow::Owned(_))),
            Value::Array(items) => items.iter().for_each(|item| self.inspect(item)),
            Value::Object(members) => members.iter().for_each(|member| self.inspect_member(member)),
        }
    }

    fn inspect_member(&mut self, (key, node): &(Cow<'_, str>, JsonNode<'_>)) {
        self.inspect_text(key, matches!(key, Cow::Owned(_)));
        self.inspect(node);
    }

    /// Checks a string. Without escapes, it equals its text in the body, where JSON allows no NUL.
    fn inspect_text(&mut self, text: &str, escaped: bool) {
        if escaped {
            self.nul |= has_nul(text);
            self.replaced |= text.contains(char::REPLACEMENT_CHARACTER);
        }
    }

    /// Returns the text that `write` makes. Its argument is true if strings must be rewritten.
    fn into_value(self, write: impl FnOnce(bool) -> String) -> ColumnValue<String> {
        match self {
            Self { huge: true, .. } => ColumnValue::Unusable(ColumnWarningReason::OutOfRange),
            Self { nul: true, .. } => ColumnValue::Replaced(write(true)),
            Self { replaced, .. } => ColumnValue::Value(write(replaced)),
        }
    }
}

/// Writes `node`. Numbers stay as written, and strings lose their NUL characters.
fn write(node: &JsonNode<'_>, out: &mut String) {
    match node.value() {
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(node.raw()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (index, (key, node)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_text(key, out);
                out.push(':');
                write(node, out);
            }
            out.push('}');
        }
    }
}

/// Writes `text` as a JSON string without NUL characters.
fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(&*without_nul(text)).to_string());
}

fn is_huge(lexeme: &str) -> bool {
    let (digits, exponent) = lexeme.split_once(['e', 'E']).unwrap_or((lexeme, "0"));
    let exponent =
        exponent.parse::<i64>().map_or(usize::MAX, |exponent| exponent.unsigned_abs() as usize);
    digits.len().saturating_add(exponent) > MAX_DIGITS
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::json::Document;

    fn with<T>(json: &str, read: impl Fn(&JsonNode<'_>) -> T) -> T {
        read(Document::parse(json.as_bytes()).unwrap().root())
    }

    fn value(text: &str) -> ColumnValue<String> {
        ColumnValue::Value(text.to_owned())
    }

    #[test]
    fn json_keeps_its_text() {
        for text in [r#"{"a": [1.0]}"#, r#"{"a":["\\u0000"]}"#, r#""\u00e9""#] {
            assert_eq!(with(text, json), value(text));
        }
    }

    #[test]
    fn nul_at_any_depth_becomes_a_replacement_character() {
        for (text, expected) in [
            (r#"{"a": [{"b" :"\u0000x"}], "n": 1.0}"#, "{\"a\":[{\"b\":\"\u{fffd}x\"}],\"n\":1.0}"),
            (r#"{"\u0000": null, "b": true}"#, "{\"\u{fffd}\":null,\"b\":true}"),
            (r#""\u0000\"\n""#, "\"\u{fffd}\\\"\\n\""),
        ] {
            assert_eq!(with(text, json), ColumnValue::Replaced(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn text_with_a_replacement_character_is_rewritten() {
        assert_eq!(with("[\"\\ufffd\", 1.0]", json), value("[\"\u{fffd}\",1.0]"));
        assert_eq!(with("[\"\u{fffd}\", 1.0]", json), value("[\"\u{fffd}\", 1.0]"));
    }

    #[test]
    fn number_that_is_long_when_written_out_is_out_of_range() {
        assert_eq!(with("[1e100, -2.5E-3]", json), value("[1e100, -2.5E-3]"));
        for text in ["{\"a\":[1e131071]}", "1e-99999999999999999999"] {
            assert_eq!(
                with(text, json),
                ColumnValue::Unusable(ColumnWarningReason::OutOfRange),
                "{text}"
            );
        }
    }

    #[test]
    fn rest_of_an_object_is_what_has_no_column() {
        let rest = |text: &str| with(text, |node| rest(node, &["a", "b"]));
        let text = r#"{"a": 1, "c": {"a": 1.0}, "q\"": "x"}"#;
        assert_eq!(rest(text), value(r#"{"c":{"a": 1.0},"q\"":"x"}"#));
        assert_eq!(rest(r#"{"a": 1, "b": "\u0000"}"#), value("{}"));
        assert_eq!(rest(r#"["a"]"#), value(r#"["a"]"#));
        assert_eq!(
            rest(r#"{"c": "\u0000"}"#),
            ColumnValue::Replaced("{\"c\":\"\u{fffd}\"}".to_owned())
        );
        assert_eq!(rest(r#"{"\u0000": 1}"#), ColumnValue::Replaced("{\"\u{fffd}\":1}".to_owned()));
        assert_eq!(
            rest(r#"{"c": 1e5000}"#),
            ColumnValue::Unusable(ColumnWarningReason::OutOfRange)
        );
    }

    #[test]
    fn scalar_is_a_text_a_number_or_a_truth_value() {
        for text in ["\"a\"", "1.50", "false"] {
            assert_eq!(with(text, scalar), value(text));
        }
        assert_eq!(with("null", scalar), ColumnValue::Absent);
        for text in ["[]", "{}"] {
            assert_eq!(
                with(text, scalar),
                ColumnValue::Unusable(ColumnWarningReason::WrongType),
                "{text}"
            );
        }
    }
}
