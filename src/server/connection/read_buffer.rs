//! A connection's read buffer: small while the connection is quiet, large while it is busy.
//!
//! The buffer decides how much memory a connection's input needs. It grows with what has been received, never with what
//! a length announces. Its memory is uninitialised: pages that no byte was received into cost nothing.

use crate::server::options::READ_BUFFER_MIN;
use crate::tls::session::{HANDSHAKE_LEN_MAX, record_len};

/// The bytes received and not yet consumed, with room for more.
#[derive(Debug)]
pub struct ReadBuffer {
    bytes: Vec<u8>,
    /// The capacity while the connection is busy.
    busy_len: usize,
    /// How many bytes at the end are TLS records that are not opened yet.
    sealed: u32,
    /// Whether the last read left no room: there may have been more to read.
    filled: bool,
    /// The number of reads since the last one that needed more than the small buffer.
    quiet_reads: u8,
    /// The number of smaller reads for which the connection still counts as one that receives much at a time.
    bulk_reads: u8,
}

/// Two capacities to choose from, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Growth {
    /// The capacity that the next read needs; the present one if it has room.
    pub least: usize,
    /// The capacity that suits the traffic.
    pub best: usize,
}

impl ReadBuffer {
    /// Creates an empty buffer, which needs no memory before the first read. It grows to `busy_len` unless one frame
    /// needs more.
    pub fn new(busy_len: usize) -> Self {
        ReadBuffer { bytes: Vec::new(), busy_len, sealed: 0, filled: false, quiet_reads: 0, bulk_reads: 0 }
    }

