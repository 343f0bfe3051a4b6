//! The sizes of a frame's parts, in bytes.
//!
//! This module is the bottom of the protocol: it uses no other. The table in the
//! documentation of [`proto`](crate::proto) shows where each part is.

/// Bytes of the total length, the first field of a frame.
pub const LENGTH_LEN: usize = 4;
/// Bytes of the command, which follows the length.
pub const COMMAND_LEN: usize = 1;
/// Bytes of a request's ID, which the server treats as opaque.
pub const ID_LEN: usize = 8;
/// Bytes of a frame's header: length, command and ID. No total length is smaller.
pub const HEADER_LEN: usize = 13;
/// Bytes of an ack's result.
pub const RESULT_LEN: usize = 1;
/// Bytes of a whole ack.
pub const ACK_LEN: usize = 14;
/// The default limit for a frame, in bytes, header included.
pub const FRAME_LEN_MAX: u32 = 1 << 20;

const _: () = assert!(HEADER_LEN == LENGTH_LEN + COMMAND_LEN + ID_LEN);
const _: () = assert!(ACK_LEN == HEADER_LEN + RESULT_LEN);
// An ack is one byte longer than the smallest request. The acks of one read are never larger in proportion, so the
// limit of the read buffer also bounds the ack buffer.
const _: () = assert!(ACK_LEN == HEADER_LEN + 1);
