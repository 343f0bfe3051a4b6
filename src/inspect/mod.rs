//! `ringpost journal`: reads and checks a journal, while a server runs or not.
//!
//! Everything here goes through [`crate::journal::Reader`], as any other program could. Exit codes: 0
//! where all is sound, a torn tail included, 1 where it is not, or could not be read.

mod cat;
mod check;
mod out;
mod stats;
mod verify;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use crate::cli::JournalCommand;
use crate::journal::reader::Note;

pub use cat::Format;

/// Carries out a command.
///
/// # Errors
/// The journal or the ledger can't be read, or stdout can't be written.
pub fn run(command: JournalCommand) -> anyhow::Result<ExitCode> {
    let sound = match command {
        JournalCommand::Cat(options) => {
            let start = options.start()?;
            cat::cat(&options.data_dir, start, options.follow, options.salvage, options.format)
        }
        JournalCommand::Verify(options) => verify::verify(&options.data_dir),
        JournalCommand::Stats(options) => stats::stats(&options.data_dir),
        JournalCommand::Check(options) => check::check(&options.ledger, &options.data_dir),
    };
    match sound {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        // Nobody wants to know; but nobody has been told that it is sound.
        Err(error) if error.downcast_ref::<out::OutError>().is_some_and(out::OutError::is_unwanted) => {
            Ok(ExitCode::FAILURE)
        }
        // Whoever read the output wants no more of it.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe) => {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    }
}

/// Tells on stderr what a reader had to tell. Returns how much of it was damage.
fn tell(notes: Vec<Note>) -> u64 {
    let mut damaged = 0;
    for note in notes {
        damaged += u64::from(matches!(note, Note::Damage(_) | Note::Skipped { .. }));
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    damaged
}
