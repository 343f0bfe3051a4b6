//! The version of the binary and how it was built, as `build.rs` found out.

/// The text of `ringpost -V`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("RINGPOST_BUILD_COMMIT"), ")");

/// The text of `ringpost --version`: the commit, and how the binary was built.
pub const BUILD: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("RINGPOST_BUILD_COMMIT"),
    ")",
    "\ntarget:    ",
    env!("RINGPOST_BUILD_TARGET"),
    "\nprofile:   ",
    env!("RINGPOST_BUILD_PROFILE"),
    "\nrustflags: ",
    env!("RINGPOST_BUILD_RUSTFLAGS"),
    "\ncompiler:  ",
    env!("RINGPOST_BUILD_COMPILER"),
);
