//! Reads the files of this package: their paths, their code as a syntax tree, and the prose in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A sentence or a fragment of prose, and where it is.
pub struct Prose {
    pub line: usize,
    pub text: String,
    pub kind: Kind,
}

/// The kinds of text in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `///`, `//!` or `//`, consecutive lines joined.
    Comment,
    /// A string literal of the code: errors, log lines, help texts, HELP.
    Literal,
    /// A paragraph of a Markdown file, or a line of another file.
    Document,
}

/// The package's root directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below the root that people write, as paths relative to it, sorted.
pub fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let relative = path.strip_prefix(root()).unwrap().to_path_buf();
            if path.is_dir() {
                let generated =
                    matches!(name.as_str(), "target" | ".git" | "corpus" | "artifacts" | "seeds" | "vectors");
                // The rules quote the phrases that they forbid.
                if !generated && relative != Path::new("tests/house") && name != "ringpost-data" {
                    open.push(path);
                }
            } else if !matches!(name.as_str(), "Cargo.lock" | "LICENSE" | ".gitignore" | ".dockerignore") {
                found.push(relative);
            }
        }
    }
    found.sort();
    assert!(found.len() > 100, "only {} files", found.len());
    found
}

/// The Rust files below `dir`.
pub fn rust_files(dir: &str) -> Vec<PathBuf> {
    files().into_iter().filter(|path| path.starts_with(dir) && is_rust(path)).collect()
}

/// Whether this is a Rust file.
pub fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// The text of a file.
pub fn read(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The syntax tree of a Rust file.
pub fn parse(path: &Path) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Everything in a file that is written for people.
pub fn prose(path: &Path) -> Vec<Prose> {
    let text = read(path);
    if is_rust(path) { prose_of_rust(path, &text) } else { prose_of_document(path, &text) }
}

fn prose_of_rust(path: &Path, text: &str) -> Vec<Prose> {
    let tokens = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut spans = Vec::new();
    let mut prose = Vec::new();
    collect(tokens, text, &mut spans, &mut prose);
    spans.sort_unstable();
    // Comments are what lies between two tokens. Doc comments are tokens of their own: their text begins with a slash.
    let mut comments = Vec::new();
    let mut end = 0;
    for (from, to) in spans {
        if from > end {
            comments.push((end, &text[end..from]));
        }
        if text[from..].starts_with("//") {
            comments.push((from, &text[from..to]));
        }
        end = end.max(to);
    }
    comments.push((end, &text[end..]));
    prose.extend(join_comments(text, comments));
    prose
}

/// Collects the byte range of every token, and the literals.
fn collect(tokens: TokenStream, text: &str, spans: &mut Vec<(usize, usize)>, prose: &mut Vec<Prose>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => {
                let (open, close) = (group.span_open().byte_range(), group.span_close().byte_range());
                // A doc comment is `#[doc = ".."]` with the span of the comment on every token.
                if group.delimiter() == Delimiter::Bracket && text[open.start..].starts_with("//") {
                    spans.push((open.start, close.end));
                    continue;
                }
                spans.push((open.start, open.end));
                collect(group.stream(), text, spans, prose);
                spans.push((close.start, close.end));
            }
            TokenTree::Literal(literal) => {
                let span = literal.span();
                spans.push((span.byte_range().start, span.byte_range().end));
                if let Ok(string) = syn::parse_str::<syn::LitStr>(&literal.to_string()) {
                    prose.push(Prose { line: span.start().line, text: string.value(), kind: Kind::Literal });
                }
            }
            other => {
                let range = other.span().byte_range();
                spans.push((range.start, range.end));
            }
        }
    }
}

/// Joins comment lines that follow each other to one text. An empty comment line, a line of a table and a fenced block
/// end it.
fn join_comments(text: &str, pieces: Vec<(usize, &str)>) -> Vec<Prose> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    for (offset, piece) in pieces {
        let first = text[..offset].matches('\n').count() + 1;
        for (at, line) in piece.lines().enumerate() {
            let line = line.trim();
            if let Some(comment) = line.strip_prefix("//") {
                let comment = comment.trim_start_matches(['/', '!']).trim();
                lines.push((first + at, comment.to_owned()));
            }
        }
    }
    lines.dedup_by_key(|(number, _)| *number);
    paragraphs(lines, Kind::Comment)
}

fn prose_of_document(path: &Path, text: &str) -> Vec<Prose> {
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim().to_owned())).collect::<Vec<_>>();
    if path.extension().is_some_and(|extension| extension == "md") {
        return paragraphs(numbered, Kind::Document);
    }
    let is_prose =
        |line: &str| line.starts_with('#') || line.starts_with("//") || line.contains('"') || line.contains('>');
    numbered
        .into_iter()
        .filter(|(_, line)| is_prose(line))
        .map(|(line, text)| Prose {
            line,
            text: text.trim_start_matches(['#', '/', ' ']).to_owned(),
            kind: Kind::Document,
        })
        .collect()
}

/// Joins numbered lines to paragraphs, and leaves out fenced blocks.
fn paragraphs(lines: Vec<(usize, String)>, kind: Kind) -> Vec<Prose> {
    let mut joined: Vec<Prose> = Vec::new();
    let mut last = 0;
    let mut fenced = false;
    let mut after_heading = false;
    for (number, line) in lines {
        if line.starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let begins = ["#", "* ", "- ", "|", "> ", "1. ", "2. ", "3. ", "4. ", "5. ", "6. ", "7. ", "8. ", "9. "];
        let continues = number == last + 1 && !after_heading && !begins.iter().any(|begin| line.starts_with(begin));
        if fenced || line.is_empty() {
            continue;
        }
        let text = line.trim_start_matches(['#', '>', ' ']);
        match joined.last_mut() {
            Some(open) if continues => {
                open.text.push(' ');
                open.text.push_str(text);
            }
            _ => joined.push(Prose { line: number, text: text.to_owned(), kind }),
        }
        last = number;
        after_heading = kind == Kind::Comment && line.starts_with("# ") || line.starts_with("## ");
    }
    joined
}

/// Splits prose into sentences, without code in backticks.
pub fn sentences(text: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut open = String::new();
    let mut code = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        open.push(char);
        code ^= char == '`';
        let ends = matches!(char, '.' | '?' | '!') && chars.peek().is_none_or(|next| next.is_whitespace());
        let abbreviated = ["e.g.", "i.e.", "etc.", "vs.", ".."].iter().any(|short| open.ends_with(short));
        if ends && !code && !abbreviated {
            sentences.push(std::mem::take(&mut open).trim().to_owned());
        }
    }
    if !open.trim().is_empty() {
        sentences.push(open.trim().to_owned());
    }
    sentences
}

/// The text of a file, or nothing if it holds other bytes.
pub fn read_if_text(path: &Path) -> String {
    fs::read(root().join(path)).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}
