//! The commands and options of `ringpost journal`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand, ValueEnum};

use crate::inspect::{self, CatOptions, Inspection};
use crate::journal::{DATA_DIR, Position, Start};

/// The commands of `ringpost journal`.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Write every message to stdout, each writer's in order, writers merged by receive time.
    Cat(JournalCat),
    /// Read everything and report whether the journal is sound. A torn tail is sound, because it was never acked.
    Verify(JournalDir),
    /// Report what the journal holds, by writer.
    Stats(JournalDir),
    /// Copy the journal to a new directory, whether a server is running or not, and check the copy.
    Backup(JournalBackup),
    /// Check that every message that was acked to `bench --ledger` is there, unchanged, once and in order.
    Check(JournalCheck),
}

impl JournalCommand {
    /// Returns the command that was typed.
    ///
    /// # Errors
    /// The values of `--from` contradict each other.
    pub fn into_inspection(self) -> Result<Inspection, StartError> {
        Ok(match self {
            JournalCommand::Cat(cat) => Inspection::Cat(CatOptions {
                start: cat.start()?,
                data_dir: cat.data_dir,
                follow: cat.follow,
                salvage: cat.salvage,
                format: cat.format.into(),
            }),
            JournalCommand::Verify(JournalDir { data_dir }) => Inspection::Verify { data_dir },
            JournalCommand::Stats(JournalDir { data_dir }) => Inspection::Stats { data_dir },
            JournalCommand::Backup(JournalBackup { target, data_dir }) => Inspection::BackUp { data_dir, target },
            JournalCommand::Check(JournalCheck { ledger, data_dir }) => Inspection::Check { ledger, data_dir },
        })
    }
}

/// The options of `journal verify` and `journal stats`.
#[derive(Debug, Args)]
pub struct JournalDir {
    /// Directory of the journal
    #[arg(long, value_name = "DIR", default_value = DATA_DIR, env = "RINGPOST_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// The options of `journal cat`.
#[derive(Debug, Args)]
pub struct JournalCat {
    /// Directory of the journal
    #[arg(long, value_name = "DIR", default_value = DATA_DIR, env = "RINGPOST_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Wait for new messages at the end, and for a journal that does not exist yet. Messages are shown once they are
    /// durable
    #[arg(long, env = "RINGPOST_FOLLOW")]
    pub follow: bool,
    /// Begin with this message (WRITER:SEQ, as json prints it; one for each writer, separated by commas), or with
    /// the first message of each writer that was received at this time or later (2026-01-31T12:00:00Z, or an age such
    /// as 10m). Writers without a position are read from their beginning: to resume, name every writer that was read
    #[arg(long, value_name = "POSITION|TIME", value_delimiter = ',', env = "RINGPOST_FROM")]
    pub from: Vec<From>,
    /// Format of a message
    #[arg(long, value_enum, default_value_t = Format::Raw, env = "RINGPOST_FORMAT")]
    pub format: Format,
    /// Skip damaged and unreadable parts with a note on stderr; the exit code is still 1
    #[arg(long, env = "RINGPOST_SALVAGE")]
    pub salvage: bool,
}

/// The options of `journal backup`.
#[derive(Debug, Args)]
pub struct JournalBackup {
    /// Directory for the copy: a new or an empty one. Its name ends in .incomplete until the copy is complete and
    /// checked
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Directory of the journal
    #[arg(long, value_name = "DIR", default_value = DATA_DIR, env = "RINGPOST_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// The options of `journal check`.
#[derive(Debug, Args)]
pub struct JournalCheck {
    /// File that `bench --ledger` has written
    #[arg(long, value_name = "FILE", env = "RINGPOST_LEDGER")]
    pub ledger: PathBuf,
    /// Directory of the journal
    #[arg(long, value_name = "DIR", default_value = DATA_DIR, env = "RINGPOST_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// A value of `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The payload as it is, and a newline
    Raw,
    /// An object with position, time, ID, connection, peer, and the payload as base64
    Json,
    /// The payload in hexadecimal digits
    Hex,
}

impl std::convert::From<Format> for inspect::Format {
    fn from(format: Format) -> Self {
        match format {
            Format::Raw => inspect::Format::Raw,
            Format::Json => inspect::Format::Json,
            Format::Hex => inspect::Format::Hex,
        }
    }
}

/// A value of `--from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The message at this position.
    Position(Position),
    /// Nanoseconds since 1970.
    Time(u64),
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(position) = text.parse() {
            return Ok(From::Position(position));
        }
        let ago = || humantime::parse_duration(text).ok().and_then(|ago| SystemTime::now().checked_sub(ago));
        let time = humantime::parse_rfc3339_weak(text).ok().or_else(ago);
        let nanos = time.and_then(|time| u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok());
        nanos.map(From::Time).ok_or_else(|| {
            "write WRITER:SEQ (16 hexadecimal digits and a number), a time (2026-01-31T12:00:00Z) or how long ago (10m)"
                .to_owned()
        })
    }
}

/// Values of `--from` that exclude each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("--from: give one time, or one position for each writer")]
    Mixed,
}

impl JournalCat {
    /// Returns where to begin.
    ///
    /// # Errors
    /// A time was given with something else, or a writer twice.
    pub fn start(&self) -> Result<Start, StartError> {
        if let [From::Time(nanos)] = self.from[..] {
            return Ok(Start::Time(nanos));
        }
        let mut positions = Vec::new();
        for from in &self.from {
            match from {
                From::Position(position) if positions.iter().all(|p: &Position| p.writer != position.writer) => {
                    positions.push(*position);
                }
                _ => return Err(StartError::Mixed),
            }
        }
        Ok(if positions.is_empty() { Start::Beginning } else { Start::Positions(positions) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_is_a_position_or_a_time() {
        let position = "00069d3c5f3a1000:7".parse().unwrap();
        assert_eq!("00069d3c5f3a1000:7".parse(), Ok(From::Position(position)));
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(From::Time(1_700_000_000_000_000_000)));
        assert!(matches!("10m".parse(), Ok(From::Time(nanos)) if nanos > 1_700_000_000_000_000_000));
        assert!("yesterday".parse::<From>().is_err());
    }
}
