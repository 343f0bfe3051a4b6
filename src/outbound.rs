//! Keepalive for outgoing TCP connections, and a clear error if the host has no port left for one. It must not know
//! which protocol a connection speaks.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::TcpKeepalive;

use crate::invalid_option::InvalidOption;

/// Returns a keepalive that probes a peer after `silence`, and gives up after three probes without
/// an answer. The probes are a sixth of that time apart, but at least 1 s.
pub fn keepalive(silence: Duration) -> TcpKeepalive {
    let keepalive = TcpKeepalive::new().with_time(silence);
    // Other systems have fixed values for these two.
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple", target_os = "freebsd", windows))]
    let keepalive = keepalive.with_interval((silence / 6).max(Duration::from_secs(1))).with_retries(PROBES);
    keepalive
}

/// Checks the silence after which a peer is probed. Zero is off.
///
/// # Errors
/// Linux does not accept it. The error names `field`.
pub fn check_keepalive(field: &'static str, silence: Duration) -> Result<(), InvalidOption> {
    if silence.is_zero() || (KEEPALIVE_MIN..=KEEPALIVE_MAX).contains(&silence) {
        return Ok(());
    }
    let rule = format!("must be 0 for never, or from {KEEPALIVE_MIN:?} to {} s", KEEPALIVE_MAX.as_secs());
    Err(InvalidOption::new(field, format_args!("{silence:?}"), rule))
}

/// Whether a bind or a connect failed because every local port is in use. The error is EADDRNOTAVAIL from a connect,
/// and EADDRINUSE if a source address was bound first.
///
/// A connect also reports EADDRNOTAVAIL if the host has no address of the family. Use [`explain`] unless that is ruled
/// out.
pub fn is_out_of_ports(error: &io::Error) -> bool {
    error.raw_os_error().is_some() && matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::AddrInUse)
}

/// Returns the error of a connect to `target`, with a better message if the kernel's is misleading.
///
/// "Cannot assign requested address" (EADDRNOTAVAIL) has two meanings, which the returned error's kind distinguishes:
/// [`ErrorKind::AddrInUse`] means that no local port is free, and [`ErrorKind::AddrNotAvailable`] that the host has no
/// address to connect from.
pub fn explain(target: SocketAddr, error: io::Error) -> io::Error {
    if !is_out_of_ports(&error) {
        return error;
    }
    if !has_source_address(target) {
        let family = if target.is_ipv6() { "IPv6" } else { "IPv4" };
        let why = format!("this host has no {family} address to connect from (is {family} off?)");
        return io::Error::new(ErrorKind::AddrNotAvailable, why);
    }
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let range = range.as_deref().and_then(|range| range.trim().split_once(char::is_whitespace));
    let range = range.map_or_else(String::new, |(first, last)| format!(" ({first} to {})", last.trim()));
    let why = format!(
        "no local port is free for another connection to it: those of net.ipv4.ip_local_port_range{range} are in use, \
         or were until a moment ago (TIME_WAIT)"
    );
    io::Error::new(ErrorKind::AddrInUse, why)
}

/// Whether the host has an address to connect to `target` from. The check uses a UDP socket, which chooses its source
/// address as a TCP socket does and has separate ports.
fn has_source_address(target: SocketAddr) -> bool {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(any).and_then(|socket| socket.connect(target)).is_ok()
}

/// How long a connection is silent before its peer is probed, where no other time is set.
pub const KEEPALIVE: Duration = Duration::from_secs(60);
/// The shortest such time that Linux accepts.
pub const KEEPALIVE_MIN: Duration = Duration::from_secs(1);
/// The longest such time that Linux accepts.
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(32767);
/// Unanswered probes after which the peer counts as vanished.
const PROBES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    use rustix::io::Errno;

    #[test]
    fn a_missing_address_is_distinguished_from_a_missing_port() {
        let refused = || io::Error::from(Errno::ADDRNOTAVAIL);
        let no_port = explain(([127, 0, 0, 1], 1).into(), refused());
        assert_eq!(no_port.kind(), ErrorKind::AddrInUse, "{no_port}");
        assert!(no_port.to_string().contains("ip_local_port_range ("), "{no_port}");
        // A host without a route to the documentation prefix can't send anything there.
        let no_address = explain("[2001:db8::1]:1".parse().unwrap(), refused());
        if no_address.kind() == ErrorKind::AddrNotAvailable {
            assert!(no_address.to_string().contains("no IPv6 address"), "{no_address}");
        }
        let other = explain(([127, 0, 0, 1], 1).into(), Errno::CONNREFUSED.into());
        assert_eq!(other.kind(), ErrorKind::ConnectionRefused);
    }
}
