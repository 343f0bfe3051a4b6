//! `ringpost journal`: reads and checks a journal, while a server runs or not.
//!
//! Everything here goes through [`crate::journal::Reader`], as any other program could. Exit codes: 0
//! if everything is sound, including a torn tail; 1 if it is not, could not be read, or the verdict could not be
//! written; 143 and 130 after SIGTERM and SIGINT, as in a shell.

mod backup;
mod cat;
mod check;
mod ending;
mod out;
mod stats;
mod verify;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::cli::JournalCommand;
use crate::journal::reader::Note;
use ending::Ending;
use out::OutError;

pub use cat::Format;

/// Carries out a command.
///
/// # Errors
/// The journal or the ledger can't be read, or stdout can't be written.
pub fn run(command: JournalCommand) -> anyhow::Result<ExitCode> {
    let sound = match command {
        JournalCommand::Cat(options) => {
            let start = options.start()?;
            return cat::cat(&options.data_dir, start, options.follow, options.salvage, options.format);
        }
        JournalCommand::Verify(options) => ended_by_signals().and_then(|()| verify::verify(&options.data_dir)),
        JournalCommand::Stats(options) => ended_by_signals().and_then(|()| stats::stats(&options.data_dir)),
        JournalCommand::Check(options) => {
            ended_by_signals().and_then(|()| check::check(&options.ledger, &options.data_dir))
        }
        JournalCommand::Backup(options) => {
            ended_by_signals().and_then(|()| backup::back_up(&options.data_dir, &options.target))
        }
    };
    match sound {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        // Nobody reads the verdict, but it must not count as "sound" if it was never delivered.
        Err(error) if error.downcast_ref::<OutError>().is_some_and(OutError::is_unwanted) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}

/// Makes SIGTERM and SIGINT end the process immediately.
fn ended_by_signals() -> anyhow::Result<()> {
    Ending::catch(Duration::ZERO).map(drop).context("can't catch signals")
}

/// Prints a reader's notes on stderr. Returns how many of them report damage.
fn tell(notes: Vec<Note>) -> u64 {
    let mut damaged = 0;
    for note in notes {
        damaged += u64::from(matches!(note, Note::Damage(_) | Note::Skipped { .. }));
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    damaged
}
