use std::process::ExitCode;

use clap::Parser;
use ringpost::cli::{Cli, Command};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(_) => ExitCode::SUCCESS,
        Command::Submit(options) => ringpost::submit::run(options),
    }
}
