//! The error of an option whose value is refused.
//!
//! Each module checks its own options and reports this error, which speaks of a field and its value. It does not know
//! how a user sets the field. The command line replaces field names by the names of its options.

use std::fmt::{self, Display};
use std::time::Duration;

/// An option whose value is refused.
///
/// `rule` says which values are accepted. It names other options by their fields, in backticks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidOption {
    /// The name of the option's field, such as `frame_len_max`.
    pub field: &'static str,
    /// The refused value as text. It is empty if the option's presence is what is refused.
    pub value: String,
    /// The accepted values.
    pub rule: String,
}

impl InvalidOption {
    /// Returns the error of `field`, whose `value` breaks `rule`.
    pub fn new(field: &'static str, value: impl Display, rule: impl Into<String>) -> Self {
        InvalidOption { field, value: value.to_string(), rule: rule.into() }
    }
}

impl Display for InvalidOption {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidOption { field, value, rule } = self;
        let space = if value.is_empty() { "" } else { " " };
        write!(out, "{field}{space}{value}: {rule}")
    }
}

impl std::error::Error for InvalidOption {}

/// Checks that no timeout is longer than [`TIMEOUT_MAX`].
///
/// # Errors
/// One is longer.
pub fn check_timeouts<const N: usize>(timeouts: [(&'static str, Duration); N]) -> Result<(), InvalidOption> {
    let days = TIMEOUT_MAX.as_secs() / 86_400;
    match timeouts.into_iter().find(|(_, timeout)| *timeout > TIMEOUT_MAX) {
        Some((field, timeout)) => {
            Err(InvalidOption::new(field, format_args!("{timeout:?}"), format!("must be at most {days} days")))
        }
        None => Ok(()),
    }
}

/// The longest timeout of any kind, about 24 days. TCP_USER_TIMEOUT is an `int` of milliseconds, and the sum of an
/// `Instant` and a longer duration may overflow.
pub const TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
