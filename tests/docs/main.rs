//! README.md and docs/: every command block runs as pasted, the tables of options and metrics are the code's, and every
//! link leads somewhere.
//!
//! `RINGPOST_UPDATE_DOCS=1 cargo test --test docs tables` rewrites the tables.

mod blocks;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod links;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A document, by its path below the root.
struct Document {
    path: String,
    text: String,
}

impl Document {
    fn read(path: &str) -> Document {
        let text = fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        Document { path: path.to_owned(), text }
    }
}

/// Returns every document that readers of the project see, sorted by path.
fn documents() -> Vec<Document> {
    let names = |directory: &str| {
        let entries = fs::read_dir(Path::new(ROOT).join(directory)).unwrap();
        let paths = entries.map(|entry| PathBuf::from(directory).join(entry.unwrap().file_name()));
        let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        paths.map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let mut paths = [names(""), names("docs")].concat();
    paths.sort();
    paths.iter().map(|path| Document::read(path)).collect()
}
