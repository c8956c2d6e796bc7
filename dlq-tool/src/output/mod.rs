//! Where data and talk go.
//!
//! Guarantee: stdout carries data and nothing else; what is said beside it goes to stderr. What providers and users
//! typed cannot move the cursor, colour or reorder the screen: see [`plain`].

pub(crate) mod body;
pub(crate) mod json;
pub(crate) mod table;

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use crate::cli::{Format, Global};

/// The two streams, and how to write on them.
#[derive(Debug)]
pub(crate) struct Screen {
    data: BufWriter<Stdout>,
    format: Format,
    color: bool,
}

impl Screen {
    /// As the command line and the environment want it.
    pub(crate) fn new(global: &Global) -> Self {
        let quiet = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            data: BufWriter::new(io::stdout()),
            format: global.output,
            color: !quiet && io::stdout().is_terminal(),
        }
    }

    /// The format that was asked for.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Whether there may be colours.
    pub(crate) fn is_colored(&self) -> bool {
        self.color
    }

    /// Writes data.
    pub(crate) fn write(&mut self, text: &str) -> io::Result<()> {
        self.data.write_all(text.as_bytes())
    }

    /// Writes data that need not be text.
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

    /// Hands over what was written: once per page, so that a slow selection shows what it has.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }
}

/// Says something beside the data. A closed stderr is nobody's loss.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Data that nobody reads any more are no failure: for what must go on, or has been done, after the reader left.
pub(crate) fn heard(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// `1 entry`, `2 entries`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `text` without power over the terminal: control characters and those that turn the writing direction are spelled out.
pub(crate) fn plain(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if !is_commanding(letter) => safe.push(letter),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            _ => {
                let _ = write!(safe, "\\u{:04x}", u32::from(letter));
            }
        }
    }
    safe
}

/// Whether a terminal would obey this character rather than show it.
fn is_commanding(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_provider_sends_commands_the_terminal() {
        assert_eq!(plain("grün ✓"), "grün ✓");
        assert_eq!(plain("a\x1b[2Jb\r\n\tc\u{9b}d\u{202e}e"), "a\\u001b[2Jb\\r\\n\\tc\\u009bd\\u202ee");
    }
}
