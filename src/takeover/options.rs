//! The options of takeovers.

use std::path::PathBuf;
use std::time::Duration;

use crate::invalid_option::{InvalidOption, check_timeouts};

/// The options of takeovers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether to take over from a running server at the start.
    pub takeover: bool,
    /// The control socket on which the running server answers, and on which this one can be taken over later.
    pub control: Option<PathBuf>,
    /// How long each side waits for the next message of the other.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { takeover: false, control: None, timeout: TIMEOUT }
    }
}

impl Options {
    /// Checks every option.
    ///
    /// # Errors
    /// The first option whose value is refused.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        if self.timeout.is_zero() {
            return Err(InvalidOption::new("takeover_timeout", "0s", "must be more than 0"));
        }
        if self.takeover && self.control.is_none() {
            let rule = format!(
                "without a journal directory, there is no {CONTROL_SOCKET} in it to find the running server; name its \
                 socket with `control`"
            );
            return Err(InvalidOption::new("takeover", "", rule));
        }
        check_timeouts([("takeover_timeout", self.timeout)])
    }
}

/// The control socket's name in the data directory.
pub const CONTROL_SOCKET: &str = "control.sock";
/// The default of [`Options::timeout`]. The new server opens its journal in that time.
const TIMEOUT: Duration = Duration::from_secs(30);
