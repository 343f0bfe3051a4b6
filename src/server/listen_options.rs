//! The options of listeners: addresses and how connections are accepted there. They are beside the server's options,
//! which compose them. This module opens no socket.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::invalid_option::{InvalidOption, check_timeouts};
use crate::outbound;

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// `[::]:8888` for both families, or `0.0.0.0:8888` where IPv6 is off.
    Default,
    /// This port of every IPv6 and IPv4 address, or of IPv4 addresses alone where IPv6 is off.
    Every(u16),
    /// Exactly this address. An IPv6 address accepts no IPv4 connections.
    Address(SocketAddr),
}

impl Listen {
    /// Returns the addresses to try, in order, and whether each is to accept both families.
    pub fn candidates(self) -> Vec<(SocketAddr, bool)> {
        match self {
            Listen::Default => Listen::Every(PORT).candidates(),
            Listen::Every(port) => {
                vec![((Ipv6Addr::UNSPECIFIED, port).into(), true), ((Ipv4Addr::UNSPECIFIED, port).into(), false)]
            }
            Listen::Address(address) => vec![(address, false)],
        }
    }
}

/// The options of listeners, and of accepting from them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ListenOptions {
    /// The addresses; each has one listener per shard.
    pub addresses: Vec<Listen>,
    /// Connections that the kernel queues for each listener. It caps this at `net.core.somaxconn`.
    pub backlog: u32,
    /// How long a bind is retried while the address is in use.
    pub bind_retry: Duration,
    /// Connections that a shard accepts from one listener before it serves other tasks.
    pub accepts_in_a_row: u32,
    /// How long a connection is silent before its peer is probed; zero for no probes.
    pub tcp_keepalive: Duration,
}

impl Default for ListenOptions {
    fn default() -> Self {
        ListenOptions {
            addresses: vec![Listen::Default],
            backlog: BACKLOG,
            bind_retry: BIND_RETRY,
            accepts_in_a_row: ACCEPTS_IN_A_ROW,
            tcp_keepalive: outbound::KEEPALIVE,
        }
    }
}

impl ListenOptions {
    /// Checks every option.
    ///
    /// # Errors
    /// The first option whose value is refused.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        if self.addresses.is_empty() {
            return Err(InvalidOption::new("addresses", "", "must name at least one address"));
        }
        if self.accepts_in_a_row == 0 {
            return Err(InvalidOption::new("accepts_in_a_row", 0, "must be at least 1"));
        }
        if self.backlog == 0 || i32::try_from(self.backlog).is_err() {
            return Err(InvalidOption::new("backlog", self.backlog, "must be from 1 to 2147483647"));
        }
        outbound::check_keepalive("tcp_keepalive", self.tcp_keepalive)?;
        check_timeouts([("bind_retry", self.bind_retry)])
    }
}

/// The port where no other is named.
pub const PORT: u16 = 8888;
/// The default of [`ListenOptions::backlog`].
pub const BACKLOG: u32 = 4096;
/// The default of [`ListenOptions::accepts_in_a_row`]. With one accept per event-loop iteration, the last of 1,000
/// connections that arrived at the same time waited 0.7 s.
pub const ACCEPTS_IN_A_ROW: u32 = 64;
/// The default of [`ListenOptions::bind_retry`]. The listeners of a server that was killed stay open for up to 12 ms,
/// until the kernel has torn down its rings.
const BIND_RETRY: Duration = Duration::from_millis(250);
