//! A buffer that a shard's busiest connections receive into, one after the other.
//!
//! If each of these connections received into its own buffer, the receives of many connections would come before the
//! frames of the first are processed, and by then those frames would have left the CPU's nearest cache. With a shared
//! buffer the frames are processed right after their receive, and all connections use the same memory.
//!
//! The buffer owns that memory. Its invariant: no bytes remain in it from one use to the next.

use std::cell::{RefCell, RefMut};

/// The bulk buffer of a shard.
pub struct BulkBuffer(RefCell<Vec<u8>>);

impl BulkBuffer {
    /// Creates a buffer of `len` bytes. Its pages cost no memory before their first use.
    pub fn new(len: usize) -> Self {
        BulkBuffer(RefCell::new(Vec::with_capacity(len)))
    }

    /// Returns the buffer with `before` in it, and room after that.
    ///
    /// # Panics
    /// The buffer is in use.
    #[inline]
    pub fn begin_with(&self, before: &[u8]) -> RefMut<'_, Vec<u8>> {
        let mut bytes = self.0.borrow_mut();
        bytes.clear();
        bytes.extend_from_slice(before);
        bytes
    }
}
