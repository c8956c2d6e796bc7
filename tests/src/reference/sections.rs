//! Sections between markers.

use super::WRITE_COMMAND;

/// Line that ends a section.
const END: &str = "<!-- end generated -->";
/// Start of the line that begins a section.
const BEGIN: &str = "<!-- begin generated: ";

/// A section: its name in the marker, and the function that generates its text.
pub(super) type Section = (&'static str, fn() -> String);

/// Wrong markers of a page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// A begin marker of an unknown form.
    #[error("line {0}: a section begins with `<!-- begin generated: NAME; run: COMMAND -->`")]
    Malformed(usize),
    /// A section that the code does not generate.
    #[error("section {0} is not one that the code generates")]
    Unknown(String),
    /// A section without an end.
    #[error("section {0} has no `<!-- end generated -->`")]
    Unclosed(String),
    /// An end without a beginning.
    #[error("line {0}: `<!-- end generated -->` has no beginning")]
    Unopened(usize),
    /// A section that occurs twice.
    #[error("section {0} occurs twice")]
    Repeated(String),
    /// A section that the page lacks.
    #[error("section {0} is missing: add its two markers")]
    Missing(&'static str),
}

/// Returns `page` with every section replaced by its generated text.
pub(super) fn replace_sections(page: &str, sections: &[Section]) -> Result<String, SectionError> {
    let mut text = String::with_capacity(page.len());
    let mut found: Vec<&'static str> = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if line.trim() == END {
            return Err(SectionError::Unopened(index + 1));
        }
        let Some(rest) = line.strip_prefix(BEGIN) else {
            text.push_str(line);
            text.push('\n');
            continue;
        };
        let (name, _) = rest.split_once(';').ok_or(SectionError::Malformed(index + 1))?;
        let unknown = || SectionError::Unknown(name.to_owned());
        let (name, generate) = sections.iter().find(|(one, _)| *one == name).ok_or_else(unknown)?;
        if found.contains(name) {
            return Err(SectionError::Repeated((*name).to_owned()));
        }
        found.push(name);
        if !lines.by_ref().any(|(_, line)| line.trim() == END) {
            return Err(SectionError::Unclosed((*name).to_owned()));
        }
        let generated = generate();
        text.push_str(&format!("{BEGIN}{name}; run: {WRITE_COMMAND} -->\n\n"));
        text.push_str(generated.trim_end());
        text.push_str(&format!("\n\n{END}\n"));
    }
    match sections.iter().find(|(name, _)| !found.contains(name)) {
        Some((name, _)) => Err(SectionError::Missing(name)),
        None => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTIONS: &[Section] = &[("one", || "1\n".to_owned()), ("two", || "2\n2".to_owned())];

    fn page(name: &str, text: &str) -> String {
        format!("{BEGIN}{name}; run: {WRITE_COMMAND} -->\n{text}{END}\n")
    }

    #[test]
    fn replaced_page_keeps_hand_written_text() {
        let before = format!("# A\n{}\nb\n\n{}c\n", page("one", ""), page("two", "\nold\n"));
        let after = replace_sections(&before, SECTIONS).expect("a page");
        let expected =
            format!("# A\n{}\nb\n\n{}c\n", page("one", "\n1\n\n"), page("two", "\n2\n2\n\n"));
        assert_eq!(after, expected);
        assert_eq!(replace_sections(&after, SECTIONS), Ok(after.clone()));
    }

    #[test]
    fn page_lacks_a_section_is_an_error() {
        let result = replace_sections(&page("one", ""), SECTIONS);
        assert_eq!(result, Err(SectionError::Missing("two")));
    }

    #[test]
    fn wrong_markers_are_errors() {
        for (text, expected) in [
            (page("three", ""), SectionError::Unknown("three".to_owned())),
            (format!("{BEGIN}one -->\n{END}\n"), SectionError::Malformed(1)),
            (format!("{BEGIN}one; -->\nx\n"), SectionError::Unclosed("one".to_owned())),
            (format!("x\n{END}\n"), SectionError::Unopened(2)),
            (page("one", "").repeat(2), SectionError::Repeated("one".to_owned())),
        ] {
            assert_eq!(replace_sections(&text, SECTIONS), Err(expected), "{text}");
        }
    }
}
