//! Reads options from the environment as people write them there: `RINGPOST_PIN=1`, `RINGPOST_LOG_LEVEL=INFO`, an empty
//! value for no value, spaces after commas, quotes or a carriage return that an env-file left in.
//!
//! Every variable is tidied before the options are parsed, according to what its option accepts. A new option needs no
//! code here. A value that can't be read is left as it is, and the error names the variable.

use std::any::TypeId;
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, CommandFactory, FromArgMatches};

use super::arguments::Cli;

/// Parses the command line and the environment.
///
/// # Errors
/// An argument or a variable is invalid, or help was asked for.
///
/// # Panics
/// There is a second thread, and this function changes the environment.
pub fn parse() -> Result<Cli, clap::Error> {
    tidy_environment();
    let command = any_case(Cli::command());
    let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.map_err(|mut error| {
        for kind in [ContextKind::InvalidArg, ContextKind::PriorArg] {
            if let Some(ContextValue::String(argument)) = error.get(kind)
                && let Some(variable) = variable_of(argument.split(' ').next().unwrap_or_default())
            {
                let named = format!("{variable} in the environment ({argument})");
                error.insert(kind, ContextValue::String(named));
            }
        }
        error
    })
}

/// Appends the variables that have set the options which `error` mentions.
pub fn name_variables(error: &str) -> String {
    let words = error.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| word.starts_with("--"));
    let mut options: Vec<&str> = words.collect();
    options.sort_unstable();
    options.dedup();
    let named = options.iter().filter_map(|option| Some(format!("; {} sets {option}", variable_of(option)?)));
    format!("{error}{}", named.collect::<String>())
}

/// Accepts enum values in upper and lower case, on the command line too.
fn any_case(command: Command) -> Command {
    let any_case_of = |arg: Arg| {
        let takes_values = arg.get_action().takes_values();
        arg.ignore_case(takes_values)
    };
    command.mut_args(any_case_of).mut_subcommands(any_case)
}

/// The variable that has set `option` (`--name`), if it was not typed.
fn variable_of(option: &str) -> Option<String> {
    let typed: Vec<String> = env::args_os().skip(1).map(|typed| typed.to_string_lossy().into_owned()).collect();
    if typed.iter().any(|typed| typed.split('=').next() == Some(option)) {
        return None;
    }
    // The commands that were typed, outermost first. Two of them may have an option of the same name.
    let root = Cli::command();
    let mut commands = vec![&root];
    for word in &typed {
        commands.extend(commands[commands.len() - 1].find_subcommand(word));
    }
    let arguments = commands.iter().rev().flat_map(|command| command.get_arguments());
    let variable = arguments.filter(|arg| arg.get_long() == option.strip_prefix("--")).find_map(Arg::get_env)?;
    env::var_os(variable).map(|_| variable.to_string_lossy().into_owned())
}

#[allow(unsafe_code)]
fn tidy_environment() {
    for (name, tidied) in tidied(&Cli::command()) {
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        assert_eq!(threads, 1, "the environment is tidied before there is a second thread");
        match tidied {
            // SAFETY: this is the process's only thread, as was just counted, and another one can only come from it.
            Some(value) => unsafe { env::set_var(name, value) },
            // SAFETY: as above.
            None => unsafe { env::remove_var(name) },
        }
    }
}

/// The variables to change, and their new values.
fn tidied(command: &Command) -> Vec<(OsString, Option<String>)> {
    let mut changes: Vec<_> = command.get_subcommands().flat_map(tidied).collect();
    for arg in command.get_arguments() {
        let Some(name) = arg.get_env() else { continue };
        let Some(value) = env::var_os(name).and_then(|value| value.into_string().ok()) else { continue };
        let tidied = tidy(arg, &value);
        if tidied.as_ref() != Some(&value) {
            changes.push((name.to_owned(), tidied));
        }
    }
    changes
}

/// A variable's value as `arg` accepts it; `None` to unset it.
fn tidy(arg: &Arg, value: &str) -> Option<String> {
    let is_of = |parser: &ValueParser, kind| parser.type_id() == kind;
    if is_of(arg.get_value_parser(), TypeId::of::<PathBuf>()) {
        // Spaces and quotes may be part of a path.
        return Some(value.to_owned()).filter(|value| !value.trim().is_empty());
    }
    let value = unquoted(value.trim());
    if value.is_empty() {
        return None;
    }
    if is_of(arg.get_value_parser(), TypeId::of::<bool>()) {
        return match truth(value) {
            // A flag that is off must not conflict with another option.
            Some(false) if matches!(arg.get_action(), ArgAction::SetTrue) => None,
            Some(truth) => Some(truth.to_string()),
            None => Some(value.to_owned()),
        };
    }
    if is_of(arg.get_value_parser(), TypeId::of::<Duration>()) {
        return Some(duration(value));
    }
    if let Some(delimiter) = arg.get_value_delimiter() {
        let parts = value.split(delimiter).map(str::trim).filter(|part| !part.is_empty());
        return Some(parts.collect::<Vec<_>>().join(&delimiter.to_string()));
    }
    Some(value.to_owned())
}

/// Removes the quotes that Docker's `--env-file` keeps.
fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).map_or(value, str::trim)
}

/// Adds the unit of seconds if there is no unit, and lowercases the value unless it has `M`, which is a month.
fn duration(value: &str) -> String {
    match value.parse::<u64>() {
        Ok(seconds) => format!("{seconds}s"),
        Err(_) if value.contains('M') => value.to_owned(),
        Err(_) => value.to_ascii_lowercase(),
    }
}

fn truth(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}
