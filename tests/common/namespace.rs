//! Network namespaces, for tests that need a network of their own. They need root and `ip`.

use std::panic::resume_unwind;
use std::process::Command;
use std::thread;

use super::requirement::{NETWORK_NAMESPACE, tried};

/// Runs `ip` with these arguments.
pub fn ip(arguments: &str) -> Result<(), String> {
    tried(Command::new("ip").args(arguments.split(' ')))
}

/// Runs a test on a thread of its own that is moved to a new network namespace first, with its future children. Does
/// nothing if namespaces are not permitted here.
///
/// The thread of the caller is not moved. With `--test-threads=1` the next test would be run by it.
pub fn in_namespace(test: impl FnOnce() + Send) {
    let caller = thread::current();
    let run = || NETWORK_NAMESPACE.check(enter_namespace()).is_some().then(test);
    let thread = thread::Builder::new().name(caller.name().unwrap_or("a test").to_owned());
    thread::scope(|scope| {
        if let Err(panic) = thread.spawn_scoped(scope, run).unwrap().join() {
            resume_unwind(panic);
        }
    });
}

/// Moves this thread and its future children to a new network namespace.
pub fn enter_namespace() -> Result<(), String> {
    // SAFETY: the call affects only this thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("unshare(CLONE_NEWNET): {}", std::io::Error::last_os_error()));
    }
    ip("link set lo up")
}
