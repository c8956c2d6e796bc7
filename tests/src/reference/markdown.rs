//! Markdown of the generated sections.

use super::MAX_COLUMNS;

/// Table with the cells of `rows` under `heads`.
pub(super) fn table<const N: usize>(heads: [&str; N], rows: Vec<[String; N]>) -> String {
    let mut text = row(&heads.map(str::to_owned));
    text.push_str(&format!("|{}\n", "---|".repeat(N)));
    for cells in rows {
        text.push_str(&row(&cells));
    }
    text
}

fn row(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// List with the entries `items`, wrapped.
pub(super) fn list(items: impl IntoIterator<Item = String>) -> String {
    items.into_iter().map(|item| wrapped("- ", "  ", &item)).collect()
}

/// Paragraph, wrapped.
pub(super) fn paragraph(text: &str) -> String {
    wrapped("", "", text)
}

/// `text` in lines of at most [`MAX_COLUMNS`] characters. The first begins with `first`, the others
/// with `next`. Code spans stay on one line.
fn wrapped(first: &str, next: &str, text: &str) -> String {
    let mut lines = vec![first.to_owned()];
    let mut in_code = false;
    let mut word = String::new();
    let mut words = Vec::new();
    for c in text.chars() {
        in_code ^= c == '`';
        if c == ' ' && !in_code {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(c);
        }
    }
    words.push(word);
    for word in words.iter().filter(|word| !word.is_empty()) {
        let is_first = lines.len() == 1 && lines[0] == first;
        let last = lines.last_mut().expect("a line");
        let is_start = is_first || last == next;
        if !is_start && last.chars().count() + 1 + word.chars().count() > MAX_COLUMNS {
            lines.push(format!("{next}{word}"));
        } else {
            if !is_start {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}

/// `text` as code.
pub(super) fn code(text: impl std::fmt::Display) -> String {
    format!("`{text}`")
}

/// `texts` as code, joined by `by`.
pub(super) fn codes<T: std::fmt::Display>(texts: impl IntoIterator<Item = T>, by: &str) -> String {
    texts.into_iter().map(code).collect::<Vec<_>>().join(by)
}

/// Block of plain text, without blanks at the ends of lines.
pub(super) fn text_block(text: &str) -> String {
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    format!("```text\n{}\n```\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_wraps_at_100_columns_outside_code() {
        let word = "x".repeat(60);
        let text = list([format!("{word} `{word}` y"), "`a b` c".to_owned()]);
        assert_eq!(text, format!("- {word}\n  `{word}` y\n- `a b` c\n"));
        let long = list([format!("{} `a b`", "x".repeat(95))]);
        assert_eq!(long, format!("- {}\n  `a b`\n", "x".repeat(95)));
    }

    #[test]
    fn table_has_one_line_for_each_row() {
        let rows = vec![["1".to_owned(), "2".to_owned()]];
        assert_eq!(table(["a", "b"], rows), "| a | b |\n|---|---|\n| 1 | 2 |\n");
    }

    #[test]
    fn text_block_has_no_trailing_blanks() {
        assert_eq!(text_block("a  \n\n  b\n\n"), "```text\na\n\n  b\n```\n");
    }
}
