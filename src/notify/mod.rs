//! Notifications to the service manager (sd_notify(3)): the server accepts, is alive, its status, and its end.
//!
//! Owns the protocol, which is a few lines of `NAME=value` per datagram. It must not know a shard: it reads metrics and
//! health. Invariant: a manager that can't be reached costs a log line, never the server.
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET`. With `WatchdogSec=` it sets `WATCHDOG_USEC` to the interval in
//! which it expects a sign of life. Without these variables nothing is sent. `RELOADING=1` and the `READY=1`
//! after it answer SIGHUP. A takeover is announced by [`Notifier::hand_over`].
//!
//! * [`notifier`]: the messages
//! * [`report`]: the messages of a running server

mod notifier;
mod report;

pub use notifier::{Notifier, WATCHDOG_MIN};
pub use report::report;
