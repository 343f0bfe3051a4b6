//! Why a connection ends.

use std::io;

use crate::engine::Socket;
use crate::metrics::CloseReason;
use crate::proto::Violation;
use crate::tls::{Fault, FaultReason};

/// Why a connection ends. Everything that was unsent has been sent, except if the connection vanished or failed.
#[derive(Debug)]
pub enum End {
    /// The peer ended its stream, and all its requests were answered.
    Finished,
    /// The server drains.
    Drained,
    /// The peer broke the protocol.
    Violated(Violation),
    /// TLS failed. An alert may have been sent.
    TlsFailed(Fault),
    /// The connection waited too long for its peer.
    TimedOut(CloseReason),
    /// The kernel gave the connection up: the peer did not acknowledge what was sent, or no longer answers.
    Vanished(CloseReason),
    /// Nothing more can be received, mostly because of a reset.
    ReceiveFailed(#[expect(dead_code, reason = "for the log")] io::Error),
    /// Nothing more can be sent.
    SendFailed(#[expect(dead_code, reason = "for the log")] io::Error),
}

impl End {
    /// Returns the end after a failed receive.
    pub fn receive_failed(error: io::Error, socket: &Socket) -> Self {
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        if !matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable) {
            return End::ReceiveFailed(error);
        }
        // TCP_USER_TIMEOUT and keepalive fail with the same errors.
        let unacknowledged = socket.has_unacknowledged();
        End::Vanished(if unacknowledged { CloseReason::WriteTimeout } else { CloseReason::Keepalive })
    }

    /// Returns the end after a failed send.
    pub fn send_failed(error: io::Error) -> Self {
        // The kernel's own limit may be reached first: it counts from the last progress, the server from this send.
        if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable) {
            End::Vanished(CloseReason::WriteTimeout)
        } else {
            End::SendFailed(error)
        }
    }

    /// Returns whether the connection can still be used to send acks.
    pub fn can_send(&self) -> bool {
        !matches!(self, End::TlsFailed(_) | End::Vanished(_) | End::ReceiveFailed(_) | End::SendFailed(_))
    }

    /// Returns the reason under which the end is counted.
    pub fn reason(&self) -> CloseReason {
        match self {
            End::Finished => CloseReason::ClientClosed,
            End::Drained => CloseReason::Drained,
            End::Violated(violation) => violation.reason().into(),
            End::TlsFailed(Fault { reason: FaultReason::Timeout, .. }) => CloseReason::HandshakeTimeout,
            End::TlsFailed(_) => CloseReason::TlsFailed,
            End::TimedOut(reason) | End::Vanished(reason) => *reason,
            End::ReceiveFailed(_) | End::SendFailed(_) => CloseReason::Reset,
        }
    }
}
