//! Output of data and messages.
//!
//! # Guarantees
//!
//! - Stdout carries data only; messages go to stderr.
//! - Text from providers and users cannot move the cursor, colour or reorder the screen: see
//!   [`escaped`] (`output_control_characters_are_escaped`).
//! - Escaped JSON means the same as before (`escaped_json_lines_parse_to_the_same_value`).

pub(crate) mod body;
pub(crate) mod json;
pub(crate) mod table;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::os::fd::AsFd;

pub(crate) use shared::visible::escaped;
use shared::visible::escaped_lines;

use crate::cli::{GlobalArgs, OutputFormat};

/// Buffered stdout, with the output format and the use of colours.
#[derive(Debug)]
pub(crate) struct OutputWriter {
    data: BufWriter<Stdout>,
    format: OutputFormat,
    color: bool,
}

impl OutputWriter {
    /// Creates the writer by the command line and `NO_COLOR`.
    pub(crate) fn new(global: &GlobalArgs) -> Self {
        let quiet =
            global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            data: BufWriter::new(io::stdout()),
            format: global.output,
            color: !quiet && io::stdout().is_terminal(),
        }
    }

    /// Returns the output format.
    pub(crate) fn format(&self) -> OutputFormat {
        self.format
    }

    /// Returns true if colours may be used.
    pub(crate) fn is_colored(&self) -> bool {
        self.color
    }

    /// Writes data.
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        self.data.write_all(text.as_bytes())
    }

    /// Writes data that may be binary.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.data.write_all(bytes)
    }

    /// Writes data as a heading.
    pub(crate) fn heading(&mut self, text: &str) -> io::Result<()> {
        match self.color {
            true => write!(self.data, "\x1b[1m{text}\x1b[0m"),
            false => self.write(text),
        }
    }

    /// Flushes, and returns after the data is on disk if stdout is a file.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.data.flush()?;
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        if file.metadata()?.is_file() { file.sync_data() } else { Ok(()) }
    }

    /// Flushes the data. Called once per page, so that a slow selection shows its first results.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }
}

/// Writes to stderr, with each line [`escaped`]. Ignores a closed stderr.
pub(crate) fn eprint_line(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", escaped_lines(text));
}

/// Turns a broken pipe into success, for runs that must continue after the reader of stdout has
/// left.
pub(crate) fn ignore_broken_pipe(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Formats a count with its noun: `1 entry`, `2 entries`.
pub(crate) fn count_noun(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Escapes the invisible characters in lines of JSON, without changing their meaning.
pub(crate) fn escaped_json_lines(lines: Vec<u8>) -> Vec<u8> {
    let is_plain = |byte: &u8| *byte == b'\n' || byte.is_ascii_graphic() || *byte == b' ';
    if lines.iter().all(is_plain) {
        return lines;
    }
    match String::from_utf8(lines) {
        Ok(text) => escaped_lines(&text).into_bytes(),
        Err(error) => error.into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use shared::visible::is_visible;

    use super::*;

    #[test]
    fn output_control_characters_are_escaped() {
        assert_eq!(escaped("grün ✓"), "grün ✓");
        assert_eq!(
            escaped("a\x1b[2Jb\r\n\tc\u{9b}d\u{202e}e"),
            "a\\u001b[2Jb\\r\\n\\tc\\u009bd\\u202ee"
        );
        assert_eq!(escaped("a\u{e0041}b\u{200b}c\u{ad}d"), "a\\udb40\\udc41b\\u200bc\\u00add");
    }

    #[test]
    fn escaped_json_lines_parse_to_the_same_value() {
        let text = "grün \u{7f}\u{9b}\u{202e}\u{2066}\u{e0041}\u{e0100}\u{200d} 日本 \n\t\"\\";
        let line = serde_json::to_vec(&serde_json::json!({ "body": text })).unwrap_or_default();
        let lines = [line.as_slice(), b"\n", line.as_slice(), b"\n"].concat();
        let escaped = String::from_utf8(escaped_json_lines(lines)).unwrap_or_default();
        assert!(escaped.chars().all(|c| c == '\n' || is_visible(c)), "{escaped:?}");
        assert_eq!(escaped.lines().count(), 2);
        for line in escaped.lines() {
            let read: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
            assert_eq!(read["body"], text);
        }
    }
}
