//! Plain English in every text, and the shape of the files.

use std::path::Path;

use regex::RegexBuilder;

use crate::phrases::{BANNED, BANNED_BEGINNINGS};
use crate::source::{self, Kind};

/// The longest line of a file, in characters.
const LINE_LEN_MAX: usize = 120;

#[test]
fn no_text_uses_a_banned_phrase() {
    let regex = |pattern: &str| RegexBuilder::new(pattern).case_insensitive(true).build().unwrap();
    let banned: Vec<_> = BANNED
        .iter()
        .map(|phrase| (regex(phrase.pattern), phrase.allowed.iter().map(|it| regex(it)).collect::<Vec<_>>(), phrase))
        .collect();
    let any = regex(&BANNED.iter().map(|phrase| phrase.pattern).collect::<Vec<_>>().join("|"));
    let mut faults = Vec::new();
    for path in source::files().iter().filter(|path| has_prose(path)) {
        for prose in source::prose(path).iter().filter(|prose| any.is_match(&prose.text)) {
            for (pattern, allowed, phrase) in &banned {
                let excused: Vec<_> = allowed.iter().flat_map(|it| it.find_iter(&prose.text)).collect();
                for found in pattern.find_iter(&prose.text) {
                    if !excused.iter().any(|it| it.start() <= found.start() && found.end() <= it.end()) {
                        let (file, line, word) = (path.display(), prose.line, found.as_str());
                        let around = around(&prose.text, found.start());
                        faults.push(format!("{file}:{line}: \"{word}\" (say: {}): {around}", phrase.instead));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} banned phrases:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn no_sentence_begins_with_a_relative_pronoun() {
    let mut faults = Vec::new();
    for path in source::files().iter().filter(|path| has_prose(path)) {
        for prose in source::prose(path).iter().filter(|prose| prose.kind != Kind::Literal || prose.text.contains(' '))
        {
            for sentence in source::sentences(&prose.text) {
                let begin = sentence
                    .trim_start_matches(['*', '-', '|', ' ', '(', '1', '2', '3', '4', '5', '6', '7', '8', '9', '.']);
                let bad = BANNED_BEGINNINGS.iter().any(|word| begin.starts_with(word));
                if bad && !sentence.contains('?') {
                    faults.push(format!("{}:{}: {}", path.display(), prose.line, around(begin, 0)));
                }
            }
        }
    }
    assert!(
        faults.is_empty(),
        "{} sentences begin with a pronoun without a noun:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

#[test]
fn no_line_is_overlong() {
    let mut faults = Vec::new();
    // Written by the test of the documents.
    let generated = [Path::new("docs/options.md"), Path::new("docs/metrics.md")];
    for path in source::files().iter().filter(|path| has_prose(path) && !generated.contains(&path.as_path())) {
        for (at, line) in source::read(path).lines().enumerate() {
            // A table's row and a link can't be broken.
            let unbreakable = line.trim_start_matches(['/', '!', ' ']).starts_with('|')
                || line.contains("](")
                || line.contains("://");
            if line.chars().count() > LINE_LEN_MAX && !unbreakable {
                faults.push(format!("{}:{}: {} characters", path.display(), at + 1, line.chars().count()));
            }
        }
    }
    assert!(faults.is_empty(), "{} overlong lines:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_file_has_a_head() {
    let mut faults = Vec::new();
    for path in source::files() {
        let text = source::read_if_text(&path);
        let head = match path.extension().and_then(|it| it.to_str()) {
            Some("rs") => text.starts_with("//!") || text.starts_with("#!["),
            Some("sh" | "py") => text.lines().take(4).any(|line| line.starts_with("# ") || line.starts_with("\"\"\"")),
            None if text.starts_with("#!") => {
                text.lines().skip(1).take(3).any(|line| line.starts_with("# ") || line.starts_with("\"\"\""))
            }
            _ => true,
        };
        if !head {
            faults.push(path.display().to_string());
        }
    }
    assert!(faults.is_empty(), "files without a head that says what they are for:\n{}", faults.join("\n"));
}

/// Every folder is a whole module: `foo/mod.rs`, never `foo.rs` beside `foo/`.
#[test]
fn a_module_with_children_is_a_folder_with_a_mod_file() {
    let faults: Vec<_> = source::rust_files("src")
        .into_iter()
        .filter(|path| source::root().join(path.with_extension("")).is_dir())
        .map(|path| path.display().to_string())
        .collect();
    assert!(faults.is_empty(), "a file and a folder of the same name:\n{}", faults.join("\n"));
}

/// Prints 40 sentences at random, to be read aloud: `RINGPOST_SENTENCES=SEED` chooses them.
#[test]
#[ignore = "prints sentences for a person to read"]
fn prints_random_sentences() {
    let seed: u64 = std::env::var("RINGPOST_SENTENCES").map_or(1, |seed| seed.parse().unwrap());
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut sentences = Vec::new();
    for path in source::files().iter().filter(|path| has_prose(path)) {
        for prose in source::prose(path) {
            let long_enough = |it: &String| it.split_whitespace().count() >= 6;
            let found = source::sentences(&prose.text).into_iter().filter(long_enough);
            sentences.extend(found.map(|sentence| format!("{}:{}: {sentence}", path.display(), prose.line)));
        }
    }
    println!("seed {seed}, {} sentences", sentences.len());
    for _ in 0..40 {
        // Xorshift: a seed gives the same sentences on every machine.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let at = usize::try_from(state % sentences.len() as u64).unwrap();
        println!("{}", sentences.swap_remove(at));
    }
}

/// Whether a file holds texts that people read, in a form that this test can take apart.
fn has_prose(path: &Path) -> bool {
    let extension = path.extension().and_then(|it| it.to_str()).unwrap_or("");
    let data = matches!(extension, "json" | "hex" | "svg" | "lock" | "css" | "js" | "html" | "bin");
    !data && !source::read_if_text(path).is_empty()
}

/// The words around a place in a text.
fn around(text: &str, at: usize) -> String {
    let from = text[..at].char_indices().rev().nth(40).map_or(0, |(from, _)| from);
    let to = text[at..].char_indices().nth(60).map_or(text.len(), |(to, _)| at + to);
    text[from..to].replace('\n', " ")
}
