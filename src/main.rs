//! The `ringpost` binary. The library does the work: see `ringpost::command`.
#![deny(unsafe_code)]

use std::process::ExitCode;

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod name_lookup;

fn main() -> ExitCode {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    name_lookup::pin_to_files_and_dns();
    ringpost::command::main()
}
