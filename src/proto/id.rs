//! The ID that links an ack to its request. The server does not interpret it.

use std::fmt;

use crate::proto::layout::ID_LEN;

/// A request's ID on its connection: eight opaque bytes, echoed in its ack.
///
/// Some clients write decimal ASCII, others a big-endian counter. An ID is displayed as 16 hexadecimal digits, which
/// suits both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(
    /// The bytes as they are on the wire.
    pub [u8; ID_LEN],
);

impl Id {
    /// Returns the ID of a client that counts: `number`, big-endian.
    pub const fn from_number(number: u64) -> Self {
        Id(number.to_be_bytes())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({self})")
    }
}
