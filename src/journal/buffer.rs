//! Memory for a commit: aligned for O_DIRECT, of a fixed size, reused.

use std::ops::Range;

use super::format::BLOCK_LEN;

/// Owned bytes that begin at a multiple of [`BLOCK_LEN`] and never move. The capacity is a multiple
/// of it too, and is fixed: a kernel that was given the address may keep it as long as it owns the
/// buffer.
#[derive(Debug)]
pub struct Buffer {
    memory: Box<[u8]>,
    /// Where the aligned part begins.
    start: usize,
    len: usize,
    capacity: usize,
}

impl Buffer {
    /// An empty buffer for `capacity` bytes, rounded up to whole blocks. Memory is taken from the
    /// system page by page, as it is first written.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.next_multiple_of(BLOCK_LEN);
        let memory = vec![0; capacity + BLOCK_LEN - 1].into_boxed_slice();
        let start = memory.as_ptr().align_offset(BLOCK_LEN);
        assert!(start < BLOCK_LEN, "bytes can be aligned to any power of two");
        Buffer { memory, start, len: 0, capacity }
    }

    /// Bytes that are there.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes that fit behind those that are there.
    #[inline]
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Forgets every byte.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Appends bytes.
    ///
    /// # Panics
    /// There is no room for them.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        let at = self.start + self.len;
        assert!(bytes.len() <= self.room(), "{} bytes where {} fit", bytes.len(), self.room());
        self.memory[at..at + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Appends zeros up to the next block.
    pub fn pad(&mut self) {
        let padded = self.len.next_multiple_of(BLOCK_LEN);
        self.memory[self.start + self.len..self.start + padded].fill(0);
        self.len = padded;
    }

    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl Buffer {
    /// Takes the memory out for an owned write, with the range of the bytes from `from` on. Nothing else
    /// may be done to the buffer before [`Self::restore`].
    pub fn lend(&mut self, from: usize) -> (Box<[u8]>, Range<usize>) {
        (std::mem::take(&mut self.memory), self.start + from..self.start + self.len)
    }

    /// Takes the memory of [`Self::lend`] back.
    pub fn restore(&mut self, memory: Box<[u8]>) {
        self.memory = memory;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_padded_with_zeros_also_when_reused() {
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
