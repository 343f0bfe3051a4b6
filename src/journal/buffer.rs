//! A commit's memory: aligned for O_DIRECT, of a fixed size, reused.
//!
//! The buffer knows no format. Its invariant: the memory never moves while a write may use it.

use std::ops::Range;

use super::format::BLOCK_LEN;

/// Owned bytes that begin at a multiple of [`BLOCK_LEN`] and never move. The capacity is also a multiple of it and
/// never changes, so the kernel may use the address for as long as it owns the buffer.
#[derive(Debug)]
pub struct Buffer {
    memory: Box<[u8]>,
    /// The index of the first aligned byte.
    start: usize,
    len: usize,
    capacity: usize,
}

impl Buffer {
    /// Returns an empty buffer for `capacity` bytes, rounded up to whole blocks. The system provides the memory page by
    /// page, when a page is first written.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(BLOCK_LEN);
        let memory = vec![0; capacity + BLOCK_LEN - 1].into_boxed_slice();
        let start = memory.as_ptr().align_offset(BLOCK_LEN);
        assert!(start < BLOCK_LEN, "bytes can be aligned to any power of two");
        Buffer { memory, start, len: 0, capacity }
    }

    /// Returns the number of bytes in the buffer.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the buffer has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of bytes that the buffer can hold.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns how many more bytes fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Removes all bytes.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// The bytes don't fit.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        let at = self.start + self.len;
        assert!(bytes.len() <= self.room(), "cannot append {} bytes: {} fit", bytes.len(), self.room());
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends zeros up to the next multiple of [`BLOCK_LEN`].
    pub fn pad(&mut self) {
        let padded = self.len.next_multiple_of(BLOCK_LEN);
        self.memory[self.start + self.len..self.start + padded].fill(0);
        self.len = padded;
    }

    /// Returns the bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    /// Returns the bytes for changes.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// Removes the memory for a write that owns it, and returns it with the range of the bytes from `from` on. Call
    /// [`Self::restore`] before anything else.
    pub fn lend(&mut self, from: usize) -> (Box<[u8]>, Range<usize>) {
        (std::mem::take(&mut self.memory), self.start + from..self.start + self.len)
    }

    /// Returns the memory that [`Self::lend`] has removed.
    pub fn restore(&mut self, memory: Box<[u8]>) {
        self.memory = memory;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_padded_with_zeros_even_if_it_is_reused() {
        let mut buffer = Buffer::new(5000);
        assert_eq!(buffer.capacity(), 8192);
        buffer.push(&[1; 8192]);
        assert_eq!(buffer.as_slice().as_ptr() as usize % BLOCK_LEN, 0);
        buffer.clear();
        buffer.push(&[2; 4100]);
        buffer.pad();
        assert_eq!(buffer.len(), 8192);
        assert!(buffer.as_slice()[4100..].iter().all(|byte| *byte == 0));
        buffer.pad();
        assert_eq!((buffer.len(), buffer.room()), (8192, 0));
    }
}