    /// Returns what was received and not consumed, without TLS records that are not opened yet.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.bytes.len() - self.sealed as usize]
    }

    /// Returns everything that was received and not consumed.
    #[inline]
    pub fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns where in the buffer the TLS record will end that has arrived in part; 0 if there is none.
    #[inline]
    pub fn record_end(&self) -> usize {
        if self.sealed == 0 {
            return 0;
        }
        let plain = self.bytes().len();
        let len = record_len(&self.bytes[plain..]);
        let sealed = self.sealed as usize;
        // A whole record is left if a message of the handshake goes on in the next one. Growing by less would make a
        // receive for each of its bytes.
        plain + if len > sealed { len } else { (2 * sealed).min(HANDSHAKE_LEN_MAX + 1) }
    }

    /// Sets the capacity while the connection is busy.
    pub fn set_busy_len(&mut self, busy_len: usize) {
        self.busy_len = busy_len;
    }

    /// Opens the TLS records at the end, to which a read has just added `received` bytes, and leaves their plaintext.
    /// `open` gets records at the front of a slice, passes each payload to the function that it gets, and returns how
    /// many bytes it has used. Returns the bytes of plaintext.
    ///
    /// # Errors
    /// The error of `open`.
    pub fn open<E>(
        &mut self,
        received: usize,
        scratch: &mut Vec<u8>,
        mut open: impl FnMut(&mut [u8], &mut dyn FnMut(&[u8])) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let bytes = &mut self.bytes;
        let start = bytes.len() - received - self.sealed as usize;
        let (mut read, mut write) = (start, start);
        loop {
            // Plaintext has less bytes than its record, so it never reaches the records after the portion.
            let portion = (bytes.len() - read).min(scratch.capacity());
            scratch.clear();
            scratch.extend_from_slice(&bytes[read..read + portion]);
            let used = open(scratch, &mut |payload| {
                bytes[write..write + payload.len()].copy_from_slice(payload);
                write += payload.len();
            })?;
            bytes[read + used..read + portion].copy_from_slice(&scratch[used..]);
            read += used;
            if used == 0 || read == bytes.len() {
                break;
            }
        }
        let sealed = bytes.len() - read;
        bytes.copy_within(read.., write);
        bytes.truncate(write + sealed);
        self.sealed = sealed as u32;
        Ok(write - start)
    }

    /// Opens TLS records like [`Self::open`] that a read into another buffer has brought. `records` begins with the
    /// ones at the end of this buffer, and fits after its plaintext.
    ///
    /// # Errors
    /// The error of `open`.
    pub fn open_from<E>(
        &mut self,
        received: usize,
        records: &mut [u8],
        open: impl FnOnce(&mut [u8], &mut dyn FnMut(&[u8])) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let start = self.bytes().len();
        assert!(start + records.len() <= self.bytes.capacity(), "there is room for what a read brings");
        self.bytes.truncate(start);
        self.sealed = 0;
        let bytes = &mut self.bytes;
        let used = open(records, &mut |payload| bytes.extend_from_slice(payload))?;
        let plain = self.bytes.len() - start;
        self.bytes.extend_from_slice(&records[used..]);
        self.sealed = (records.len() - used) as u32;
        self.filled = false;
        self.count(received);
        Ok(plain)
    }

    /// Returns how the buffer should grow before the next read, if at all. `frame_len` is the length of the frame that
    /// has begun.
    #[inline]
    pub fn growth(&self, frame_len: usize) -> Option<Growth> {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        let wants_more = self.filled || frame_len > capacity;
        if len == capacity || (wants_more && capacity < self.busy_len) { Some(self.size(frame_len)) } else { None }
    }

    /// Grows to `capacity`, which is more than the present one.
    pub fn grow_to(&mut self, capacity: usize) {
        self.bytes.reserve_exact(capacity - self.bytes.len());
    }

    /// Lends the buffer to a read that appends to it. It has room if it has grown as [`Self::growth`] returned.
    #[inline]
    pub fn lend(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Takes the buffer back from a read that has appended `received` bytes.
    #[inline]
    pub fn restore(&mut self, bytes: Vec<u8>, received: usize) {
        self.bytes = bytes;
        self.filled = self.bytes.len() == self.bytes.capacity();
        self.count(received);
    }

    /// Returns whether the connection receives much at a time, and can receive into a shared buffer of `len` bytes:
    /// this buffer has less than `len` bytes in it, and has room for what may be left of such a read.
    #[inline]
    pub fn is_bulk(&self, len: usize) -> bool {
        self.bulk_reads > 0 && self.bytes.capacity() >= len && self.bytes.len() < len
    }

    /// Replaces the contents by `rest`, which is left of a read into another buffer that brought `received` bytes.
    #[inline]
    pub fn keep(&mut self, rest: &[u8], received: usize) {
        assert!(rest.len() <= self.bytes.capacity(), "there is room for what is left of a read");
        self.bytes.clear();
        self.bytes.extend_from_slice(rest);
        self.filled = false;
        self.count(received);
    }

    #[inline]
    fn count(&mut self, received: usize) {
        self.bulk_reads = if received >= BULK_READ_MIN { BULK_READS } else { self.bulk_reads.saturating_sub(1) };
        if received >= READ_BUFFER_MIN {
            self.quiet_reads = 0;
        } else {
            self.quiet_reads = self.quiet_reads.saturating_add(1);
        }
    }

    /// Drops the first `count` bytes, and moves the rest to the front.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        if count < self.bytes.len() {
            self.bytes.drain(..count);
            return;
        }
        self.bytes.clear();
        let capacity = self.bytes.capacity();
        let quiet = self.quiet_reads >= QUIET_READS && capacity > READ_BUFFER_MIN;
        if quiet || capacity > self.busy_len.max(READ_BUFFER_MIN) {
            self.bytes = Vec::new();
        }
    }

    /// Returns the bytes of memory that the buffer holds; 0 while it is lent.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Returns whether the buffer is the small one of a quiet connection.
    #[inline]
    pub fn is_small(&self) -> bool {
        self.bytes.capacity() <= READ_BUFFER_MIN
    }

    /// Releases what a quiet connection does not need, unless the buffer has more in it.
    pub fn shrink(&mut self) {
        if self.bytes.len() < READ_BUFFER_MIN {
            self.bytes.shrink_to(READ_BUFFER_MIN);
        }
    }

    #[cold]
    fn size(&self, frame_len: usize) -> Growth {
        let (len, capacity) = (self.bytes.len(), self.bytes.capacity());
        if capacity == 0 {
            return Growth { least: READ_BUFFER_MIN, best: READ_BUFFER_MIN };
        }
        // For a frame that is larger than the buffer: at most twice what has arrived of it so far.
        let for_frame = frame_len.clamp(len + 1, len.max(1) * 2);
        Growth {
            least: if len == capacity { for_frame } else { capacity },
            best: if capacity < self.busy_len { self.busy_len } else { for_frame },
        }
    }
}

