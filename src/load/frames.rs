//! The requests' bytes, made before the run.
//!
//! One run of frames serves every connection of a thread: a send takes a slice of it and writes
//! the IDs in. So a request costs no allocation, no copy and no random number, and the bytes that
//! are sent stay in the CPU's cache. This is the only place that makes payloads.

use super::plan::PayloadSizes;
use crate::proto::{COMMAND_LEN, HEADER_LEN, ID_LEN, Id, Kind, LENGTH_LEN};

/// Frames side by side, complete but for their IDs.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    /// Where each frame begins, and where the last one ends.
    bounds: Vec<usize>,
}

impl Frames {
    /// Frames with payloads of these sizes; `seed` draws the sizes.
    pub fn new(payload: PayloadSizes, seed: u64) -> Self {
        let len_mean = HEADER_LEN + payload.min.midpoint(payload.max);
        let count = if payload.min == payload.max {
            (ONE_SIZE_BYTES / len_mean).max(1)
        } else {
            (MIXED_BYTES / len_mean).clamp(MIXED_COUNT_MIN, MIXED_COUNT_MAX)
        };
        let text: Vec<u8> = (b'a'..=b'z').cycle().take(payload.max).collect();
        let mut random = seed;
        let (mut bytes, mut bounds) = (Vec::new(), vec![0]);
        for _ in 0..count {
            random = next_random(random);
            let span = (payload.max - payload.min + 1) as u64;
            let len = payload.min + ((random >> 32) % span) as usize;
            Kind::Submit.encode(Id::from_number(0), &text[..len], &mut bytes);
            bounds.push(bytes.len());
        }
        Frames { bytes, bounds }
    }

    /// How many there are; `first` counts around them.
    pub fn count(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Up to `wanted` frames from the one at `first`, numbered from `id`: their bytes and how many
    /// they are. They end where the run does, and the caller goes on from its beginning.
    #[inline]
    pub fn number(&mut self, first: usize, id: u64, wanted: usize) -> (&[u8], usize) {
        let count = wanted.min(self.count() - first);
        for (frame, id) in self.bounds[first..first + count].iter().zip(id..) {
            let id_at = frame + LENGTH_LEN + COMMAND_LEN;
            self.bytes[id_at..id_at + ID_LEN].copy_from_slice(&Id::from_number(id).0);
        }
        (&self.bytes[self.bounds[first]..self.bounds[first + count]], count)
    }
}

/// The next of a series of numbers that look random (Knuth's MMIX generator; its high half is good).
fn next_random(last: u64) -> u64 {
    last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Frames of one size are all alike: enough of them for one large send.
const ONE_SIZE_BYTES: usize = 64 << 10;
/// Of mixed sizes there are enough to show the mix, and not so many that large ones fill the memory.
const MIXED_BYTES: usize = 8 << 20;
const MIXED_COUNT_MIN: usize = 16;
const MIXED_COUNT_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FrameReader;

    #[test]
    fn frames_are_numbered_in_order_and_end_with_the_run() {
        let mut frames = Frames::new(PayloadSizes { min: 32, max: 32 }, 1);
        let total = frames.count();
        assert_eq!(frames.number(0, 7, 3).1, 3);
        assert_eq!(frames.number(total - 2, 7, 3).1, 2);
        let (mut bytes, count) = frames.number(1, 0xff, 2);
        let reader = FrameReader::new(Kind::COMMANDS, 1024);
        for id in 0xff..0xff + count as u64 {
            let frame = reader.next(&mut bytes).unwrap().unwrap();
            assert_eq!((frame.command, frame.id, frame.body.len()), (0x02, Id::from_number(id), 32));
        }
        assert!(bytes.is_empty());
    }

    #[test]
    fn mixed_sizes_are_spread_over_their_range() {
        let mut frames = Frames::new(PayloadSizes { min: 16, max: 1039 }, 1);
        let count = frames.count();
        let (mut bytes, _) = frames.number(0, 0, count);
        let reader = FrameReader::new(Kind::COMMANDS, 2048);
        let mut quarters = [0; 4];
        while let Some(frame) = reader.next(&mut bytes).unwrap() {
            quarters[(frame.body.len() - 16) / 256] += 1;
        }
        assert!(quarters.iter().all(|&quarter| quarter > count / 5), "{quarters:?} of {count}");
    }

    #[test]
    fn the_largest_payload_has_frames_too() {
        assert_eq!(Frames::new(PayloadSizes { min: 1 << 20, max: 1 << 20 }, 1).count(), 1);
        assert_eq!(Frames::new(PayloadSizes { min: 0, max: 1 << 20 }, 1).count(), 16);
        assert!(Frames::new(PayloadSizes { min: 0, max: 0 }, 1).count() > 1000);
    }
}
