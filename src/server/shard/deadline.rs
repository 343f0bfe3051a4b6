//! What a connection's task waits for, and until when.
//!
//! Its task writes it before each wait, from the shard's coarse clock; the shard's sweep reads it. So
//! a deadline costs no timer and no clock call. That clock is up to a sweep's interval behind, so a deadline
//! is set later by as much: nobody is ended early, and everybody within two intervals.

use std::time::{Duration, Instant};

use crate::metrics::CloseReason;

/// The end of a wait.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// `None` if the timeout is off.
    pub at: Option<Instant>,
    pub wait: Wait,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The next request, with nothing of it there yet.
    Request,
    /// The rest of a frame that has begun.
    Frame,
    /// Room to write acks. Any progress renews it; `acked` is how many bytes the peer's kernel had
    /// taken at the last sweep, `None` before the first.
    Room { acked: Option<u64> },
}

impl Deadline {
    /// The end of a wait, `timeout` after `start`, a time of the coarse clock. A timeout of zero never ends it.
    #[inline]
    pub fn after(start: Instant, timeout: Duration, wait: Wait) -> Self {
        Deadline { at: (!timeout.is_zero()).then(|| start + timeout + CLOCK_LAG), wait }
    }
}

impl Wait {
    /// What a connection that waited too long is closed for.
    pub fn reason(self) -> CloseReason {
        match self {
            Wait::Request => CloseReason::IdleTimeout,
            Wait::Frame => CloseReason::FrameTimeout,
            Wait::Room { .. } => CloseReason::WriteTimeout,
        }
    }

    /// The same in words, with the option that sets the limit.
    pub fn complaint(self) -> &'static str {
        match self {
            Wait::Request => "it sent nothing for longer than --idle-timeout",
            Wait::Frame => "it did not finish a frame within --frame-timeout",
            Wait::Room { .. } => "it did not read its acks within --write-timeout",
        }
    }
}

/// How far the shard's coarse clock may be behind: the time between two sweeps.
pub const CLOCK_LAG: Duration = Duration::from_millis(250);
