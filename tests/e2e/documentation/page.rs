//! Markdown pages of the repository, and what stands in them.

use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// One Markdown file.
pub(super) struct Page {
    /// Path relative to the repository.
    pub(super) path: PathBuf,
    /// Code blocks in their order.
    pub(super) blocks: Vec<CodeBlock>,
    /// Targets of links and images.
    pub(super) links: Vec<String>,
    /// Anchors of headings.
    pub(super) anchors: Vec<String>,
}

/// A fenced code block.
pub(super) struct CodeBlock {
    /// Text after the fence, such as `bash run`.
    pub(super) info: String,
    /// Content.
    pub(super) text: String,
}

/// Folder of the repository.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a parent").to_owned()
}

/// All Markdown pages that readers are meant to read: those of the root, of `docs` and of
/// `deploy`.
pub(super) fn all() -> Vec<Page> {
    let mut paths = Vec::new();
    for (folder, deep) in [("", false), ("docs", true), ("deploy", true), (".github", true)] {
        collect(&root().join(folder), deep, &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 60, "only {} pages were found", paths.len());
    paths.iter().map(|path| Page::read(path)).collect()
}

fn collect(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() && deep {
            collect(&path, deep, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

impl Page {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("a page");
        let mut page = Self {
            path: path.strip_prefix(root()).expect("a path in the repository").to_owned(),
            blocks: Vec::new(),
            links: Vec::new(),
            anchors: Vec::new(),
        };
        let mut heading: Option<String> = None;
        let mut block: Option<CodeBlock> = None;
        for event in Parser::new_ext(&text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { level: HeadingLevel::H1, .. }) => heading = None,
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.extend(heading.take().map(|text| anchor(&text, &page.anchors)));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    block = Some(CodeBlock { info: info.to_string(), text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.to_string());
                }
                Event::Text(text) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&text);
                    } else if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// Anchor of a heading, as mdBook and GitHub make it: lower case, hyphens for blanks, no other
/// punctuation than `_`, and a number if `taken` has it already.
fn anchor(heading: &str, taken: &[String]) -> String {
    let kept = heading.trim().chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    });
    let anchor = kept.collect::<String>().to_lowercase();
    let mut numbered = anchor.clone();
    let mut number = 0;
    while taken.contains(&numbered) {
        number += 1;
        numbered = format!("{anchor}-{number}");
    }
    numbered
}

#[test]
fn anchor_of_heading_is_that_of_the_renderer() {
    assert_eq!(
        anchor("Ten minutes: `PLATFORMS_FILE`, and more", &[]),
        "ten-minutes-platforms_file-and-more"
    );
    assert_eq!(anchor("Next", &["next".into(), "next-1".into()]), "next-2");
}
