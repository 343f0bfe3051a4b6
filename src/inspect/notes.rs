//! Prints a reader's notes on stderr. It doesn't know which command reads.

use std::io::Write;

use crate::journal::Note;

/// Prints notes on stderr. Returns how many of them report damage.
pub fn print(notes: Vec<Note>) -> u64 {
    let mut damaged = 0;
    for note in notes {
        damaged += u64::from(matches!(note, Note::Damage(_) | Note::Skipped { .. }));
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    damaged
}
