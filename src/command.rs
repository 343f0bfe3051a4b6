//! The main function of the binary: parses the command line, starts the log, runs one command, and returns its exit
//! code. It knows every command and nothing of what a command does.

use std::process::ExitCode;

use crate::cli::{self, Command, about};
use crate::load::{self, Outputs, plan::Plan};
use crate::{doctor, healthcheck, inspect, log, serve, signals, submit};

/// Runs the command that the process's arguments name, and returns the process's exit code.
pub fn main() -> ExitCode {
    signals::prepare();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => return cli::print_usage(&error),
    };
    log::start(&cli.log.to_options(), matches!(cli.command, Command::Serve(_)));
    let _flush = log::FlushAtEnd;
    let outcome = match cli.command {
        Command::Serve(options) => match options.into_options() {
            Ok(options) => serve::run(options),
            Err(error) => return usage(&error),
        },
        Command::Doctor(options) => match options.serve.into_options() {
            Ok(serve) => doctor::run(&serve, options.json),
            Err(error) => return usage(&error),
        },
        Command::Submit(options) => match options.into_options() {
            Ok(options) => submit::run(&options),
            Err(error) => return usage(&error),
        },
        Command::Bench(options) => match options.into_plan() {
            Ok((plan, outputs)) => bench(&plan, &outputs),
            Err(error) => return usage(&error),
        },
        Command::Journal { command } => match command.into_inspection() {
            Ok(command) => inspect::run(command),
            Err(error) => return usage(&error),
        },
        Command::Health(options) => healthcheck::run(&options.into_options()),
        Command::Completions { shell } => about::completions(shell).map(|()| ExitCode::SUCCESS),
        Command::Man { directory } => about::man(directory.as_deref()).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        log::complain(in_words(&error));
        ExitCode::FAILURE
    })
}

/// Runs the load generator. The exit code reports a fault of the server, or the signal that ended the run early.
fn bench(plan: &Plan, outputs: &Outputs) -> anyhow::Result<ExitCode> {
    let is_sound = load::run(plan, outputs)?;
    if let Some(signal) = signals::caught() {
        // Shells report the same code for a command that a signal has ended.
        return Ok(ExitCode::from(128 + signal as u8));
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints why the options are refused. Returns exit code 2, as for options that can't be parsed.
fn usage(error: &dyn std::error::Error) -> ExitCode {
    log::complain(cli::name_variables(&error.to_string()));
    ExitCode::from(2)
}

/// Returns the text of an error and of its causes, without causes that the text already contains.
fn in_words(error: &anyhow::Error) -> String {
    let mut words = error.to_string();
    for cause in error.chain().skip(1).map(|cause| cause.to_string()) {
        if !words.contains(&cause) {
            words.push_str(": ");
            words.push_str(&cause);
        }
    }
    words
}
