//! A buffer that the busiest connections of a shard receive to, one after the other.
//!
//! A connection that receives much at once would fill its own buffer, and its frames would be looked at when
//! those of many others have been received behind it: by then they have left the CPU's nearest cache. Here they
//! are looked at right behind their receive, and all connections use the same memory.
//!
//! It owns that memory. Its invariant: nothing stays in it from one use to the next.

use std::cell::{RefCell, RefMut};

/// The common buffer of a shard.
pub struct BulkBuffer(RefCell<Vec<u8>>);

impl BulkBuffer {
    /// A buffer of `len` bytes. It takes memory when it is first used.
    pub fn new(len: usize) -> Self {
        BulkBuffer(RefCell::new(Vec::with_capacity(len)))
    }

    /// The buffer with `before` in it, and room behind that.
    ///
    /// # Panics
    /// If it is in use.
    #[inline]
    pub fn begin_with(&self, before: &[u8]) -> RefMut<'_, Vec<u8>> {
        let mut bytes = self.0.borrow_mut();
        bytes.clear();
        bytes.extend_from_slice(before);
        bytes
    }
}
