//! Texts that several subjects share.
//!
//! Owns the form of a size and of a command that sets a sysctl. It must not know any finding.

use std::fmt::Display;

/// Returns the command that sets a kernel setting until the host restarts.
pub fn sysctl(name: &str, value: impl Display) -> String {
    format!("sysctl -w {name}={value}  # as root; a line in /etc/sysctl.d keeps it")
}

/// Returns a number of bytes in the unit that suits it.
pub fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}
