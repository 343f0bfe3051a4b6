//! Host names in a static binary come from /etc/hosts and DNS only.
//!
//! glibc looks names up with the modules that /etc/nsswitch.conf names. It loads all of them except `files` and `dns`
//! from the host's shared libraries, even in a static binary. If the host's glibc differs from the one of the build,
//! the process crashes: built with glibc 2.36, `submit --addr nosuch.invalid:1` died of SIGFPE in `myhostname` of the
//! host's glibc 2.41.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

unsafe extern "C" {
    /// Replaces the modules that /etc/nsswitch.conf names for a database, in this process only (glibc's nss.h).
    fn __nss_configure_lookup(database: *const c_char, modules: *const c_char) -> c_int;
}

/// Makes this process look host names up in /etc/hosts and DNS, whatever /etc/nsswitch.conf says. Call it before the
/// first thread starts.
pub fn pin_to_files_and_dns() {
    let (database, modules): (&CStr, &CStr) = (c"hosts", c"files dns");
    // SAFETY: both arguments are NUL-terminated strings, and glibc copies what it keeps. The call fails only if memory
    // runs out. Lookups then use the modules of /etc/nsswitch.conf.
    unsafe { __nss_configure_lookup(database.as_ptr(), modules.as_ptr()) };
}
