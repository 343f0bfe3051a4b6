//! The options of a connection, their defaults and their limits. It knows neither sockets nor a command's options.

use std::time::Duration;

use crate::invalid_option::InvalidOption;
use crate::outbound::{self, KEEPALIVE};
use crate::proto::{AckCodes, FRAME_LEN_MAX, HEADER_LEN};
#[cfg(feature = "client-tls")]
use crate::tls::client::Tls;

/// The options of a connection.
///
/// ```
/// use std::time::Duration;
///
/// use ringpost::client::Options;
///
/// let options = Options::default().window(256).connect_timeout(Duration::from_secs(2));
/// assert_eq!(options.validate(), Ok(()));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// See [`Options::connect_timeout`].
    pub connect_timeout: Duration,
    /// See [`Options::keepalive`].
    pub keepalive: Duration,
    /// See [`Options::window`].
    pub window: usize,
    /// See [`Options::ack_codes`].
    pub ack_codes: AckCodes,
    /// See [`Options::frame_len_max`].
    pub frame_len_max: u32,
    /// See [`Options::tls`].
    #[cfg(feature = "client-tls")]
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            connect_timeout: CONNECT_TIMEOUT,
            keepalive: KEEPALIVE,
            window: WINDOW,
            ack_codes: AckCodes::Spec,
            frame_len_max: FRAME_LEN_MAX,
            #[cfg(feature = "client-tls")]
            tls: None,
        }
    }
}

impl Options {
    /// Sets the limit on the time to connect, including the lookup of the name, all of its addresses and the handshake
    /// of TLS. With zero, only the kernel limits the time. The default is 5 s.
    pub fn connect_timeout(self, connect_timeout: Duration) -> Self {
        Options { connect_timeout, ..self }
    }

    /// Sets how long the connection may be silent before the kernel probes the server's host: from 1 s to 32,767 s, or
    /// zero for no probes. The default is 60 s.
    ///
    /// If the host does not answer three probes, a sixth of that time apart, the connection ends with
    /// [`Cause::Io`](super::Cause::Io). With the default, that is 90 s after the host vanished. See
    /// [Vanished servers](super#vanished-servers).
    pub fn keepalive(self, keepalive: Duration) -> Self {
        Options { keepalive, ..self }
    }

    /// Sets how many requests may be unacked at the same time, from 1 to 1,048,576. The default is 64.
    pub fn window(self, window: usize) -> Self {
        Options { window, ..self }
    }

    /// Sets the command bytes of the server's acks. The default is [`AckCodes::Spec`].
    pub fn ack_codes(self, ack_codes: AckCodes) -> Self {
        Options { ack_codes, ..self }
    }

    /// Sets the limit for a frame that is sent, in bytes, including its 13-byte header. The server has its own limit.
    /// The default is 1 MiB.
    pub fn frame_len_max(self, frame_len_max: u32) -> Self {
        Options { frame_len_max, ..self }
    }

    /// Encrypts connections with TLS 1.3, or 1.2 if the server has no 1.3. See [TLS](super#tls).
    #[cfg(feature = "client-tls")]
    pub fn tls(self, tls: Tls) -> Self {
        Options { tls: Some(tls), ..self }
    }

    /// Checks the options. [`Client::connect`](super::Client::connect) does that too.
    ///
    /// # Errors
    /// The first option that is out of range, with the range.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        if !(1..=WINDOW_MAX).contains(&self.window) {
            return Err(InvalidOption::new("window", self.window, format!("must be from 1 to {WINDOW_MAX} requests")));
        }
        if (self.frame_len_max as usize) < HEADER_LEN {
            let rule = format!("must be from {HEADER_LEN} to {} bytes, the frame's header included", u32::MAX);
            return Err(InvalidOption::new("frame_len_max", self.frame_len_max, rule));
        }
        outbound::check_keepalive("tcp_keepalive", self.keepalive)
    }
}

/// The default window, in requests.
pub(crate) const WINDOW: usize = 64;
/// The largest window. The client keeps about 200 bytes for each request in it.
const WINDOW_MAX: usize = 1 << 20;
/// The default limit on the time to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_rejected() {
        Options::default().validate().unwrap();
        Options::default().keepalive(Duration::ZERO).validate().unwrap();
        let rejected = |options: Options| options.validate().map_err(|error| error.field);
        for window in [0, WINDOW_MAX + 1] {
            assert_eq!(rejected(Options::default().window(window)), Err("window"));
        }
        assert_eq!(rejected(Options::default().frame_len_max(12)), Err("frame_len_max"));
        for keepalive in [Duration::from_millis(1), Duration::from_secs(32_768)] {
            assert_eq!(rejected(Options::default().keepalive(keepalive)), Err("tcp_keepalive"));
        }
    }
}
