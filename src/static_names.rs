//! Host names in a static binary: from /etc/hosts and DNS, and from nowhere else.
//!
//! glibc looks names up by modules that /etc/nsswitch.conf names, and loads all but `files` and `dns` from the host's
//! shared libraries, a static binary too. Where the host's glibc is not the one of the build, that ends in a crash:
//! built with glibc 2.36, `submit --addr nosuch.invalid:1` died of SIGFPE in the host's `myhostname` of glibc 2.41.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};

unsafe extern "C" {
    /// nss.h: replaces what /etc/nsswitch.conf says of a database, for this process.
    fn __nss_configure_lookup(database: *const c_char, modules: *const c_char) -> c_int;
}

/// Leaves the host's modules out, whatever /etc/nsswitch.conf says. Call it before the first thread starts.
pub fn leave_modules_out() {
    let (database, modules): (&CStr, &CStr) = (c"hosts", c"files dns");
    // SAFETY: both are strings that end with a zero, and glibc copies what it keeps of them. It fails for lack of
    // memory alone; lookups are then as they would have been.
    unsafe { __nss_configure_lookup(database.as_ptr(), modules.as_ptr()) };
}
