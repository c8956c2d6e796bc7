//! Formats a body for reading.
//!
//! # Guarantees
//!
//! - JSON keeps the order of its keys and every digit of its numbers, because only the white space
//!   between tokens changes (`json_body_is_indented_and_otherwise_unchanged`).
//! - Other text is shown as it is, with control characters escaped
//!   (`body_control_characters_are_escaped`). Binary bodies are shown as a hex dump
//!   (`binary_body_is_dumped_up_to_a_bound`).

use std::fmt::Write as _;

use serde::de::IgnoredAny;

use shared::visible::is_visible;

use super::escaped;

/// Most bytes of a hex dump; `--output json` has all bytes.
const MAX_DUMPED_BYTES: usize = 1024;

/// Most levels of indentation. Without a bound, the output for nested brackets would grow with the
/// square of the body.
const MAX_INDENT_LEVELS: usize = 64;

/// Formats `body` as lines, without a final line break.
pub(crate) fn pretty(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok("") => "(empty)".to_owned(),
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => indented(text),
        Ok(text) => text.lines().map(escaped).collect::<Vec<_>>().join("\n"),
        Err(_) => dump(body),
    }
}

/// Indents `text`, which must be valid JSON.
fn indented(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0;
    let mut tokens = Tokens { rest: text }.peekable();
    while let Some(token) = tokens.next() {
        match token {
            "{" | "[" => {
                out.push_str(token);
                match tokens.next_if(|next| matches!(*next, "}" | "]")) {
                    Some(close) => out.push_str(close),
                    None => {
                        depth += 1;
                        break_line(&mut out, depth);
                    }
                }
            }
            "}" | "]" => {
                depth -= 1;
                break_line(&mut out, depth);
                out.push_str(token);
            }
            "," => {
                out.push(',');
                break_line(&mut out, depth);
            }
            ":" => out.push_str(": "),
            _ => push_escaped(&mut out, token),
        }
    }
    out
}

fn break_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth.min(MAX_INDENT_LEVELS)));
}

/// Appends a string or scalar. Invisible characters become JSON escapes of the same meaning.
fn push_escaped(out: &mut String, token: &str) {
    match token.chars().all(is_visible) {
        true => out.push_str(token),
        false => out.push_str(&escaped(token)),
    }
}

/// Iterator over the tokens of valid JSON.
struct Tokens<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let first = self.rest.bytes().next()?;
        let length = match first {
            b'{' | b'}' | b'[' | b']' | b',' | b':' => 1,
            b'"' => string_length(self.rest.as_bytes()),
            _ => self.rest.find([',', '}', ']', ' ', '\t', '\n', '\r']).unwrap_or(self.rest.len()),
        };
        let (token, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(token)
    }
}

/// Returns the length of the string at the beginning of `text`, including both quotes.
fn string_length(text: &[u8]) -> usize {
    let mut escaped = false;
    let end = text.iter().skip(1).position(|byte| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    });
    end.map_or(text.len(), |position| position + 2)
}

fn dump(body: &[u8]) -> String {
    let mut out = format!("({} bytes, not text)", body.len());
    for (row, bytes) in body.chunks(16).take(MAX_DUMPED_BYTES / 16).enumerate() {
        let _ = write!(out, "\n{:06x} ", row * 16);
        for byte in bytes {
            let _ = write!(out, " {byte:02x}");
        }
        let gap = 3 * (16 - bytes.len()) + 2;
        let shown =
            bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' });
        out.extend(std::iter::repeat_n(' ', gap).chain(shown));
    }
    if body.len() > MAX_DUMPED_BYTES {
        let _ =
            write!(out, "\n… {} more bytes; --output json has them", body.len() - MAX_DUMPED_BYTES);
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn json_body_is_indented_and_otherwise_unchanged() {
        let body = concat!(
            r#" {"z":1.10e2,"a" : [ 18446744073709551616 , {} ,[ ]],"#,
            r#""t":"a, {b}\\ \"c\"","n":null} "#
        );
        let expected = r#"{
  "z": 1.10e2,
  "a": [
    18446744073709551616,
    {},
    []
  ],
  "t": "a, {b}\\ \"c\"",
  "n": null
}"#;
        assert_eq!(pretty(body.as_bytes()), expected);
    }

    #[test]
    fn scalar_body_is_printed() {
        assert_eq!(pretty(b" 42 "), "42");
        assert_eq!(pretty(br#""a b""#), r#""a b""#);
        assert_eq!(pretty(b""), "(empty)");
    }

    #[test]
    fn body_control_characters_are_escaped() {
        assert_eq!(pretty("{\"a\":\"\u{9b}2J\"}".as_bytes()), "{\n  \"a\": \"\\u009b2J\"\n}");
        assert_eq!(pretty(b"{\x1b[2J\nsecond"), "{\\u001b[2J\nsecond");
        assert_eq!(pretty("\"\u{202e}\u{e0041}\"".as_bytes()), "\"\\u202e\\udb40\\udc41\"");
    }

    #[test]
    fn binary_body_is_dumped_up_to_a_bound() {
        assert_eq!(
            pretty(b"\xff\x00ab"),
            "(4 bytes, not text)\n000000  ff 00 61 62                                      ..ab"
        );
        let long = pretty(&[0xff; MAX_DUMPED_BYTES + 5]);
        assert_eq!(long.lines().count(), 1 + MAX_DUMPED_BYTES / 16 + 1);
        assert!(long.ends_with("… 5 more bytes; --output json has them"));
    }
}
