//! Network namespaces, for tests that need a network of their own. They need root and `ip`.

use std::process::Command;

/// Runs `ip` with these arguments.
pub fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().map_err(|error| format!("no `ip`: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {errors}")) }
}

/// Moves this thread and its future children to a new network namespace.
pub fn enter_namespace() -> Result<(), String> {
    // SAFETY: the call affects only this thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("unshare(CLONE_NEWNET): {}", std::io::Error::last_os_error()));
    }
    ip("link set lo up")
}
