//! Links and paths in the documents lead to files, headings and pages of rustdoc that exist.

use std::fs;
use std::path::Path;

use crate::{Document, ROOT, documents};

/// A link destination within the repository: the file, by its path below the root, and the heading, if any.
struct Destination {
    file: String,
    anchor: Option<String>,
}

impl Destination {
    /// Returns where a link of `document` leads, or `None` for a link to the web.
    fn new(document: &Document, link: &str) -> Option<Destination> {
        if link.starts_with("http") {
            return None;
        }
        let (file, anchor) =
            link.split_once('#').map_or((link, None), |(file, anchor)| (file, Some(anchor.to_owned())));
        let folder = document.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let file = match file {
            "" => document.path.clone(),
            _ => Path::new(folder).join(file).to_str().unwrap().to_owned(),
        };
        Some(Destination { file, anchor })
    }
}

/// Returns the link definitions of a document (`[label]: destination`).
fn definitions(document: &Document) -> Vec<(&str, &str)> {
    let lines = document.text.lines().filter(|line| line.starts_with('['));
    lines.filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).collect()
}

/// Returns the destinations of inline links: `[text](destination)`.
fn inline_links(document: &Document) -> Vec<&str> {
    document.text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)).collect()
}

/// Returns the anchors of a document's headings, as GitHub and rustdoc name them.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let allowed = |letter: &char| letter.is_alphanumeric() || "-_ ".contains(*letter);
    headings
        .map(|heading| heading.to_lowercase().chars().filter(allowed).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn links_lead_to_files_and_headings() {
    for document in documents() {
        let defined = definitions(&document).into_iter().map(|(_, link)| link);
        for link in inline_links(&document).into_iter().chain(defined) {
            let Some(Destination { file, anchor }) = Destination::new(&document, link) else { continue };
            let target = fs::read_to_string(Path::new(ROOT).join(&file));
            let target = target.unwrap_or_else(|error| panic!("{}: {link}: {error}", document.path));
            let found = anchor.is_none_or(|anchor| anchors(&target).contains(&anchor));
            assert!(found, "{}: {link}: there is no such heading", document.path);
        }
    }
}

/// In rustdoc, `src/docs.rs` gives the labels of links their meaning: pages of rustdoc in the place of files.
#[test]
fn links_between_pages_work_in_rustdoc() {
    let source = fs::read_to_string(Path::new(ROOT).join("src/docs.rs")).unwrap();
    for document in documents().iter().filter(|document| source.contains(&format!("\"../{}\"", document.path))) {
        for link in inline_links(document) {
            let works = link.starts_with('#') || link.starts_with("http");
            assert!(works, "{}: ({link}) works only on GitHub; use a label", document.path);
        }
        for (label, link) in definitions(document) {
            let Some(Destination { file, anchor }) = Destination::new(document, link) else { continue };
            let Some(page) = file.strip_suffix(".md") else { continue };
            let page = page.rsplit('/').next().unwrap().to_lowercase();
            let anchor = anchor.map(|anchor| format!("#{anchor}")).unwrap_or_default();
            let line = format!("[{label}]: crate::docs::{page}{anchor}\n");
            assert!(source.contains(&line), "{}: src/docs.rs lacks {line}", document.path);
        }
    }
}

#[test]
fn named_files_exist() {
    for document in documents() {
        for code in document.text.split('`').skip(1).step_by(2) {
            let path = code.split([' ', '\n']).next().unwrap();
            if ["scripts/", "docs/", "src/", "tests/", ".ci/"].iter().any(|folder| path.starts_with(folder)) {
                assert!(Path::new(ROOT).join(path).exists(), "{}: there is no `{path}`", document.path);
            }
        }
    }
}

#[test]
fn every_page_is_in_the_readme_and_in_rustdoc() {
    let source = fs::read_to_string(Path::new(ROOT).join("src/docs.rs")).unwrap();
    let readme = Document::read("README.md");
    for document in documents().iter().filter(|document| document.path.starts_with("docs/")) {
        let page = &document.path;
        assert!(definitions(&readme).iter().any(|(_, link)| link == page), "README.md has no link to {page}");
        assert!(source.contains(&format!("\"../{page}\"")), "src/docs.rs does not include {page}");
    }
}