/// The number of consecutive reads that would have fitted the small buffer, after which a large one is released. A
/// connection that only pauses keeps it.
const QUIET_READS: u8 = 16;

/// The number of consecutive smaller reads after which a connection no longer counts as one that receives much at a
/// time.
const BULK_READS: u8 = 16;

/// The least bytes of one read that mark a connection as one that receives much at a time.
const BULK_READ_MIN: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: usize = 64 << 10;

    fn read(buffer: &mut ReadBuffer, frame_len: usize, count: usize) -> usize {
        if let Some(growth) = buffer.growth(frame_len) {
            assert!(growth.least <= growth.best);
            buffer.grow_to(growth.best);
        }
        let mut bytes = buffer.lend();
        let room = bytes.capacity() - bytes.len();
        assert!(room > 0, "a read always has room");
        let received = count.min(room);
        bytes.resize(bytes.len() + received, 0);
        buffer.restore(bytes, received);
        received
    }

    #[test]
    fn a_buffer_is_small_until_a_read_fills_it_and_when_quiet_again() {
        let mut buffer = ReadBuffer::new(BUSY);
        assert_eq!(read(&mut buffer, 13, 45), 45);
        buffer.consume(45);
        assert_eq!(buffer.bytes.capacity(), READ_BUFFER_MIN);
        assert_eq!(read(&mut buffer, 13, usize::MAX), READ_BUFFER_MIN);
        buffer.consume(READ_BUFFER_MIN - 7);
        assert_eq!(read(&mut buffer, BUSY, usize::MAX), BUSY - 7);
        buffer.consume(BUSY);
        for _ in 0..QUIET_READS {
            assert!(!buffer.is_small());
            read(&mut buffer, 13, 45);
            buffer.consume(45);
        }
        assert!(buffer.is_small());
    }

    #[test]
    fn a_connection_counts_as_bulk_from_one_large_read_until_many_small_ones() {
        let mut buffer = ReadBuffer::new(BUSY);
        read(&mut buffer, 13, READ_BUFFER_MIN);
        buffer.consume(READ_BUFFER_MIN);
        assert!(!buffer.is_bulk(BUSY));
        read(&mut buffer, 13, BULK_READ_MIN);
        buffer.consume(BULK_READ_MIN);
        for _ in 0..BULK_READS {
            assert!(buffer.is_bulk(BUSY));
            buffer.keep(b"the head of a frame", BULK_READ_MIN - 1);
            assert_eq!(buffer.bytes(), b"the head of a frame");
        }
        assert!(!buffer.is_bulk(BUSY));
    }

    #[test]
    fn memory_follows_what_has_arrived_and_not_what_was_announced() {
        let mut buffer = ReadBuffer::new(BUSY);
        let frame_len = 1 << 20;
        let mut len = read(&mut buffer, 13, 13);
        while len < frame_len {
            let have = len;
            len += read(&mut buffer, frame_len, 1000);
            assert!(buffer.bytes.capacity() <= BUSY.max(have * 2), "{have} bytes hold {}", buffer.bytes.capacity());
            assert!(buffer.bytes.capacity() <= frame_len);
        }
        buffer.consume(len);
        assert_eq!(buffer.bytes.capacity(), 0, "a buffer larger than the busy one is released");
    }
}
