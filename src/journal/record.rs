//! A message in the journal. This module knows nothing of how it is encoded.

use std::net::SocketAddr;

use bytes::Bytes;

use super::id::Position;
use crate::proto::Id;

/// One message. Cloning it copies no payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The record's place in the journal. It is unique.
    pub position: Position,
    /// When the server had received the message, in nanoseconds since 1970, by the server's wall clock.
    pub received: u64,
    /// The request's ID, as the client chose it. It need not be unique.
    pub id: Id,
    /// The number of the connection, which is unique within the record's writer.
    pub connection: u64,
    /// The client's address. An IPv4 address is shown as IPv4, even if it was received by an IPv6 socket.
    pub peer: SocketAddr,
    /// The message.
    pub payload: Bytes,
}

/// The fields that records of one connection share if they were received by the same read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The number of the connection.
    pub connection: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// When they were received, in nanoseconds since 1970.
    pub received: u64,
}
