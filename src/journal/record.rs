//! A message as it stands in the journal.

use std::net::SocketAddr;

use bytes::Bytes;

use super::id::Position;
use crate::proto::Id;

/// One message. Cloning it copies no payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub position: Position,
    /// When the server had received it, in nanoseconds since 1970.
    pub received: u64,
    /// The request's ID.
    pub id: Id,
    /// The number of its connection, which is unique for its writer.
    pub connection: u64,
    /// Who sent it. An IPv4 address is one, also where it came in by an IPv6 socket.
    pub peer: SocketAddr,
    pub payload: Bytes,
}

/// What the records of one read have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    pub connection: u64,
    pub peer: SocketAddr,
    /// Nanoseconds since 1970.
    pub received: u64,
}
