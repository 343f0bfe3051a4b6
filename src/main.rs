use std::process::ExitCode;

use clap::Parser;
use ringpost::cli::{Bench, Cli, Command};
use ringpost::load;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Bench(options) => bench(options),
        Command::Serve(_) | Command::Submit(_) => ExitCode::SUCCESS,
    }
}

/// 0: every request was acked as it must be; 1: not; 2: an option can't be.
fn bench(options: Bench) -> ExitCode {
    let (plan, outputs) = match options.into_plan() {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match load::run(&plan, &outputs) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
