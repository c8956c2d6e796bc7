//! Generated parts of the reference pages, and `env.local.example`.
//!
//! A page is written by hand, except for what stands between two markers:
//!
//! ```text
//! <!-- begin generated: NAME; run: cargo run -p tests --bin reference -- --write -->
//! <!-- end generated -->
//! ```
//!
//! # Guarantees
//!
//! - Every page agrees with the code (`generated_reference_is_current`).
//! - Every section that this module can generate is in its page, once
//!   (`page_lacks_a_section_is_an_error`).
//! - The hand-written text of a page is never changed (`replaced_page_keeps_hand_written_text`).

mod command_line;
mod configuration;
mod error_codes;
mod markdown;
mod metrics;
mod platform_definition;
mod platforms;
mod sections;

use std::path::{Path, PathBuf};

pub use sections::SectionError;
use sections::{Section, replace_sections};

/// Command that updates all generated texts.
pub const WRITE_COMMAND: &str = "cargo run -p tests --bin reference -- --write";

/// Longest line of a generated text, in characters.
const MAX_COLUMNS: usize = 100;

/// Pages with generated sections.
const PAGES: &[(&str, &[Section])] = &[
    ("docs/reference/cli.md", command_line::SECTIONS),
    ("docs/reference/configuration.md", configuration::SECTIONS),
    ("docs/reference/error-codes.md", error_codes::SECTIONS),
    ("docs/reference/metrics.md", metrics::SECTIONS),
    ("docs/reference/platform-definition.md", platform_definition::SECTIONS),
    ("docs/reference/platforms.md", platforms::SECTIONS),
];

/// File with generated text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneratedFile {
    /// Path relative to the repository.
    pub path: PathBuf,
    /// Content of the file now.
    pub current: String,
    /// Content of the file as the code requires it.
    pub generated: String,
}

/// Failure to generate a file.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// The file cannot be read.
    #[error("{path}: cannot be read: {error}")]
    Read {
        /// Path relative to the repository.
        path: &'static str,
        /// Cause.
        error: std::io::Error,
    },
    /// The markers of the page are wrong.
    #[error("{path}: {error}")]
    Sections {
        /// Path relative to the repository.
        path: &'static str,
        /// Cause.
        error: SectionError,
    },
}

impl GeneratedFile {
    /// Describes the first line that is out of date, or returns `None` if the file is current.
    #[must_use]
    pub fn difference(&self) -> Option<String> {
        if self.current == self.generated {
            return None;
        }
        let (mut now, mut wanted) = (self.current.lines(), self.generated.lines());
        let mut number = 0;
        let (now, wanted) = loop {
            number += 1;
            match (now.next(), wanted.next()) {
                (None, None) => break ("", ""),
                (now, wanted) if now == wanted => {}
                (now, wanted) => break (now.unwrap_or_default(), wanted.unwrap_or_default()),
            }
        };
        let path = self.path.display();
        Some(format!("{path}:{number}: out of date\n  is:   {now}\n  must: {wanted}"))
    }

    /// Returns the generated lines that are too long.
    #[must_use]
    pub fn long_lines(&self) -> Vec<&str> {
        self.generated.lines().filter(|line| line.chars().count() > MAX_COLUMNS).collect()
    }
}

/// Generates all files for the repository in the folder `root`. Help texts come from the built
/// binaries.
///
/// # Errors
/// A file cannot be read, or the markers of a page are wrong.
///
/// # Panics
/// If the binaries have not been built.
pub fn generated_files(root: &Path) -> Result<Vec<GeneratedFile>, ReferenceError> {
    let mut files = Vec::new();
    for (path, sections) in PAGES {
        let current = read(root, path)?;
        let generated = replace_sections(&current, sections)
            .map_err(|error| ReferenceError::Sections { path, error })?;
        files.push(GeneratedFile { path: PathBuf::from(path), current, generated });
    }
    files.push(GeneratedFile {
        path: PathBuf::from(configuration::ENV_FILE),
        current: read(root, configuration::ENV_FILE)?,
        generated: configuration::env_file(),
    });
    Ok(files)
}

fn read(root: &Path, path: &'static str) -> Result<String, ReferenceError> {
    std::fs::read_to_string(root.join(path)).map_err(|error| ReferenceError::Read { path, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(current: &str, generated: &str) -> GeneratedFile {
        GeneratedFile {
            path: PathBuf::from("a.md"),
            current: current.to_owned(),
            generated: generated.to_owned(),
        }
    }

    #[test]
    fn difference_names_the_first_line() {
        assert_eq!(file("a\nb\n", "a\nb\n").difference(), None);
        let changed = file("a\nb\n", "a\nc\n").difference();
        assert_eq!(changed.as_deref(), Some("a.md:2: out of date\n  is:   b\n  must: c"));
        let longer = file("a\n", "a\nb\n").difference();
        assert_eq!(longer.as_deref(), Some("a.md:2: out of date\n  is:   \n  must: b"));
    }
}
