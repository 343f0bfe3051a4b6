//! The wire protocol, and nothing else: no I/O, no clock, no async code, no runtime.
//!
//! This module owns the layout of every frame, the checks of every invalid one, and the ack that each request gets. It
//! does not know where bytes come from or go to, so all of it is tested in memory.
//!
//! Frames in both directions have the same shape. All integers are big-endian.
//!
//! ```text
//!  offset  0               4         5                       13
//!          +---------------+---------+-----------------------+---------------
//!          | total length  | command | ID                    | body
//!          | u32           | u8      | 8 bytes, opaque       | total - 13
//!          +---------------+---------+-----------------------+---------------
//! ```
//!
//! | command | packet     | sent by | body                  | total length |
//! |---------|------------|---------|-----------------------|--------------|
//! | `0x01`  | CONN       | client  | payload, any length   | 13 + payload |
//! | `0x02`  | SUBMIT     | client  | payload, any length   | 13 + payload |
//! | `0x81`  | CONN ACK   | server  | result: 0 or 1        | 14           |
//! | `0x82`  | SUBMIT ACK | server  | result: 0 or 1        | 14           |
//!
//! The total length counts the whole frame, including its own four bytes.
//!
//! * [`FrameReader`] splits a byte stream into whole frames and checks each length and command.
//! * [`Kind::encode`], [`Acks`] and [`Ack::decode`] encode and decode the four packets.
//! * [`Session`] is the server's side of one connection: what it may do next, and what each violation costs it.
//!
//! To add a packet, start in [`Kind`]. The compiler then reports what is missing in [`Session`].

mod frame;
mod id;
mod layout;
mod packet;
mod session;

pub use frame::{Frame, FrameError, FrameReader};
pub use id::Id;
pub use layout::{ACK_LEN, COMMAND_LEN, FRAME_LEN_MAX, HEADER_LEN, ID_LEN, LENGTH_LEN, RESULT_LEN};
pub use packet::{Ack, AckCodes, AckCounts, AckError, AckResult, Acks, Kind, Submit};
pub use session::{Next, Reason, Received, Session, Violation};
