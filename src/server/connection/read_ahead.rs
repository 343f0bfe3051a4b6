//! Decides whether a connection reads on while its acks wait for the sink.
//!
//! A client that sends its next requests only after it has its acks sends nothing until then. A receive would find
//! nothing: the kernel arms a poll, wakes the task and receives later, which costs a fifth of the CPU of a request if
//! each connection has one in flight. A receive that begins after the acks mostly finds the client's answer to them.

/// A connection's experience with reading ahead of its acks.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// The position of the next read among [`READS_PER_TRIAL`]; the first [`READS_TRIED`] of them go ahead.
    position: u8,
}

impl ReadAhead {
    /// Returns whether the next read should not wait for the sink.
    #[inline]
    pub fn pays(&self) -> bool {
        self.position < READS_TRIED
    }

    /// Records that bytes came while acks waited, so they probably will again.
    #[inline]
    pub fn brought_bytes(&mut self) {
        self.position = 0;
    }

    /// Records that no bytes came before all acks had left, or that no read went ahead.
    #[inline]
    pub fn brought_nothing(&mut self) {
        self.position = (self.position + 1) % READS_PER_TRIAL;
    }
}

/// The number of reads that go ahead without a result before that is given up.
const READS_TRIED: u8 = 2;
/// The number of reads from one trial to the next. A client that has changed its behaviour waits for its acks no longer
/// than this many reads.
const READS_PER_TRIAL: u8 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_ahead_is_given_up_and_tried_again() {
        let mut ahead = ReadAhead::default();
        let mut tried = 0;
        for _ in 0..10 * u32::from(READS_PER_TRIAL) {
            tried += u32::from(ahead.pays());
            ahead.brought_nothing();
        }
        assert_eq!(tried, 10 * u32::from(READS_TRIED));
    }

    #[test]
    fn reading_ahead_continues_if_it_brings_bytes_now_and_then() {
        let mut ahead = ReadAhead::default();
        for _ in 0..100 {
            assert!(ahead.pays());
            ahead.brought_nothing();
            assert!(ahead.pays());
            ahead.brought_bytes();
        }
    }
}
