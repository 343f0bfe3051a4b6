//! The program `simulate`, for tests: runs the whole server in simulated worlds. The library does the work: see
//! `ringpost::worlds`.
#![deny(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ringpost::worlds::command::main()
}
