//! The wire protocol, and nothing but it: no I/O, no clock, no async, no runtime.
//!
//! This module owns the layout of every frame, the judgement of every bad one, and what a
//! connection is owed for each request. It does not know where bytes come from or go to, so all
//! of it can be tested in memory.
//!
//! Both directions speak frames of this one shape. All integers are big-endian.
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
//! The total length counts the whole frame, its own four bytes included.
//!
//! * [`frame`]: a stream of bytes to whole frames; what a length or a command may be.
//! * [`packet`]: the four packets; the only place that writes them.
//! * [`session`]: what one connection may do next, and what each violation costs it.
//!
//! To add a packet, start in [`packet::Kind`]; the compiler leads on to [`session`].

pub mod frame;
pub mod packet;
pub mod session;

pub use frame::{Frame, FrameError, FrameReader};
pub use packet::{Ack, AckCodes, AckResult, Acks, Id, Kind, Submit};
pub use session::{Next, Received, Session, Violation};

/// Bytes of the total length at the head of a frame.
pub const LENGTH_LEN: usize = 4;
/// Bytes of the command behind it.
pub const COMMAND_LEN: usize = 1;
/// Bytes of a request's ID, which the server treats as opaque.
pub const ID_LEN: usize = 8;
/// Bytes that every frame has: length, command and ID. No total length is smaller.
pub const HEADER_LEN: usize = 13;
/// Bytes of an ack's result.
pub const RESULT_LEN: usize = 1;
/// Bytes of a whole ack.
pub const ACK_LEN: usize = 14;

const _: () = assert!(HEADER_LEN == LENGTH_LEN + COMMAND_LEN + ID_LEN);
const _: () = assert!(ACK_LEN == HEADER_LEN + RESULT_LEN);
// The smallest request is answered by an ack that is one byte longer: the acks of one read never
// take more than this ratio of it, which bounds the ack buffer by the read buffer.
const _: () = assert!(ACK_LEN == HEADER_LEN + 1);

/// The largest frame where no other limit is set, in bytes, its header included.
pub const FRAME_LEN_MAX: u32 = 1 << 20;
