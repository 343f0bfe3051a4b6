//! The fenced blocks of a document, and what the words after their language mean. It knows nothing of how blocks run.

use crate::Document;

/// A fenced block.
pub struct Block {
    /// The first word of the info string.
    pub language: String,
    /// The other words of the info string, and for `rust,no_run` what follows the comma.
    pub marks: Vec<String>,
    /// The line of the opening fence, from 1.
    pub line: usize,
    pub text: String,
}

/// How the test treats a block of commands.
#[derive(Debug, PartialEq)]
pub enum Kind {
    /// It runs in the test.
    Runs,
    /// It runs in the test if the test runs as root.
    NeedsRoot,
    /// It runs for too long. The commands are scripts of this repository, whose `--help` knows the options.
    Long,
    /// It needs what a test must not ask of a host. This script runs the commands.
    ProvedBy(&'static str),
}

impl Block {
    /// Returns how a block of commands is treated, or why its marks are wrong.
    pub fn kind(&self) -> Result<Kind, String> {
        match self.marks.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] => Ok(Kind::Runs),
            ["root"] => Ok(Kind::NeedsRoot),
            ["long"] => Ok(Kind::Long),
            ["docker"] => Ok(Kind::ProvedBy("scripts/prove-docker")),
            ["systemd"] => Ok(Kind::ProvedBy("scripts/prove-systemd")),
            _ => Err(format!("line {}: unknown mark in `{} {}`", self.line, self.language, self.marks.join(" "))),
        }
    }

    pub fn is_commands(&self) -> bool {
        self.language == "sh"
    }

    /// Returns whether the block shows what the commands before it print to stdout.
    pub fn is_output(&self) -> bool {
        self.language == "text" && self.marks == ["output"]
    }
}

/// Returns the blocks of a document in their order.
///
/// # Panics
///
/// Panics if a fence is not closed, or if the language is not one that the tests know.
pub fn blocks(document: &Document) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in document.text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let mut words = info.split([' ', ',']).map(str::to_owned);
                let language = words.next().unwrap();
                let known = ["sh", "text", "rust"].contains(&language.as_str());
                assert!(known, "{}:{}: unknown language `{info}`", document.path, index + 1);
                open = Some(Block { language, marks: words.collect(), line: index + 1, text: String::new() });
            }
            (Some(block), None) => block.text += &format!("{line}\n"),
            (Some(_), Some(_)) => blocks.push(open.take().unwrap()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a fence is not closed", document.path);
    blocks
}

#[test]
fn blocks_have_language_marks_and_line() {
    let text = "a\n```sh docker\nb\nc\n```\n\n```rust,no_run\n```\n".to_owned();
    let found = blocks(&Document { path: "a.md".into(), text });
    assert_eq!((found.len(), &*found[0].language, found[0].line, &*found[0].text), (2, "sh", 2, "b\nc\n"));
    assert_eq!(found[0].kind(), Ok(Kind::ProvedBy("scripts/prove-docker")));
    assert_eq!((&*found[1].language, &found[1].marks[..]), ("rust", &["no_run".to_owned()][..]));
}

#[test]
fn an_unknown_mark_is_an_error() {
    let text = "```sh sometimes\ntrue\n```\n".to_owned();
    let found = blocks(&Document { path: "a.md".into(), text });
    assert_eq!(found[0].kind(), Err("line 1: unknown mark in `sh sometimes`".into()));
}
