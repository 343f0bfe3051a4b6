//! The facts that the laws compare: requests and acks of the clients, and records that followers have seen.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use super::plan::ClientPlan;
use crate::journal::{Note, Position, Record, WriterId};

/// The requests of a client and their acks.
#[derive(Debug)]
pub struct Sent {
    /// The client's address.
    pub address: SocketAddr,
    /// The requests of which at least a part was encoded, in order.
    pub requests: Vec<Request>,
    /// The number of requests that the kernel has accepted as a whole.
    pub complete: usize,
    /// The number of acks.
    pub acks: usize,
    /// How the connection ended, once it has.
    pub outcome: Option<Outcome>,
    /// Whether the connection began and ended in one process that had no trouble.
    pub undisturbed: bool,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Whether it is a CONN, which has no message.
    pub is_conn: bool,
    /// Whether the server must refuse it.
    pub is_too_long: bool,
    /// Bytes of its payload.
    pub len: u32,
    /// The result in its ack.
    pub result: Option<u8>,
}

/// How a connection ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It could not connect.
    Refused,
    /// The server ended the stream.
    Ended,
    /// The connection was reset.
    Reset,
    /// The client closed it without waiting for the server.
    Left,
}

impl Sent {
    /// Returns an empty record of a client.
    pub fn new(plan: &ClientPlan) -> Self {
        let host = if plan.shares_address { 1 } else { plan.number + 2 };
        let ip = Ipv4Addr::from_bits(0x0a00_0000 + host);
        Sent {
            address: SocketAddr::from((ip, 10_000 + plan.number as u16)),
            requests: Vec::new(),
            complete: 0,
            acks: 0,
            outcome: None,
            undisturbed: false,
        }
    }
}

/// Returns the payload of a message: it shows whose it is.
pub fn payload(client: u32, number: u32, len: u32) -> Vec<u8> {
    let seed = client.wrapping_mul(31).wrapping_add(number) as u8;
    (0..len).map(|at| (at as u8).wrapping_mul(3) ^ (at >> 8) as u8 ^ seed).collect()
}

/// Returns the ID of a request.
pub fn id(client: u32, number: u32) -> u64 {
    u64::from(client) << 32 | u64::from(number)
}

/// The records that a follower has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// By writer.
    pub writers: BTreeMap<WriterId, SeenWriter>,
}

/// The records of one writer that a follower has seen.
#[derive(Debug, Default)]
pub struct SeenWriter {
    /// The sequence number of each record, and the client and number of its request.
    pub records: BTreeMap<u64, (u32, u32)>,
    /// The sequence number that comes next.
    pub next: u64,
}

impl Seen {
    /// Law 3: records come in order, once, and without a gap that no note explains.
    /// A writer that is new to the follower may have lost its oldest records if retention is on.
    pub fn see(&mut self, record: &Record, notes: &[Note], retains: bool) -> Result<(), String> {
        let Position { writer, sequence } = record.position;
        let first = if retains { sequence } else { 1 };
        let seen = self.writers.entry(writer).or_insert_with(|| SeenWriter { next: first, ..SeenWriter::default() });
        let is_removed = |note: &Note| {
            let Note::Removed { writer: of, first, last } = note else { return false };
            let covers_first = first.is_none_or(|first| first <= seen.next);
            *of == writer && covers_first && last.is_none_or(|last| last + 1 >= sequence)
        };
        if sequence < seen.next || (sequence > seen.next && !notes.iter().any(is_removed)) {
            return Err(format!("law 3: a follower got {} after {}, with {notes:?}", record.position, seen.next - 1));
        }
        seen.records.insert(sequence, request_of(record)?);
        seen.next = sequence + 1;
        Ok(())
    }
}

/// Returns the client and the number of a record's request, if its content is what the client sent.
///
/// # Errors
/// It is not.
pub fn request_of(record: &Record) -> Result<(u32, u32), String> {
    let id = u64::from_be_bytes(record.id.0);
    let (client, number) = ((id >> 32) as u32, id as u32);
    if record.payload[..] != payload(client, number, record.payload.len() as u32)[..] {
        return Err(format!(
            "law 2: the payload of {} is not that of request {number} of client {client}",
            record.position
        ));
    }
    Ok((client, number))
}
