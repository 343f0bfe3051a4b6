//! Parses what was typed, starts the log, runs one command, exits with its code.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use crate::cli::{self, Command, about};
use crate::load::{self, Outputs, plan::Plan};
use crate::{doctor, healthcheck, inspect, log, serve, signals, submit};

/// Runs the command that the process's arguments name, and returns the process's exit code.
pub fn main() -> ExitCode {
    signals::prepare();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(error) => return print_usage(&error),
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

/// Runs the bench. It fails if the server was at fault, or if a signal has cut the run short.
fn bench(plan: &Plan, outputs: &Outputs) -> anyhow::Result<ExitCode> {
    let is_sound = load::run(plan, outputs)?;
    if let Some(signal) = signals::caught() {
        // Shells report the same code for a command that a signal has ended.
        return Ok(ExitCode::from(128 + signal as u8));
    }
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the help or the version that was asked for, or why the options can't be parsed, which is exit code 2.
fn print_usage(error: &clap::Error) -> ExitCode {
    let printed = error.print().and_then(|()| std::io::stdout().flush());
    match printed {
        _ if error.use_stderr() => ExitCode::from(2),
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            log::complain(format_args!("can't write to stdout: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// What was typed can't be: exit code 2, as for what clap finds.
fn usage(error: &dyn std::error::Error) -> ExitCode {
    log::complain(cli::name_variables(&error.to_string()));
    ExitCode::from(2)
}

/// An error and what it came from, without what has been said already.
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
