//! The commands, and the options that all of them have. The options of each command are in a file of their own.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::Level;

use super::bench::Bench;
use super::journal::JournalCommand;
use super::serve::{Doctor, Serve};
use super::submit::{Health, Submit};
use super::version;
use crate::log;

/// Accepts messages over TCP and acks each one, on one io_uring per core.
#[derive(Debug, Parser)]
#[command(name = "ringpost", version = version::VERSION, long_version = version::BUILD)]
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
        /// The operation on the journal.
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
