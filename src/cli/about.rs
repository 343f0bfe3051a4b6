//! Completions for shells, and man pages. Both are generated from the definitions of the commands.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;

use super::arguments::Cli;
use crate::output::print;

/// Writes the completions of a shell to stdout.
///
/// # Errors
/// The output can't be written.
pub fn completions(shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringpost", &mut script);
    Ok(print(script)?)
}

/// Writes the man page of `ringpost` to stdout, or the pages of `ringpost` and of each command to `directory`, which is
/// created if it does not exist.
///
/// # Errors
/// The output can't be written.
pub fn man(directory: Option<&Path>) -> anyhow::Result<()> {
    let command = Cli::command();
    let Some(directory) = directory else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return Ok(print(page)?);
    };
    let write = || {
        fs::create_dir_all(directory)?;
        clap_mangen::generate_to(command.disable_help_subcommand(true), directory)
    };
    write().with_context(|| format!("can't write man pages to {}", directory.display()))
}
