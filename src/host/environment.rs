//! Changes to this process's environment.
//!
//! Owns the only condition under which they are sound: no other thread can read the environment meanwhile.

use std::env;
use std::fs;

/// Removes variables, unless this process has more than one thread. Returns whether it removed them.
#[allow(unsafe_code)]
pub fn remove_variables(names: &[&str]) -> bool {
    if !fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1) {
        return false;
    }
    for name in names {
        // SAFETY: this is the process's only thread, as was just counted, and only this thread could start another one.
        unsafe { env::remove_var(name) };
    }
    true
}
