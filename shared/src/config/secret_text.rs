//! Cleans secrets of the characters that are pasted along with them.
//!
//! Typical cases are a trailing line break, quotation marks, and the byte order mark of an editor.

use std::fmt;
use std::ops::Range;

use zeroize::Zeroizing;

/// Pairs of quotation marks around a pasted text.
const QUOTES: [(char, char); 5] = [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’')];

/// A secret's text, as given and as probably meant. `Debug` shows neither form.
#[derive(Clone)]
pub struct SecretText {
    literal: Zeroizing<String>,
    /// Range of the text without the characters around it.
    clean: Range<usize>,
}

/// Kind of character around a secret's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Surroundings {
    /// A byte order mark.
    #[error("begins with a byte order mark")]
    ByteOrderMark,
    /// Quotation marks.
    #[error("is in quotation marks")]
    Quotes,
    /// A line break.
    #[error("has a line break at its beginning or end")]
    LineBreak,
    /// Other white space.
    #[error("has white space at its beginning or end")]
    WhiteSpace,
}

impl SecretText {
    /// Creates a text from the value as given.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        let literal = Zeroizing::new(text.into());
        let trimmed = trimmed(&literal);
        let begin = literal.len() - literal.trim_start_matches(is_surrounding).len();
        let clean = match quotation_marks(trimmed) {
            Some((open, close)) => {
                begin + open.len_utf8()..begin + trimmed.len() - close.len_utf8()
            }
            None => begin..begin + trimmed.len(),
        };
        Self { literal, clean }
    }

    /// The text without surrounding white space, byte order mark and one pair of quotation marks.
    #[must_use]
    pub fn clean(&self) -> &str {
        self.literal.get(self.clean.clone()).unwrap_or_default()
    }

    /// Returns true if the text has no character beside surrounding ones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        trimmed(self.clean()).is_empty()
    }

    /// The text as given.
    #[must_use]
    pub fn literal(&self) -> &str {
        &self.literal
    }

    /// Kind of character that surrounds the text. `None` if both forms are equal.
    #[must_use]
    pub fn remark(&self) -> Option<Surroundings> {
        if self.clean() == self.literal() {
            return None;
        }
        let inside = trimmed(&self.literal);
        let breaks = |text: &str| text.contains(['\n', '\r']);
        Some(if self.literal.starts_with('\u{feff}') {
            Surroundings::ByteOrderMark
        } else if quotation_marks(inside).is_some() {
            Surroundings::Quotes
        } else if self.literal.split(inside).any(breaks) {
            Surroundings::LineBreak
        } else {
            Surroundings::WhiteSpace
        })
    }

    /// The text without surrounding white space and byte order mark, but with quotation marks.
    #[must_use]
    pub fn trimmed(&self) -> &str {
        trimmed(&self.literal)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(is_surrounding)
}

fn is_surrounding(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}')
}

/// Quotation marks around `text`.
fn quotation_marks(text: &str) -> Option<(char, char)> {
    let around = |(open, close): &(char, char)| {
        text.strip_prefix(*open).is_some_and(|rest| rest.ends_with(*close))
    };
    QUOTES.into_iter().find(around)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_in_surroundings_has_two_forms_and_a_remark() {
        for (given, meant, remark) in [
            ("word\n", "word", Surroundings::LineBreak),
            ("\r\nword", "word", Surroundings::LineBreak),
            (" word", "word", Surroundings::WhiteSpace),
            ("word\t", "word", Surroundings::WhiteSpace),
            ("word\u{a0}", "word", Surroundings::WhiteSpace),
            ("\u{feff}word\r\n", "word", Surroundings::ByteOrderMark),
            ("\"word\"", "word", Surroundings::Quotes),
            ("'word'\n", "word", Surroundings::Quotes),
            ("“word”", "word", Surroundings::Quotes),
            ("\"\"", "", Surroundings::Quotes),
            (" \n", "", Surroundings::LineBreak),
        ] {
            let text = SecretText::new(given);
            assert_eq!(
                (text.clean(), text.literal(), text.remark()),
                (meant, given, Some(remark)),
                "{given:?}"
            );
        }
    }

    #[test]
    fn secret_without_surroundings_is_left_alone() {
        for given in ["word", "two words", "\"word", "word'", "'word\"", "\"", "a\nb", "x\"\"x", ""]
        {
            let text = SecretText::new(given);
            assert_eq!((text.clean(), text.remark()), (given, None), "{given:?}");
        }
    }

    #[test]
    fn secret_text_is_never_shown() {
        assert!(!format!("{:?}", SecretText::new("5ecret\n")).contains("5ecret"));
    }
}
