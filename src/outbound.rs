//! What every outgoing TCP connection needs: keepalive, and words for a host that has no port left for it.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::io::Errno;
use socket2::TcpKeepalive;

use crate::config::TCP_KEEPALIVE_PROBES;
use crate::host::Host;

/// Returns keepalive that probes a peer after `silence`, and gives it up after [`TCP_KEEPALIVE_PROBES`] probes
/// without an answer, a sixth of that time apart but at least 1 s.
pub fn keepalive(silence: Duration) -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(silence)
        .with_interval((silence / 6).max(Duration::from_secs(1)))
        .with_retries(TCP_KEEPALIVE_PROBES)
}

/// Whether a bind or a connect failed because every local port is in use: EADDRNOTAVAIL from a connect, EADDRINUSE
/// where a source address was bound first.
///
/// A connect reports EADDRNOTAVAIL too where the host has no address of the family. Use [`explain`] where that has
/// not been ruled out.
pub fn is_out_of_ports(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE))
}

/// Returns the error of a connect to `target`, in words where the kernel's own mislead.
///
/// "Cannot assign requested address" (EADDRNOTAVAIL) has two meanings, which the returned error's kind keeps apart:
/// [`ErrorKind::AddrInUse`] means that no local port is free, [`ErrorKind::AddrNotAvailable`] that the host has no
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
    let range = Host::this().sysctl("net.ipv4.ip_local_port_range");
    let range = range.as_deref().and_then(|range| range.split_once(char::is_whitespace));
    let range = range.map_or_else(String::new, |(first, last)| format!(" ({first} to {})", last.trim()));
    let why = format!(
        "no local port is free for another connection to it: those of net.ipv4.ip_local_port_range{range} are in use, \
         or were until a moment ago (TIME_WAIT)"
    );
    io::Error::new(ErrorKind::AddrInUse, why)
}

/// A UDP socket chooses its source address as a TCP socket does, and its ports are others.
fn has_source_address(target: SocketAddr) -> bool {
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    UdpSocket::bind(any).and_then(|socket| socket.connect(target)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_address_is_distinguished_from_a_missing_port() {
        let refused = || io::Error::from(Errno::ADDRNOTAVAIL);
        let no_port = explain(([127, 0, 0, 1], 1).into(), refused());
        assert_eq!(no_port.kind(), ErrorKind::AddrInUse, "{no_port}");
        assert!(no_port.to_string().contains("ip_local_port_range ("), "{no_port}");
        // Nothing can be sent to an address of the documentation's prefix without a route to it.
        let no_address = explain("[2001:db8::1]:1".parse().unwrap(), refused());
        if no_address.kind() == ErrorKind::AddrNotAvailable {
            assert!(no_address.to_string().contains("no IPv6 address"), "{no_address}");
        }
        let other = explain(([127, 0, 0, 1], 1).into(), Errno::CONNREFUSED.into());
        assert_eq!(other.kind(), ErrorKind::ConnectionRefused);
    }
}
