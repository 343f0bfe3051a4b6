//! The options of TLS on the listeners.

use std::sync::Arc;
use std::time::Duration;

use crate::invalid_option::{InvalidOption, check_timeouts};
use crate::tls::credentials::CurrentCredentials;

/// How the server speaks TLS.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TlsOptions {
    /// The server's certificate, and what it demands of clients. Each new connection uses the present ones.
    pub credentials: Arc<CurrentCredentials>,
    /// Whether connections without TLS are served too.
    pub mode: TlsMode,
    /// The time from the accept of a connection to the end of its handshake; more than zero.
    pub handshake_timeout: Duration,
    /// The most handshakes in flight on each shard. Further connections wait.
    pub handshakes_max: usize,
}

/// Whether connections without TLS are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Every connection must speak TLS.
    #[default]
    Require,
    /// The first byte of a connection decides whether it speaks TLS.
    Allow,
}

impl TlsOptions {
    /// Returns the default options with these credentials.
    pub fn new(credentials: Arc<CurrentCredentials>) -> Self {
        TlsOptions {
            credentials,
            mode: TlsMode::Require,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            handshakes_max: HANDSHAKES_MAX,
        }
    }

    /// Checks the options.
    ///
    /// # Errors
    /// The first option whose value is refused.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        validate_handshakes(self.handshake_timeout, self.handshakes_max)
    }
}

/// Checks the limits of handshakes, also before there are credentials.
///
/// # Errors
/// The first option whose value is refused.
pub fn validate_handshakes(timeout: Duration, max: usize) -> Result<(), InvalidOption> {
    if max == 0 {
        return Err(InvalidOption::new("tls_handshakes_max", max, "must be at least 1"));
    }
    if timeout.is_zero() {
        let rule = "must be more than 0: a handshake that never ends would keep its place for ever";
        return Err(InvalidOption::new("tls_handshake_timeout", "0s", rule));
    }
    check_timeouts([("tls_handshake_timeout", timeout)])
}

/// The default of [`TlsOptions::handshake_timeout`].
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The default of [`TlsOptions::handshakes_max`].
pub const HANDSHAKES_MAX: usize = 256;
