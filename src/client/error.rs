//! What can go wrong once a connection stands, and what was written and not acked by then.

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::proto::AckError;
use crate::proto::{ACK_LEN, Ack, FrameError, HEADER_LEN, Id, Kind};

/// Why a call failed. Behind all but [`Error::Ended`] the connection goes on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request does not fit a frame. Nothing of it was queued.
    #[error(
        "a payload of {payload_len} bytes and its {HEADER_LEN}-byte head pass the frame limit of {frame_len_max} \
         bytes: send less at once, or raise the limit here and the server's --max-frame"
    )]
    TooLarge { payload_len: usize, frame_len_max: u32 },
    /// [`finish`](super::Client::finish) or [`close`](super::Client::close) was called before.
    /// Nothing of the request was queued.
    #[error("the connection is being closed: it takes no more requests")]
    Closing,
    /// The read deadline passed before the ack, or the room for a request, was there.
    #[error("the read deadline has passed; {unacked}")]
    ReadDeadline { unacked: Unacked },
    /// The write deadline passed before any byte of this request was written; it was withdrawn.
    #[error("the write deadline passed before any of the request was written; {unacked}")]
    WriteDeadline { unacked: Unacked },
    /// The connection is gone; only [`close`](super::Client::close) still does anything.
    #[error("{cause}; {unacked}")]
    Ended { cause: Cause, unacked: Unacked },
}

impl Error {
    /// What was written and not acked when the error arose. `None` where the call alone failed.
    pub fn unacked(&self) -> Option<&Unacked> {
        match self {
            Error::TooLarge { .. } | Error::Closing => None,
            Error::ReadDeadline { unacked } | Error::WriteDeadline { unacked } | Error::Ended { unacked, .. } => {
                Some(unacked)
            }
        }
    }
}

/// Why a connection is gone.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Cause {
    /// [`finish`](super::Client::finish) was called, and every ack has come.
    #[error("the connection was finished: connect again to send more")]
    Finished,
    /// [`close`](super::Client::close) was called, or the last handle was dropped.
    #[error("the connection was closed on this side: connect again to send more")]
    Closed,
    /// The runtime that the connection was made on has shut down.
    #[error("the runtime that drove the connection has shut down: keep it until the connection is closed")]
    RuntimeGone,
    /// The server ended its side.
    #[error("the server closed the connection: its log says why")]
    PeerClosed,
    /// The kernel reported an error, such as a reset.
    #[error("could not {doing}: {error}: the connection is lost, connect again")]
    Io { doing: &'static str, error: Arc<io::Error> },
    /// The write deadline passed inside a frame. Nothing can follow a part of a frame.
    #[error("the write deadline passed inside a frame: only close is left, connect again")]
    WriteDeadline,
    /// What came is not what the protocol allows.
    #[error("the server broke the protocol: {0}")]
    Protocol(#[from] ProtocolError),
}

/// How a server broke the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Ack(#[from] AckError),
    /// An ack that is not the next one owed: a wrong ID or kind, out of order, or one too many.
    #[error("a {got_kind:?} ack for ID {} came, {}", .got.id, Owed(.owed), got_kind = .got.kind)]
    Unexpected { got: Ack, owed: Option<(Kind, Id)> },
    /// The stream ended inside an ack.
    #[error("it ended the stream inside an ack: {have} of {ACK_LEN} bytes had come")]
    Truncated { have: usize },
}

struct Owed<'a>(&'a Option<(Kind, Id)>);

impl fmt::Display for Owed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((kind, id)) => {
                write!(f, "where the {kind:?} ack for ID {id} was owed (do both sides use the same ack codes?)")
            }
            None => write!(f, "where none was owed"),
        }
    }
}

/// What a connection has sent and is still owed an ack for.
///
/// Written means: the kernel has taken it. Whether the server has it, only an ack tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unacked {
    /// Bytes written since the connection was made, acked or not.
    pub bytes_written: u64,
    /// Requests that are wholly written: the server may have taken each, or not.
    pub written: Ids,
    /// The request that is written in part: no server can have taken it.
    pub partly_written: Option<PartlyWritten>,
    /// Requests of which nothing is written.
    pub unwritten: Ids,
}

/// A request that is written in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartlyWritten {
    pub id: Id,
    /// Bytes of its frame that are written, at least one.
    pub bytes_written: usize,
    /// Bytes of its frame, its head included.
    pub frame_len: usize,
}

/// IDs of requests that follow each other. A connection's IDs count up by one, so that the first
/// and the count name them all, however many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    pub(super) first: u64,
    pub(super) count: usize,
}

impl Ids {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Each ID, in the order of the requests.
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
    fn a_report_names_every_request() {
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
    fn an_unexpected_ack_is_told_with_the_one_that_was_owed() {
        let got = Ack { kind: Kind::Conn, id: Id::from_number(7), result: AckResult::Success };
        let owed = Some((Kind::Submit, Id::from_number(7)));
        assert_eq!(
            ProtocolError::Unexpected { got, owed }.to_string(),
            "a Conn ack for ID 0000000000000007 came, where the Submit ack for ID 0000000000000007 was owed \
             (do both sides use the same ack codes?)"
        );
        assert!(ProtocolError::Unexpected { got, owed: None }.to_string().ends_with("where none was owed"));
    }
}
