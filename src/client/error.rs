//! The errors of an open connection, with a report of the requests that are unacked.
//!
//! This module owns what users read and match on. It does no I/O. Invariant: every error that can lose a request
//! carries [`Unacked`], which names it.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::proto::AckError;
use crate::proto::{ACK_LEN, Ack, FrameError, HEADER_LEN, Id, Kind};
#[cfg(feature = "client-tls")]
use crate::tls::client::TlsError;

/// The reason why a call failed. The connection stays open, except after [`Error::Ended`].
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request exceeds the frame limit. Nothing was queued.
    #[error(
        "a payload of {payload_len} bytes with its {HEADER_LEN}-byte header exceeds the frame limit of {frame_len_max} \
         bytes: send a smaller payload, or raise the limit of the client and --max-frame of the server"
    )]
    TooLarge {
        /// The payload's length in bytes.
        payload_len: usize,
        /// The limit for a frame in bytes.
        frame_len_max: u32,
    },
    /// [`finish`](super::Client::finish) or [`close`](super::Client::close) was called before. Nothing was queued.
    #[error("the connection is closing and no longer accepts requests: connect again to send more")]
    Closing,
    /// The read deadline passed before the ack arrived, or before there was room for the request.
    #[error("the read deadline has passed; {unacked}")]
    ReadDeadline {
        /// The requests that are unacked.
        unacked: Unacked,
    },
    /// The write deadline passed before any byte of the request was written. The request was withdrawn.
    #[error("the write deadline passed before any of the request was written; {unacked}")]
    WriteDeadline {
        /// The requests that are unacked.
        unacked: Unacked,
    },
    /// The connection has ended. Connect again to send more.
    #[error("{cause}; {unacked}")]
    Ended {
        /// The reason why it ended.
        cause: Cause,
        /// The requests that were unacked at its end.
        unacked: Unacked,
    },
}

impl Error {
    /// Returns the requests that were unacked when the error arose. `None` if only this call failed.
    pub fn unacked(&self) -> Option<&Unacked> {
        match self {
            Error::TooLarge { .. } | Error::Closing => None,
            Error::ReadDeadline { unacked } | Error::WriteDeadline { unacked } | Error::Ended { unacked, .. } => {
                Some(unacked)
            }
        }
    }
}

/// The reason why a connection ended.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// [`finish`](super::Client::finish) was called, and every ack has arrived.
    #[error("the connection was finished: connect again to send more")]
    Finished,
    /// [`close`](super::Client::close) was called, or the last handle was dropped.
    #[error("the connection was closed on this side: connect again to send more")]
    Closed,
    /// The tokio runtime that drove the connection has shut down.
    #[error("the runtime that drove the connection has shut down: keep it running until the connection is closed")]
    RuntimeGone,
    /// The server closed the connection.
    #[error("the server closed the connection: its log says why")]
    PeerClosed,
    /// The kernel reported an error, such as a reset.
    #[error("could not {doing}: {error}: the connection is lost, connect again")]
    Io {
        /// The operation that failed, such as "read".
        doing: &'static str,
        /// The kernel's error.
        error: Arc<io::Error>,
    },
    /// TLS ended the connection. A server that demands a client certificate does so after the handshake.
    #[cfg(feature = "client-tls")]
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The write deadline passed inside a frame. Nothing can follow a part of a frame.
    #[error("the write deadline passed inside a frame, so the connection cannot be used any longer: connect again")]
    WriteDeadline,
    /// The server violated the protocol.
    #[error("the server violated the protocol: {0}")]
    Protocol(#[from] ProtocolError),
}

/// A server's violation of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A frame's header is invalid.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A frame is not an ack.
    #[error(transparent)]
    Ack(#[from] AckError),
    /// An ack is not the expected one: its ID or kind is wrong, it is out of order, or no request was unacked.
    #[error("a {got_kind:?} ack for ID {} arrived, {}", .got.id, Expected(.expected), got_kind = .got.kind)]
    Unexpected {
        /// The ack that arrived.
        got: Ack,
        /// The kind and ID of the oldest unacked request, if there was one.
        expected: Option<(Kind, Id)>,
    },
    /// The answer is a TLS alert, and the connection is plain.
    #[error("its answer is a TLS alert: connect with TLS (--tls), or to the port without it")]
    TlsAlert,
    /// The stream ended inside an ack.
    #[error("the stream ended inside an ack, after {have} of {ACK_LEN} bytes")]
    Truncated {
        /// The bytes of the ack that arrived.
        have: usize,
    },
}

