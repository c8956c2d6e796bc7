//! Links between pages, and the table of contents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::page::{self, Page};

#[test]
fn documentation_links_resolve() {
    let pages = page::all();
    let anchors: BTreeMap<&Path, &Vec<String>> =
        pages.iter().map(|page| (page.path.as_path(), &page.anchors)).collect();
    let mut broken = Vec::new();
    for page in &pages {
        for link in page.links.iter().filter(|link| !is_elsewhere(link)) {
            if let Some(problem) = problem_of(page, link, &anchors) {
                broken.push(format!("{}: {link}: {problem}", page.path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn documentation_pages_are_in_the_summary() {
    let pages = page::all();
    let summary = Path::new("docs/SUMMARY.md");
    let listed: BTreeSet<PathBuf> = pages
        .iter()
        .filter(|page| page.path == summary)
        .flat_map(|page| page.links.iter().map(|link| target(page, link)))
        .collect();
    let written: BTreeSet<PathBuf> = pages
        .iter()
        .map(|page| page.path.clone())
        .filter(|path| path.starts_with("docs") && path != summary)
        .collect();
    assert_eq!(written, listed);
}

/// Links to other sites are not followed: the tests stay on this machine.
fn is_elsewhere(link: &str) -> bool {
    ["http://", "https://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
}

fn problem_of(
    page: &Page,
    link: &str,
    anchors: &BTreeMap<&Path, &Vec<String>>,
) -> Option<&'static str> {
    let path = target(page, link);
    if !page::root().join(&path).exists() {
        return Some("no such file");
    }
    let (_, anchor) = link.split_once('#')?;
    let known = anchors.get(path.as_path());
    known.is_none_or(|known| !known.iter().any(|one| one == anchor)).then_some("no such anchor")
}

/// File that `link` leads to, relative to the repository.
fn target(page: &Page, link: &str) -> PathBuf {
    let file = link.split('#').next().unwrap_or_default();
    if file.is_empty() {
        return page.path.clone();
    }
    let mut path = PathBuf::new();
    for part in page.path.parent().expect("a folder").join(file).components() {
        match part {
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}
