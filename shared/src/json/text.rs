//! Converts a body to the JSON text that most receivers read from it.
//!
//! # Guarantees
//!
//! - Text that strict parsers and databases accept is borrowed (`plain_text_is_not_copied`).
//! - Text with replaced characters is owned, so callers can distinguish it from the body
//!   (`replaced_text_is_owned_and_strict_json`).

use std::borrow::Cow;

use memchr::memchr;

const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

/// The replacement character as an escape. It is as long as the escape that it replaces.
const REPLACEMENT: &str = "\\ufffd";

/// Length in bytes of an escape such as `\ufffd`.
const ESCAPE: usize = REPLACEMENT.len();

/// Returns the text of `body` as most receivers of JSON read it.
///
/// - A leading byte order mark is removed. A UTF-16 mark causes the text to be decoded.
/// - Trailing NUL characters are removed.
/// - Invalid UTF-8 and escaped lone surrogates become U+FFFD.
///
/// Nothing else changes, and invalid JSON stays invalid. The text is owned if characters were
/// replaced or decoded.
#[must_use]
pub fn text(body: &[u8]) -> Cow<'_, str> {
    match body {
        [0xff, 0xfe, rest @ ..] => return Cow::Owned(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => return Cow::Owned(utf16(rest, u16::from_be_bytes)),
        _ => {}
    }
    let mut body = body.strip_prefix(UTF8_BOM).unwrap_or(body);
    while let [rest @ .., 0] = body {
        body = rest;
    }
    match std::str::from_utf8(body) {
        Ok(text) => replace_lone_surrogates(text).map_or(Cow::Borrowed(text), Cow::Owned),
        Err(_) => {
            let text = String::from_utf8_lossy(body).into_owned();
            Cow::Owned(replace_lone_surrogates(&text).unwrap_or(text))
        }
    }
}

fn utf16(body: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = body.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let text: String =
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    replace_lone_surrogates(&text).unwrap_or(text)
}

/// Replaces each escaped lone surrogate in `text`. `None` if there is none.
fn replace_lone_surrogates(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let (mut out, mut copied, mut at) = (None::<String>, 0, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr(b'\\', rest)) {
        at += found;
        at += match unit(bytes, at) {
            None => 2,
            Some(0xd800..=0xdbff) if matches!(unit(bytes, at + ESCAPE), Some(0xdc00..=0xdfff)) => {
                2 * ESCAPE
            }
            Some(0xd800..=0xdfff) => {
                let out = out.get_or_insert_with(|| String::with_capacity(text.len()));
                out.push_str(text.get(copied..at).unwrap_or_default());
                out.push_str(REPLACEMENT);
                copied = at + ESCAPE;
                ESCAPE
            }
            Some(_) => ESCAPE,
        };
    }
    let mut out = out?;
    out.push_str(text.get(copied..).unwrap_or_default());
    Some(out)
}

/// UTF-16 unit of the escape at `at`, if there is an escape.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit: u16, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;
    use crate::json::Document;

    #[track_caller]
    fn check(body: &[u8], expected: &str) {
        assert_eq!(text(body), expected, "{}", String::from_utf8_lossy(body));
    }

    #[test]
    fn plain_text_is_not_copied() {
        for body in [
            "",
            "{}",
            r#"{"a":"\ud83d\ude00 \\ud83d \n\u00e9"}"#,
            "\u{feff}{}",
            "{}\0\0",
            "\u{1f600}",
        ] {
            assert!(matches!(text(body.as_bytes()), Cow::Borrowed(_)), "{body}");
        }
        check("\u{feff}{\"a\":1}".as_bytes(), "{\"a\":1}");
        check(b"{}\0\0", "{}");
    }

    #[test]
    fn halves_of_surrogate_pairs_are_replaced() {
        check(br#""cut \ud83d""#, r#""cut \ufffd""#);
        check(br#""\uDE00 low""#, r#""\ufffd low""#);
        check(br#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#);
        check(br#""\ud83d\u0041""#, r#""\ufffd\u0041""#);
        check(br#"{"\ud83dk":"\\\ud83d"}"#, r#"{"\ufffdk":"\\\ufffd"}"#);
        check(br#""\\ud83d""#, r#""\\ud83d""#);
        check(br#""\ud8"#, r#""\ud8"#);
        check(br"\", r"\");
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced() {
        check(b"{\"name\":\"caf\xe9\"}", "{\"name\":\"caf\u{fffd}\"}");
        check(b"\"\xed\xa0\xbd \\ud83d\"", "\"\u{fffd}\u{fffd}\u{fffd} \\ufffd\"");
    }

    #[test]
    fn utf16_is_decoded_behind_its_mark() {
        let json = "{\"name\":\"\u{e9}\u{1f600}\"}";
        let units: Vec<u16> = std::iter::once(0xfeff).chain(json.encode_utf16()).collect();
        let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        check(&little, json);
        check(&big, json);
        check(&[0xff, 0xfe, b'"', 0, 0x3d, 0xd8, b'"', 0], "\"\u{fffd}\"");
    }

    proptest! {
        #[test]
        fn replaced_text_is_owned_and_strict_json(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "\\ud83d", "\\ude00", "\\\\", "\\n", "x", "\\u0041", "\u{1f600}", "\\\"",
                ]),
                0..12,
            ),
        ) {
            let body = format!("[\"{}\"]", pieces.concat());
            let text = text(body.as_bytes());
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            prop_assert!(Document::parse_text(&text).is_ok());
            let is_strict = serde_json::from_str::<serde_json::Value>(&body).is_ok();
            prop_assert_eq!(matches!(text, Cow::Borrowed(_)), is_strict);
        }

        #[test]
        fn text_accepts_any_bytes(body in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = text(&body);
            let is_json = |body: &str| serde_json::from_str::<serde_json::Value>(body).is_ok();
            if std::str::from_utf8(&body).is_ok_and(is_json) {
                prop_assert_eq!(text.as_bytes(), &body[..]);
            }
        }
    }
}