struct Expected<'a>(&'a Option<(Kind, Id)>);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((kind, id)) => {
                write!(f, "but the {kind:?} ack for ID {id} was expected (do both sides use the same ack codes?)")
            }
            None => write!(f, "but no request was unacked"),
        }
    }
}

/// The requests of a connection that have no ack yet.
///
/// *Written* means that the kernel has accepted the bytes, or that TLS has encrypted them for it. Only an ack proves
/// that the server has the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unacked {
    /// Bytes written since the connection was opened, acked or not.
    pub bytes_written: u64,
    /// Requests that are completely written. The server may or may not have accepted each of them.
    pub written: Ids,
    /// The request that is partly written, if any. The server cannot have accepted it.
    pub partly_written: Option<PartlyWritten>,
    /// Requests of which no byte is written. The server cannot have accepted them.
    pub unwritten: Ids,
}

/// A request that is partly written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartlyWritten {
    /// The request's ID.
    pub id: Id,
    /// Written bytes of its frame, at least one.
    pub bytes_written: usize,
    /// All bytes of its frame, header included.
    pub frame_len: usize,
}

/// The IDs of consecutive requests. A connection's IDs count up by one, so the first ID and the count describe any
/// number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub(super) first: u64,
    pub(super) count: usize,
}

impl Ids {
    /// Returns the number of requests.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns an iterator over the IDs, in the order of the requests.
    pub fn iter(&self) -> impl Iterator<Item = Id> + use<> {
        let first = self.first;
        (0..self.count as u64).map(move |offset| Id::from_number(first.wrapping_add(offset)))
    }
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = Id::from_number(self.first);
        match self.count {
            0 => write!(f, "none"),
            1 => write!(f, "1 (ID {first})"),
            count => {
                let last = Id::from_number(self.first.wrapping_add(count as u64 - 1));
                write!(f, "{count} (IDs {first} to {last})")
            }
        }
    }
}

impl fmt::Display for Unacked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unacked { bytes_written, written, partly_written, unwritten } = self;
        write!(f, "{bytes_written} bytes were written; requests written and not acked: {written}, in part: ")?;
        match partly_written {
            None => write!(f, "none")?,
            Some(PartlyWritten { id, bytes_written, frame_len }) => {
                write!(f, "{bytes_written} of {frame_len} bytes of ID {id}")?;
            }
        }
        write!(f, ", not at all: {unwritten}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::AckResult;

    #[test]
    fn report_names_every_request() {
        let unacked = Unacked {
            bytes_written: 40,
            written: Ids { first: u64::MAX, count: 2 },
            partly_written: Some(PartlyWritten { id: Id::from_number(1), bytes_written: 3, frame_len: 20 }),
            unwritten: Ids { first: 2, count: 1 },
        };
        assert_eq!(
            unacked.to_string(),
            "40 bytes were written; requests written and not acked: 2 (IDs ffffffffffffffff to 0000000000000000), \
             in part: 3 of 20 bytes of ID 0000000000000001, not at all: 1 (ID 0000000000000002)"
        );
        let ids: Vec<_> = unacked.written.iter().collect();
        assert_eq!(ids, [Id::from_number(u64::MAX), Id::from_number(0)], "IDs wrap");
    }

    #[test]
    fn unexpected_ack_is_reported_with_the_expected_one() {
        let got = Ack { kind: Kind::Conn, id: Id::from_number(7), result: AckResult::Success };
        let expected = Some((Kind::Submit, Id::from_number(7)));
        assert_eq!(
            ProtocolError::Unexpected { got, expected }.to_string(),
            "a Conn ack for ID 0000000000000007 arrived, but the Submit ack for ID 0000000000000007 was expected \
             (do both sides use the same ack codes?)"
        );
        let unexpected = ProtocolError::Unexpected { got, expected: None };
        assert!(unexpected.to_string().ends_with("but no request was unacked"));
    }
}
