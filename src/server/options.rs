//! The limits of a server. This module knows nothing of what is done with them.

use crate::proto::{ACK_LEN, HEADER_LEN};

/// Bytes of a quiet connection's read buffer, and the least that a busy one may have.
pub const READ_BUFFER_MIN: usize = 256;

const _: () = assert!(READ_BUFFER_MIN >= HEADER_LEN && READ_BUFFER_MIN >= ACK_LEN);
