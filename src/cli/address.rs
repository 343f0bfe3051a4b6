//! Parses addresses as people write them. An error says what to write instead. No name is looked up but `localhost`.

use std::fmt::Display;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::str::FromStr;

use rustix::net::netdevice::name_to_index;

use crate::server::Listen;

/// A value of `--listen`. `localhost` stands for two addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddresses(pub Vec<Listen>);

impl FromStr for ListenAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let written = "write IP:PORT, such as 127.0.0.1:8888 or [::1]:8888, localhost:8888, or :8888 for every IPv6 \
                       and IPv4 address of this host";
        match host_and_port(text) {
            Some(("", port)) => Ok(ListenAddresses(vec![Listen::Every(port)])),
            Some((host, port)) if is_localhost(host) => {
                let ipv6 = has_ipv6().then_some(SocketAddr::from((Ipv6Addr::LOCALHOST, port)));
                let addresses = ipv6.into_iter().chain([SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
                Ok(ListenAddresses(addresses.map(Listen::Address).collect()))
            }
            _ => literal(text)?.map(|address| ListenAddresses(vec![Listen::Address(address)])).ok_or(written.into()),
        }
    }
}

/// Parses the value of `--admin`. Here `localhost` means 127.0.0.1, the address that `ringpost health` uses by default.
pub fn admin(text: &str) -> Result<SocketAddr, String> {
    let written = "write IP:PORT, such as 127.0.0.1:8889 or [::1]:8889, localhost:8889, or :8889 for every address of \
                   this host";
    match host_and_port(text) {
        Some(("", port)) if has_ipv6() => Ok((Ipv6Addr::UNSPECIFIED, port).into()),
        Some(("", port)) => Ok((Ipv4Addr::UNSPECIFIED, port).into()),
        Some((host, port)) if is_localhost(host) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        _ => literal(text)?.ok_or(written.into()),
    }
}

/// Parses the `--admin` of a command that connects to a server. A port alone means that port on this host.
pub fn admin_of_server(text: &str) -> Result<SocketAddr, String> {
    match host_and_port(text) {
        Some(("", port)) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        _ => admin(text),
    }
}

/// Parses the value of `--addr`: a host's name or address, and a port. Returns it in the form that name lookup accepts.
pub fn server(text: &str) -> Result<String, String> {
    let written = "write HOST:PORT, such as localhost:8888, 127.0.0.1:8888 or [::1]:8888";
    if let Some(address) = literal(text)? {
        return Ok(address.to_string());
    }
    match host_and_port(text) {
        Some(("", port)) => Ok(format!("localhost:{port}")),
        // Only an IPv6 address has colons, and it needs brackets. A slash means that this is a URL.
        Some((host, _)) if !host.contains([':', '/', '[', ']', '*']) => Ok(text.to_owned()),
        _ => Err(written.into()),
    }
}

fn host_and_port(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
}

/// Parses a numeric address. Returns `None` for anything else. A zone may be the name or the number of a network
/// interface.
fn literal(text: &str) -> Result<Option<SocketAddr>, String> {
    if let Ok(address) = text.parse() {
        return Ok(Some(address));
    }
    let Some((ip, rest)) = text.strip_prefix('[').and_then(|text| text.split_once('%')) else { return Ok(None) };
    let Some((zone, port)) = rest.rsplit_once("]:") else { return Ok(None) };
    let (Ok(ip), Ok(port)) = (ip.parse::<Ipv6Addr>(), port.parse()) else { return Ok(None) };
    let failed =
        |error: &dyn Display| format!("there is no network interface {zone}: {error}; `ip address` lists them");
    let socket = UnixDatagram::unbound().map_err(|error| failed(&error))?;
    let index = name_to_index(&socket, zone).map_err(|error| failed(&error))?;
    Ok(Some(SocketAddrV6::new(ip, port, 0, index).into()))
}

fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(text: &str) -> Result<Vec<Listen>, String> {
        text.parse().map(|ListenAddresses(all)| all)
    }

    #[test]
    fn an_address_is_read_as_people_write_it() {
        let address = |text: &str| Listen::Address(text.parse().unwrap());
        assert_eq!(listen("127.0.0.1:80"), Ok(vec![address("127.0.0.1:80")]));
        assert_eq!(listen("[::1]:80"), Ok(vec![address("[::1]:80")]));
        assert_eq!(listen(":80"), Ok(vec![Listen::Every(80)]));
        let localhost = listen("LocalHost:80").unwrap();
        assert_eq!(localhost.last(), Some(&address("127.0.0.1:80")));
        assert_eq!(localhost.contains(&address("[::1]:80")), has_ipv6());
        assert_eq!(admin("localhost:80"), Ok("127.0.0.1:80".parse().unwrap()));
        assert!(admin(":80").unwrap().ip().is_unspecified());
        let written = ["host.example:80", "127.0.0.1:80", "[::1]:80", "localhost:80"];
        assert_eq!(written.map(|text| server(text).unwrap()), written);
        assert_eq!(server(":80").as_deref(), Ok("localhost:80"));
    }

    #[test]
    fn a_zone_is_an_interface_s_name_or_number() {
        let numbered = "[fe80::1%1]:80".parse::<SocketAddr>().unwrap();
        assert_eq!(admin("[fe80::1%lo]:80"), Ok(numbered));
        assert_eq!(listen("[fe80::1%1]:80"), Ok(vec![Listen::Address(numbered)]));
        assert_eq!(server("[fe80::1%lo]:80").as_deref(), Ok("[fe80::1%1]:80"));
        assert!(admin("[fe80::1%nosuch]:80").unwrap_err().contains("there is no network interface nosuch"));
    }

    #[test]
    fn a_refusal_shows_an_address() {
        let wrong =
            ["", "80", "*:80", "127.0.0.1", "::1:80", "localhost", "tcp://127.0.0.1:80", "127.0.0.1:port", "[::1]"];
        for text in wrong {
            assert!(listen(text).unwrap_err().contains("127.0.0.1:8888"), "{text}");
            assert!(admin(text).unwrap_err().contains("127.0.0.1:8889"), "{text}");
            assert!(server(text).unwrap_err().contains("127.0.0.1:8888"), "{text}");
        }
    }
}
