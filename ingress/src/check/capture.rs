//! Reads a captured request.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use shared::config::Problem;
use shared::json;

use crate::config::MAX_BODY_LIMIT;

/// Bound on the file of headers, in bytes.
const MAX_HEAD_BYTES: u64 = 1024 * 1024;

/// Captured request.
pub(super) struct Capture {
    /// Names in lower case, and values.
    pub(super) headers: Vec<(String, Vec<u8>)>,
    /// Body as sent.
    pub(super) body: Bytes,
}

impl Capture {
    /// Reads both files.
    ///
    /// # Errors
    /// The file that cannot be read, or the line that is no header.
    pub(super) fn read(headers: &Path, body: &Path) -> Result<Self, Problem> {
        let head = file(headers, MAX_HEAD_BYTES)?;
        let headers = head_lines(&without_mark(&head)).map_err(|line| {
            Problem::new(
                headers.display().to_string(),
                format_args!("line {line}: must be `Name: value`"),
            )
        })?;
        Ok(Self { headers, body: file(body, MAX_BODY_LIMIT as u64)?.into() })
    }
}

fn file(path: &Path, max: u64) -> Result<Vec<u8>, Problem> {
    let problem = |reason: String| Problem::new(path.display().to_string(), reason);
    let file =
        std::fs::File::open(path).map_err(|error| problem(format!("cannot be opened: {error}")))?;
    let mut content = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut content)
        .map_err(|error| problem(format!("cannot be read: {error}")))?;
    if content.len() as u64 > max {
        Err(problem(format!("is longer than {max} bytes")))
    } else {
        Ok(content)
    }
}

/// Returns `text` without a byte order mark. UTF-16 with a mark becomes UTF-8.
pub(super) fn without_mark(text: &[u8]) -> Cow<'_, [u8]> {
    match text {
        [0xef, 0xbb, 0xbf, rest @ ..] => Cow::Borrowed(rest),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Cow::Owned(json::text(text).into_owned().into_bytes())
        }
        _ => Cow::Borrowed(text),
    }
}

/// Parses headers as tools write them. Skips a request line, the `> ` of `curl -v`, and the pseudo
/// headers of HTTP/2. The error is the number of the first other line.
fn head_lines(text: &[u8]) -> Result<Vec<(String, Vec<u8>)>, usize> {
    let mut headers = Vec::new();
    for (index, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_prefix(b"> ").unwrap_or(line).trim_ascii();
        let first = index == 0
            && line
                .split(|b| *b == b' ')
                .next_back()
                .is_some_and(|word| word.starts_with(b"HTTP/"));
        if line.is_empty() || line == b">" || line.starts_with(b":") || first {
            continue;
        }
        let colon = line.iter().position(|b| *b == b':').ok_or(index + 1)?;
        let (name, value) =
            (line.get(..colon).unwrap_or_default(), line.get(colon + 1..).unwrap_or_default());
        let name = std::str::from_utf8(name).ok().filter(|name| is_token(name)).ok_or(index + 1)?;
        headers.push((name.to_ascii_lowercase(), value.trim_ascii().to_vec()));
    }
    Ok(headers)
}

/// Returns true if `name` is a header name by RFC 9110.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn capture_reads_headers_as_tools_write_them() {
        let expected = vec![
            ("mux-signature".to_owned(), b"t=1,v1=ab".to_vec()),
            ("host".to_owned(), b"a:80".to_vec()),
        ];
        for text in [
            "Mux-Signature: t=1,v1=ab\nHost: a:80\n",
            "mux-signature:t=1,v1=ab\r\n\r\nhost:  a:80 \r\n",
            "POST http://a:80/webhooks/mux HTTP/1.1\nMux-Signature: t=1,v1=ab\nHost: a:80",
            "> POST / HTTP/1.1\n> mux-signature: t=1,v1=ab\n> host: a:80\n>\n",
            ":method: POST\nmux-signature: t=1,v1=ab\n:path: /\nhost: a:80\n",
        ] {
            assert_eq!(head_lines(text.as_bytes()).unwrap(), expected, "{text}");
        }
        let text = "mux-signature: t=1,v1=ab\r\nhost: a:80\r\n";
        let utf16 = |unit: fn(u16) -> [u8; 2]| -> Vec<u8> {
            std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(unit).collect()
        };
        for file in [
            format!("\u{feff}{text}").into_bytes(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert_eq!(head_lines(&without_mark(&file)).unwrap(), expected);
        }
        for (text, line) in [("a: b\nno header", 2), ("{\"a\": 1}", 1), ("na me: x", 1)] {
            assert_eq!(head_lines(text.as_bytes()), Err(line), "{text}");
        }
    }
}
