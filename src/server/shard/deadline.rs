//! The waits of a connection for its peer, and their deadlines.
//!
//! A deadline is computed from the shard's coarse clock and checked by the shard's sweep, so it costs neither a timer
//! nor a clock call. The coarse clock is late by up to [`CLOCK_LAG`]. Each deadline is therefore set later by as
//! much: no wait ends early, and every wait ends within twice that time after its timeout.

use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use crate::metrics::CloseReason;
use crate::server::options::Options;

/// The input or progress that a connection waits for from its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The first bytes of the next request.
    Request,
    /// The rest of a frame whose first bytes arrived at `began`.
    Frame { began: Instant },
    /// The peer's part of the TLS handshake of a connection that was accepted at `began`.
    Handshake { began: Instant },
    /// Room to write acks. Any progress of the peer renews the deadline.
    Room,
}

/// A wait that has begun.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// `None` if the timeout is off.
    pub at: Option<Instant>,
    pub wait: Wait,
    /// The bytes that the peer's kernel had acknowledged at the last sweep of a wait for room; `None` before the first
    /// sweep.
    pub acked: Option<u64>,
}

/// A peer's progress with what its connection waits for.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub at: Instant,
    /// The kind of wait. Bytes of different kinds can't be compared.
    pub kind: Discriminant<Wait>,
    /// The bytes that the peer had sent or acknowledged by then.
    pub bytes: u64,
}

impl Deadline {
    /// Returns the deadline of a wait that begins at `now`, a time of the coarse clock.
    #[inline]
    pub fn new(wait: Wait, now: Instant, config: &Options) -> Self {
        let (start, timeout) = match wait {
            Wait::Request => (now, config.idle_timeout),
            Wait::Frame { began } => (began, config.frame_timeout),
            Wait::Handshake { began } => {
                (began, config.tls.as_ref().map_or(Duration::ZERO, |tls| tls.handshake_timeout))
            }
            Wait::Room => (now, config.write_timeout),
        };
        Deadline { at: (!timeout.is_zero()).then(|| start + timeout + CLOCK_LAG), wait, acked: None }
    }

    /// Returns this deadline renewed if the peer has acknowledged more than at the last sweep, `acked` bytes now.
    pub fn with_progress(self, acked: Option<u64>, now: Instant, write_timeout: Duration) -> Self {
        let progressed = self.acked.is_some() && self.acked != acked;
        let at = self.at.map(|at| if progressed { now + write_timeout } else { at });
        Deadline { at, acked, ..self }
    }

    /// Returns this deadline, later by `time`.
    pub fn extended(self, time: Duration) -> Self {
        Deadline { at: self.at.map(|at| at + time), ..self }
    }

    /// Returns whether the wait should have ended by `now`.
    pub fn has_passed(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }
}

impl Wait {
    /// Returns the kind of this wait, for [`Progress::kind`].
    pub fn kind(self) -> Discriminant<Wait> {
        discriminant(&self)
    }

    /// Returns why a connection is closed that waited for too long.
    pub fn reason(self) -> CloseReason {
        match self {
            Wait::Request => CloseReason::IdleTimeout,
            Wait::Frame { .. } => CloseReason::FrameTimeout,
            Wait::Handshake { .. } => CloseReason::HandshakeTimeout,
            Wait::Room => CloseReason::WriteTimeout,
        }
    }

    /// Describes what the peer failed to do, with the option that sets the limit.
    pub fn complaint(self) -> &'static str {
        match self {
            Wait::Request => "the peer sent nothing for longer than --idle-timeout",
            Wait::Frame { .. } => "the peer did not finish a frame within --frame-timeout",
            Wait::Handshake { .. } => "the TLS handshake took longer than --tls-handshake-timeout",
            Wait::Room => "the peer did not read its acks within --write-timeout",
        }
    }
}

/// The longest lag of the shard's coarse clock: the time between two sweeps.
pub const CLOCK_LAG: Duration = Duration::from_millis(250);
