//! The command line: the commands, their options with their help, and the environment variables that set them.
//!
//! This is the only module that knows clap. It turns what a user typed into the options of the modules below, and
//! refusals of these modules into messages that name the options. It does nothing else.
//!
//! * [`about`]: version, completions, man pages
//! * [`serve`], [`submit`], [`bench`], [`journal`]: the options of the commands
//! * [`address`], [`values`]: how values are written
//! * [`environment`]: variables in the place of options
//! * [`usage`]: errors in the words of the command line

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::Level;

use crate::log;

pub mod about;
mod address;
mod bench;
mod environment;
mod journal;
mod serve;
mod submit;
mod usage;
mod values;

pub use bench::Bench;
pub use environment::{name_variables, parse};
pub use journal::JournalCommand;
pub use serve::{Doctor, Serve};
pub use submit::{Health, Submit};
pub use usage::UsageError;

/// Accepts messages over TCP and acks each one, on one io_uring per core.
#[derive(Debug, Parser)]
#[command(name = "ringpost", version = about::VERSION, long_version = about::BUILD)]
#[command(max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
    /// How to log.
    #[command(flatten)]
    pub log: LogOptions,
}

const AFTER_HELP: &str = "\
Durations have a unit (500ms, 2s, 1m), and sizes may have one (512, 64KiB, 1MiB). The environment variable beside an \
option sets it too. There an empty value counts as unset, a duration without a unit is in seconds, options that may \
repeat accept commas, and flags accept 1/0, yes/no, on/off or true/false.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server until SIGTERM or SIGINT.
    Serve(Serve),
    /// Examine this host and report what would stop or slow `serve` with these options, and how to fix it.
    /// Exit code 1 if `serve` would not start. Changes nothing.
    Doctor(Doctor),
    /// Send each line of a file as one message and count the acks.
    Submit(Submit),
    /// Load a server, check every ack, and report rates and latencies.
    Bench(Bench),
    /// Read and check a journal, whether a server is running or not.
    Journal {
        /// What to do with the journal.
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Ask the admin address of a server whether the server is healthy: exit code 0 if it is.
    Health(Health),
    /// Write completions for a shell to stdout.
    Completions {
        /// The shell to complete commands in.
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write the man page to stdout, or one page for each command to a directory.
    Man {
        /// Directory for the pages; created if it does not exist.
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

/// How to log. Logs go to stderr.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// Format of log lines
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "RINGPOST_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// Least severe lines to log
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Info, env = "RINGPOST_LOG_LEVEL")]
    pub log_level: LogLevel,
}

/// A value of `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// A value of `--log-level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    #[value(alias = "warning")]
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogOptions {
    /// Returns the options of the log.
    pub fn to_options(&self) -> log::Options {
        let format = match self.log_format {
            LogFormat::Text => log::Format::Text,
            LogFormat::Json => log::Format::Json,
        };
        let level = match self.log_level {
            LogLevel::Error => Level::ERROR,
            LogLevel::Warn => Level::WARN,
            LogLevel::Info => Level::INFO,
            LogLevel::Debug => Level::DEBUG,
            LogLevel::Trace => Level::TRACE,
        };
        log::Options { format, level }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }
}
