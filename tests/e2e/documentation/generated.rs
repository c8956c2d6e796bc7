//! Generated parts of the reference pages, and `env.local.example`.

use tests::reference::{WRITE_COMMAND, generated_files};

use super::page;

#[test]
fn generated_reference_is_current() {
    let files = generated_files(&page::root()).unwrap_or_else(|error| panic!("{error}"));
    let outdated: Vec<String> = files.iter().filter_map(|file| file.difference()).collect();
    assert!(outdated.is_empty(), "{}\nrun: {WRITE_COMMAND}", outdated.join("\n"));
}

#[test]
fn generated_lines_fit_into_100_columns() {
    let files = generated_files(&page::root()).unwrap_or_else(|error| panic!("{error}"));
    for file in &files {
        assert_eq!(file.long_lines(), Vec::<&str>::new(), "{}", file.path.display());
    }
}
