//! Parses the preference `wait` of RFC 7240.
//!
//! # Guarantees
//!
//! - A malformed header has no effect and is no error. (`prefer_wait_that_is_malformed_is_ignored`)
//! - The first of several `wait` counts, as the RFC says. Other preferences and parameters are
//!   skipped. (`prefer_wait_is_found_in_any_position`)

use actix_web::http::header::{HeaderMap, HeaderName};

static PREFER: HeaderName = HeaderName::from_static("prefer");

/// Returns the seconds that the sender is ready to wait; 0: not at all. `None`: no preference.
pub fn wait(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(&PREFER);
    values.find_map(|value| PreferScanner(value.as_bytes()).wait()).flatten()
}

/// Rest of a header's value.
struct PreferScanner<'v>(&'v [u8]);

/// Value of a preference.
enum PreferenceValue {
    Nothing,
    Text(Vec<u8>),
    Malformed,
}

impl PreferScanner<'_> {
    /// Returns the first `wait`. The inner `None` means that its value is malformed.
    fn wait(mut self) -> Option<Option<u64>> {
        while !self.0.is_empty() {
            self.spaces();
            let name = self.token();
            let mut setting =
                if self.punctuation(b'=') { self.word() } else { PreferenceValue::Nothing };
            self.spaces();
            if !matches!(self.0.first(), None | Some(b',' | b';')) {
                setting = PreferenceValue::Malformed;
            }
            self.skip_to_next();
            if name.eq_ignore_ascii_case(b"wait") {
                return Some(match setting {
                    PreferenceValue::Text(digits) => seconds(&digits),
                    PreferenceValue::Nothing | PreferenceValue::Malformed => None,
                });
            }
        }
        None
    }

    fn take(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn spaces(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn token(&mut self) -> Vec<u8> {
        let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        let end = self.0.iter().position(|b| !is_token(b)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        token.to_vec()
    }

    /// Consumes `sign` with the spaces around it. Returns false if something else follows.
    fn punctuation(&mut self, sign: u8) -> bool {
        let trimmed = self.0.trim_ascii_start();
        let found = trimmed.first() == Some(&sign);
        if found {
            self.0 = trimmed.get(1..).unwrap_or_default().trim_ascii_start();
        }
        found
    }

    /// Parses a token or a quoted string.
    fn word(&mut self) -> PreferenceValue {
        if self.0.first() != Some(&b'"') {
            return PreferenceValue::Text(self.token());
        }
        self.quoted().map_or(PreferenceValue::Malformed, PreferenceValue::Text)
    }

    /// Parses a quoted string. `None`: it does not end.
    fn quoted(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        self.take();
        loop {
            match self.take()? {
                b'"' => return Some(text),
                b'\\' => text.push(self.take()?),
                other => text.push(other),
            }
        }
    }

    /// Skips to the character after the next comma outside of quoted strings.
    fn skip_to_next(&mut self) {
        while let Some(first) = self.0.first() {
            match first {
                b'"' => {
                    if self.quoted().is_none() {
                        self.0 = &[];
                    }
                }
                b',' => {
                    self.take();
                    return;
                }
                _ => {
                    self.take();
                }
            }
        }
    }
}

fn seconds(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // A number that does not fit is longer than any wait.
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use actix_web::http::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn parsed(values: &[&[u8]]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers
                .append(HeaderName::from_static("prefer"), HeaderValue::from_bytes(value).unwrap());
        }
        wait(&headers)
    }

    #[test]
    fn prefer_wait_is_found_in_any_position() {
        let cases: &[(&[&str], u64)] = &[
            (&["wait=5"], 5),
            (&["WAIT=5"], 5),
            (&["wait=0"], 0),
            (&["wait=\"5\""], 5),
            (&["wait=\"\\5\""], 5),
            (&["  wait \t= 007 "], 7),
            (&["respond-async, wait=10"], 10),
            (&["return=minimal; foo=\"a, wait=1\"", ", ,wait=2; x=y"], 2),
            (&["foo=\"a, wait=9; \\\" \", wait=3"], 3),
            (&["handling=lenient", "respond-async", "wait=4"], 4),
            (&["wait=4, wait=5"], 4),
            (&["wait=1;wait=2"], 1),
            (&["waiting=1, no-wait=2, wait=3"], 3),
            (&["wait=99999999999999999999999"], u64::MAX),
        ];
        for (values, seconds) in cases {
            let bytes: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
            assert_eq!(parsed(&bytes), Some(*seconds), "{values:?}");
        }
    }

    #[test]
    fn prefer_wait_that_is_malformed_is_ignored() {
        for value in [
            "",
            ",",
            "wait",
            "wait=",
            "wait=\"\"",
            "wait=-1",
            "wait=+1",
            "wait=1.5",
            "wait=5s",
            "wait=1 2",
            "wait=\"5",
            "wait=\"5\"6",
            "wait=abc, wait=5",
            "wait:5",
            "=5",
            "foo; wait=5",
            "foo=\"wait=5",
            "foo=\", wait=5",
            "wait=٣",
        ] {
            assert_eq!(parsed(&[value.as_bytes()]), None, "{value}");
        }
        assert_eq!(parsed(&[]), None);
        assert_eq!(parsed(&[b"wait=\xff5"]), None);
    }

    proptest! {
        #[test]
        fn prefer_parser_terminates_on_any_value(
            value in proptest::collection::vec(0x20_u8..=0x7e, 0..40),
        ) {
            parsed(&[&value]);
        }
    }
}
