//! Parses what was typed, starts the log, runs one command, exits with its code.

use std::process::ExitCode;

use clap::Parser;
use ringpost::cli::{Cli, Command, LogFormat, LogLevel, LogOptions, about};
use ringpost::load::{self, Outputs, plan::Plan};
use ringpost::{doctor, healthcheck, inspect, serve, submit};
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    ringpost::static_names::leave_modules_out();
    let cli = Cli::parse();
    start_log(&cli.log);
    let outcome = match cli.command {
        Command::Serve(options) => match options.into_config() {
            Ok(config) => serve::run(config),
            Err(error) => return usage(&error),
        },
        Command::Doctor(options) => match options.serve.into_config() {
            Ok(config) => doctor::run(&config, options.json),
            Err(error) => return usage(&error),
        },
        Command::Submit(options) => Ok(submit::run(options)),
        Command::Bench(options) => match options.into_plan() {
            Ok((plan, outputs)) => bench(&plan, &outputs),
            Err(error) => return usage(&error),
        },
        Command::Journal { command } => match command.check() {
            Ok(()) => inspect::run(command),
            Err(error) => return usage(&error),
        },
        Command::Health(options) => Ok(healthcheck::run(&options)),
        Command::Completions { shell } => about::completions(shell).map(|()| ExitCode::SUCCESS),
        Command::Man { directory } => about::man(directory.as_deref()).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {}", in_words(&error));
        ExitCode::FAILURE
    })
}

/// A run that found the server at fault fails.
fn bench(plan: &Plan, outputs: &Outputs) -> anyhow::Result<ExitCode> {
    Ok(if load::run(plan, outputs)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was typed can't be: exit code 2, as for what clap finds.
fn usage(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(2)
}

/// Sends log lines, and panics as log lines, to stderr.
fn start_log(options: &LogOptions) {
    let level = match options.log_level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_writer(std::io::stderr);
    match options.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().init(),
    }
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
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
