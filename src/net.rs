//! Why an address cannot be bound, and what to do about it.
//!
//! The server, the admin address and `doctor` bind addresses and report failures in the same words. This module
//! explains such a failure. It opens no socket and knows no configuration.

use std::io;
use std::net::SocketAddr;

/// Why an address cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A listening socket of another process has the address.
    #[error(
        "can't listen on {address}: {source}. Another process is listening there, maybe another ringpost: \
         `ss -ltnp 'sport = :{port}'` shows which. Stop it, or choose another address with {option}",
        port = address.port()
    )]
    InUse { option: &'static str, address: SocketAddr, source: io::Error },
    /// Only a privileged process may bind a port below `first`.
    #[error(
        "can't listen on {address}: {source}. Ports below {first} are privileged: choose a higher one with {option}, \
         or allow it with CAP_NET_BIND_SERVICE or sysctl net.ipv4.ip_unprivileged_port_start"
    )]
    Privileged { option: &'static str, address: SocketAddr, first: String, source: io::Error },
    /// No interface of this host has the address.
    #[error("can't listen on {address}: {source}. No interface of this host has that address; `ip address` lists them")]
    NotHere { address: SocketAddr, source: io::Error },
    /// Any other failure.
    #[error("can't listen on {address}: {source}")]
    Other { address: SocketAddr, source: io::Error },
}

impl BindError {
    /// Explains why binding `address` failed. `option` is the option that sets the address.
    pub fn explain(option: &'static str, address: SocketAddr, source: io::Error) -> BindError {
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { option, address, source },
            io::ErrorKind::AddrNotAvailable => BindError::NotHere { address, source },
            io::ErrorKind::PermissionDenied => {
                let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
                    .map_or_else(|_| "1024".into(), |first| first.trim().to_owned());
                BindError::Privileged { option, address, first, source }
            }
            _ => BindError::Other { address, source },
        }
    }
}

/// Returns whether binding an IPv6 address failed because IPv6 is off on this host: the address family is missing, or
/// no interface has an IPv6 address.
pub fn is_family_off(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
