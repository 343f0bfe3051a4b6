//! `ringpost journal`: reads, checks and copies a journal, whether or not a server is running.
//!
//! This module owns the commands and what they print. They read the journal through [`crate::journal::Reader`], as any
//! other program could, and know nothing of how their options were typed. Exit codes: 0 if everything is sound, which
//! includes a torn tail; 1 if it is not sound, could not be read, or the verdict could not be written; 143 and 130
//! after SIGTERM and SIGINT, as in a shell.

mod backup;
mod cat;
mod check;
mod notes;
mod stats;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::output::StdoutError;
use crate::signals;

pub use cat::{CatOptions, Format};

/// A command that reads a journal.
#[derive(Debug)]
pub enum Inspection {
    /// Writes every record to stdout.
    Cat(CatOptions),
    /// Reads everything, and prints whether it is sound.
    Verify {
        /// The journal's directory.
        data_dir: PathBuf,
    },
    /// Prints what the journal holds, by writer.
    Stats {
        /// The journal's directory.
        data_dir: PathBuf,
    },
    /// Copies the journal, and checks the copy.
    BackUp {
        /// The journal's directory.
        data_dir: PathBuf,
        /// The directory for the copy: a new or an empty one.
        target: PathBuf,
    },
    /// Compares the journal with the ledger of a load run.
    Check {
        /// The ledger's file.
        ledger: PathBuf,
        /// The journal's directory.
        data_dir: PathBuf,
    },
}

/// Carries out a command. Returns the process's exit code.
///
/// # Errors
/// The journal or the ledger can't be read, or stdout can't be written.
pub fn run(command: Inspection) -> anyhow::Result<ExitCode> {
    if let Inspection::Cat(options) = command {
        return cat::cat(options);
    }
    signals::end_at_signal(Duration::ZERO);
    let sound = match command {
        Inspection::Cat(_) => unreachable!("handled above"),
        Inspection::Verify { data_dir } => verify::verify(&data_dir),
        Inspection::Stats { data_dir } => stats::stats(&data_dir),
        Inspection::BackUp { data_dir, target } => backup::back_up(&data_dir, &target),
        Inspection::Check { ledger, data_dir } => check::check(&ledger, &data_dir),
    };
    match sound {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        // A verdict that was never delivered must not count as "sound".
        Err(error) if error.downcast_ref::<StdoutError>().is_some_and(StdoutError::is_closed) => Ok(ExitCode::FAILURE),
        Err(error) => Err(error),
    }
}
