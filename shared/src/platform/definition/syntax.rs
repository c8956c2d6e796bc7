//! Parses the values of a definition: pointers, headers, durations and references to secrets.
//!
//! # Guarantees
//!
//! - No error repeats the text, since that may be a misplaced secret
//!   (`secret_ref_error_does_not_repeat_the_text`).

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use super::super::types::{Locator, Pointer, PointerError, SecretRef};

/// Longest pointer in bytes.
const MAX_POINTER_BYTES: usize = 1024;
/// Longest header name in bytes.
const MAX_HEADER_BYTES: usize = 128;

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if text.len() > MAX_POINTER_BYTES {
            return Err(PointerError);
        }
        if text.is_empty() {
            return Ok(Self { segments: Vec::new() });
        }
        let tail = text.strip_prefix('/').ok_or(PointerError)?;
        Ok(Self { segments: tail.split('/').map(unescape).collect::<Result<_, _>>()? })
    }
}

fn unescape(segment: &str) -> Result<String, PointerError> {
    let mut plain = String::with_capacity(segment.len());
    let mut chars = segment.chars();
    while let Some(char) = chars.next() {
        plain.push(match char {
            '~' => match chars.next() {
                Some('0') => '~',
                Some('1') => '/',
                _ => return Err(PointerError),
            },
            other => other,
        });
    }
    Ok(plain)
}

/// Parses a pointer to a part of the body.
pub(super) fn pointer(text: &str) -> Result<Pointer, String> {
    let pointer: Pointer = text.parse().map_err(|reason: PointerError| reason.to_string())?;
    if pointer.segments.is_empty() {
        return Err("must point to a part of the body, not to the whole body".to_owned());
    }
    Ok(pointer)
}

/// Parses a pointer to a part of the body or to the whole body.
pub(super) fn pointer_or_root(text: &str) -> Result<Pointer, PointerError> {
    text.parse()
}

/// Parses a pointer or `header:Name`.
pub(super) fn locator(text: &str) -> Result<Locator, String> {
    if text.starts_with("header:") {
        return header_ref(text).map(Locator::Header);
    }
    pointer(text).map(Locator::Body).map_err(|reason| format!("{reason}, or be header:Name"))
}

/// Parses `header:Name`. Returns the name in lower case.
pub(super) fn header_ref(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("header:").ok_or("must be header:Name")?;
    header(name)
}

/// Parses a header name. Returns it in lower case.
pub(super) fn header(name: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > MAX_HEADER_BYTES || !name.bytes().all(token) {
        return Err("must be the name of a header".to_owned());
    }
    Ok(name.to_ascii_lowercase())
}

/// Parses a duration such as `250ms`, `30s`, `5m`, `24h` or `7d`, from 1 ms to 366 days.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "must be a whole number with its unit: ms, s, m, h or d, such as \"5m\"";
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or(WRONG)?;
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(WRONG.to_owned()),
    };
    let ms =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms)).ok_or(WRONG)?;
    if (1..=366 * 86_400_000).contains(&ms) {
        Ok(Duration::from_millis(ms))
    } else {
        Err("must be at least 1ms and at most 366d".to_owned())
    }
}

/// Parses `env:NAME` or `file:path`. A relative path starts at `folder`.
pub(crate) fn secret_ref(text: &str, folder: Option<&Path>) -> Result<SecretRef, String> {
    if let Some(name) = text.strip_prefix("env:") {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.bytes().all(good)
        {
            return Err("env: must be followed by the name of an environment variable".to_owned());
        }
        return Ok(SecretRef::Env(name.to_owned()));
    }
    if let Some(path) = text.strip_prefix("file:") {
        if path.is_empty() {
            return Err("file: must be followed by a path".to_owned());
        }
        let path = folder.map_or_else(|| path.into(), |folder| folder.join(path));
        return Ok(SecretRef::File(path.to_string_lossy().into_owned()));
    }
    Err("must be env:NAME or file:path; the secret itself does not belong in this file".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn segments(text: &str) -> Option<Vec<String>> {
        pointer(text).ok().map(|pointer| pointer.segments)
    }

    #[test]
    fn pointers_are_rfc_6901_and_never_the_whole_body() {
        assert_eq!(segments("/a/b"), Some(vec!["a".into(), "b".into()]));
        assert_eq!(segments("/a~1b/~0~01"), Some(vec!["a/b".into(), "~~1".into()]));
        assert_eq!(segments("/"), Some(vec![String::new()]));
        for wrong in ["", "a", "a/b", "/~", "/~2", "/a~", "#/a", "$.a"] {
            assert_eq!(segments(wrong), None, "{wrong}");
        }
        assert_eq!(segments(&format!("/{}", "a".repeat(MAX_POINTER_BYTES))), None);
    }

    #[test]
    fn pointer_display_round_trips() {
        for text in ["", "/", "/a~1b/~0~01", "/data/0"] {
            assert_eq!(text.parse::<Pointer>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn locator_is_a_header_or_a_body_pointer() {
        assert_eq!(locator("header:X-Id"), Ok(Locator::Header("x-id".to_owned())));
        assert!(matches!(locator("/id"), Ok(Locator::Body(_))));
        for wrong in ["header:", "header:X Id", "header:X:Id", "Header:X", "id", ""] {
            assert!(locator(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn duration_requires_a_unit_and_has_bounds() {
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "1.5h",
            "0s",
            "367d",
            "99999999999999999999s",
            "5M",
            "18446744073709551615d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secret_ref_error_does_not_repeat_the_text() {
        let env = |name: &str| Ok(SecretRef::Env(name.to_owned()));
        let file = |path: &str| Ok(SecretRef::File(path.to_owned()));
        assert_eq!(secret_ref("env:ACME_1", None), env("ACME_1"));
        assert_eq!(secret_ref("file:/run/a", Some(Path::new("/etc"))), file("/run/a"));
        assert_eq!(secret_ref("file:a", Some(Path::new("/etc"))), file("/etc/a"));
        for wrong in [
            "hunter2",
            "env:",
            "env:1hunter2",
            "env:hunter2-x",
            "file:",
            "ENV:hunter2",
            "",
            "vault:hunter2",
        ] {
            let reason = secret_ref(wrong, None).unwrap_err();
            assert!(!reason.contains("hunter2"), "{reason}");
        }
    }
}
