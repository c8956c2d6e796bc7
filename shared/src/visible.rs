//! Detects and escapes characters that are invisible or change other text.
//!
//! A terminal executes control characters, and bidirectional characters reorder text. Tag
//! characters and variation selectors can hide a whole text.

use std::fmt::Write as _;

use unicode_general_category::{GeneralCategory, get_general_category};

/// Returns true if `c` is displayed as itself.
///
/// Control, format, tag, private and unassigned characters, line and paragraph separators, fillers
/// and variation selectors are not. The selectors of text and emoji style count as visible.
#[must_use]
pub fn is_visible(c: char) -> bool {
    use GeneralCategory as Is;
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let without_form = matches!(
        c,
        '\u{34f}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0d}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    );
    !without_form
        && !matches!(
            get_general_category(c),
            Is::Control
                | Is::Format
                | Is::LineSeparator
                | Is::ParagraphSeparator
                | Is::PrivateUse
                | Is::Surrogate
                | Is::Unassigned
        )
}

/// Replaces each invisible character in `text` with its JSON escape, so JSON keeps its meaning.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            _ if is_visible(c) => safe.push(c),
            '\n' => safe.push_str("\\n"),
            '\r' => safe.push_str("\\r"),
            '\t' => safe.push_str("\\t"),
            _ => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            }
        }
    }
    safe
}

/// As [`escaped`], but keeps line breaks.
#[must_use]
pub fn escaped_lines(text: &str) -> String {
    text.split('\n').map(escaped).collect::<Vec<_>>().join("\n")
}

/// Returns true if `text` has no visible character.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    !text
        .chars()
        .any(|c| is_visible(c) && !c.is_whitespace() && !matches!(c, '\u{fe0e}' | '\u{fe0f}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_any_script_is_visible() {
        for text in [
            "plain text!",
            "grün ✓",
            "日本語",
            "한국어",
            "हिन्दी",
            "e\u{301}",
            "🎬❤\u{fe0f}",
            "العربية",
        ] {
            let hidden: Vec<char> = text.chars().filter(|c| !is_visible(*c)).collect();
            assert!(hidden.is_empty() && !is_blank(text), "{text}: {hidden:?}");
        }
    }

    #[test]
    fn characters_that_change_others_are_invisible() {
        let ranges = [
            '\0'..='\u{1f}',
            '\u{7f}'..='\u{9f}',
            '\u{ad}'..='\u{ad}',
            '\u{61c}'..='\u{61c}',
            '\u{180e}'..='\u{180e}',
            '\u{200b}'..='\u{200f}',
            '\u{2028}'..='\u{202e}',
            '\u{2060}'..='\u{206f}',
            '\u{3164}'..='\u{3164}',
            '\u{e000}'..='\u{e0ff}',
            '\u{feff}'..='\u{feff}',
            '\u{fff9}'..='\u{fffb}',
            '\u{1d173}'..='\u{1d17a}',
            '\u{e0001}'..='\u{e007f}',
            '\u{e0100}'..='\u{e01ef}',
        ];
        for c in ranges.into_iter().flatten() {
            assert!(!is_visible(c), "{:x}", u32::from(c));
        }
    }

    #[test]
    fn text_of_nothing_visible_is_blank() {
        for text in [
            "",
            " ",
            "\n\t",
            "\u{200b}\u{feff}",
            "\u{3164}",
            "\u{a0}\u{2003}",
            "\u{e0041}",
            "\u{fe0f}",
        ] {
            assert!(is_blank(text), "{text:?}");
        }
    }
}
