//! Whether it pays to receive while acks still wait for the sink.
//!
//! A client that sends its next requests only when it has its acks has nothing to read until then: the
//! receive finds nothing, and the kernel arms a poll, wakes the task and receives later, which costs a
//! fifth of the CPU of a request where each connection has one on its way. A receive that is begun
//! behind the acks mostly finds the answer to them there.

/// What a connection has learned of its client.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// Where the next read stands: the first [`TRIED`] of every [`OF_READS`] go ahead.
    turn: u8,
}

/// Reads that go ahead in vain before that is given up.
const TRIED: u8 = 2;
/// Then so many reads until it is tried again, those that were tried included: a client that has changed
/// its ways waits for its acks no longer than this many reads.
const OF_READS: u8 = 64;

impl ReadAhead {
    /// Whether the next read should not wait for the sink.
    #[inline]
    pub fn pays(&self) -> bool {
        self.turn < TRIED
    }

    /// Bytes came while acks waited: so they will again.
    #[inline]
    pub fn brought(&mut self) {
        self.turn = 0;
    }

    /// Nothing came before all acks had left, or nothing was asked for.
    #[inline]
    pub fn in_vain(&mut self) {
        self.turn = (self.turn + 1) % OF_READS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_given_up_and_tried_again() {
        let mut ahead = ReadAhead::default();
        let mut tried = 0;
        for _ in 0..10 * u32::from(OF_READS) {
            tried += u32::from(ahead.pays());
            ahead.in_vain();
        }
        assert_eq!(tried, 10 * u32::from(TRIED));
    }

    #[test]
    fn one_that_brings_something_now_and_then_goes_on() {
        let mut ahead = ReadAhead::default();
        for _ in 0..100 {
            assert!(ahead.pays());
            ahead.in_vain();
            assert!(ahead.pays());
            ahead.brought();
        }
    }
}
