//! Runs `ringpost submit`.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use super::BINARY;

/// Starts the command against `addr`, with a pipe to its stdin.
pub fn start(addr: impl ToString, arguments: &[&str]) -> Child {
    let mut command = Command::new(BINARY);
    command.args(["submit", "--addr", &addr.to_string()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs the command against `addr` with `input` on stdin.
pub fn submit(addr: impl ToString, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = start(addr, arguments);
    // A command that ends early does not read all of its input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}
