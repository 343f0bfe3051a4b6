//! Errors in the words of the command line: a module's refusal of a field becomes one of an option.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use crate::invalid_option::InvalidOption;
use crate::log;

/// A message about options that the user has set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

impl From<InvalidOption> for UsageError {
    fn from(InvalidOption { field, value, rule, .. }: InvalidOption) -> Self {
        let space = if value.is_empty() { "" } else { " " };
        // A rule names fields in backticks.
        let rule: String = rule
            .split('`')
            .enumerate()
            .map(|(index, part)| if index % 2 == 0 { part.to_owned() } else { option_of(part) })
            .collect();
        UsageError(format!("{}{space}{value}: {rule}", option_of(field)))
    }
}

/// Prints the help or the version that the user asked for, or the reason why the options can't be parsed. Returns the
/// exit code, which is 2 for options that can't be parsed.
pub fn print_usage(error: &clap::Error) -> ExitCode {
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

/// Returns the option that sets a field. Most options have the name of their field.
fn option_of(field: &str) -> String {
    match OPTIONS.iter().find(|(named, _)| *named == field) {
        Some((_, option)) => (*option).to_owned(),
        None => format!("--{}", field.replace('_', "-")),
    }
}

/// The fields whose options have another name.
const OPTIONS: [(&str, &str); 7] = [
    ("accepts_in_a_row", "--accepts"),
    ("addresses", "--listen"),
    ("frame_len_max", "--max-frame"),
    ("memory_max", "--max-memory"),
    ("read_buffer_max", "--read-buffer"),
    ("segment_len", "--segment-size"),
    ("shards", "--workers"),
];

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::arguments::Cli;

    #[test]
    fn a_field_becomes_its_option() {
        let error = InvalidOption::new("frame_len_max", 12, "must be less; or set `sink` to discard");
        assert_eq!(UsageError::from(error).to_string(), "--max-frame 12: must be less; or set --sink to discard");
        let error = InvalidOption::new("takeover", "", "name the socket with `control`");
        assert_eq!(UsageError::from(error).to_string(), "--takeover: name the socket with --control");
    }

    #[test]
    fn every_field_has_an_option_of_serve_or_submit() {
        let command = Cli::command();
        let options: Vec<_> = ["serve", "submit"]
            .iter()
            .flat_map(|name| command.find_subcommand(name).unwrap().get_arguments())
            .filter_map(|arg| Some(format!("--{}", arg.get_long()?)))
            .collect();
        let same = [
            "backlog",
            "bind_retry",
            "commits_in_flight",
            "control",
            "drain_delay",
            "drain_timeout",
            "frame_timeout",
            "idle_timeout",
            "journal_memory",
            "linger_timeout",
            "ring_entries",
            "sink",
            "stall_timeout",
            "takeover",
            "takeover_timeout",
            "tcp_keepalive",
            "tls",
            "tls_cert",
            "tls_client_auth",
            "tls_client_ca",
            "tls_crl",
            "tls_handshake_timeout",
            "tls_handshakes_max",
            "tls_key",
            "tls_min",
            "window",
            "write_timeout",
        ];
        for field in same.into_iter().chain(OPTIONS.map(|(field, _)| field)) {
            assert!(options.contains(&option_of(field)), "{field}: {}", option_of(field));
        }
    }
}
