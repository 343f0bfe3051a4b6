//! The bytes of requests, encoded before the run.
//!
//! One row of frames serves every connection of a thread: a send writes its IDs into a slice of the row. A request
//! therefore needs no allocation, no copy and no random number, and the bytes stay in the CPU's cache. Payloads are
//! generated only here.

use std::ops::Range;

use super::plan::PayloadSizes;
use crate::ledger::{STAMP_LEN, Stamp};
use crate::proto::{COMMAND_LEN, HEADER_LEN, ID_LEN, Id, Kind, LENGTH_LEN};

/// A row of frames that lack only their IDs.
///
/// Frames are handed out from front to back, each only once before [`Self::reuse`]: bytes that the kernel has not
/// copied yet must not get another ID.
#[derive(Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    /// The beginning of each frame, and the end of the last one.
    bounds: Vec<usize>,
    /// The frame that is handed out next.
    next: usize,
    /// How many frames are handed out.
    out: usize,
    one_size: bool,
    stamps: Option<Stamps>,
}

/// The stamps at the beginning of payloads, in a run that keeps a ledger.
#[derive(Debug)]
struct Stamps {
    run: u64,
    /// The number of low bits of an ID that count the connection's requests. The other bits are the connection's
    /// number.
    number_bits: u32,
    /// The checksums of the payloads that were handed out.
    crcs: Vec<u32>,
}

impl Frames {
    /// Returns frames with payloads of these sizes, which are drawn by a generator that starts with `seed`.
    pub fn new(payload: PayloadSizes, seed: u64) -> Self {
        let len_mean = HEADER_LEN + payload.min.midpoint(payload.max);
        let one_size = payload.min == payload.max;
        let count = if one_size {
            (ONE_SIZE_BYTES / len_mean).clamp(1, ONE_SIZE_COUNT_MAX)
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
        Frames { bytes, bounds, next: 0, out: 0, one_size, stamps: None }
    }

    /// Writes a stamp of this run to the beginning of each payload from now on. Every payload must have room for it.
    /// The low `number_bits` of an ID count the connection's requests, and the other bits are the connection's number.
    pub fn stamp(&mut self, run: u64, number_bits: u32) {
        self.stamps = Some(Stamps { run, number_bits, crcs: Vec::new() });
    }

    /// Returns the checksums of the payloads that were handed out since the list was last cleared, or `None` without
    /// stamps.
    pub fn crcs(&mut self) -> Option<&mut Vec<u32>> {
        self.stamps.as_mut().map(|stamps| &mut stamps.crcs)
    }

    /// Hands out up to `wanted` frames, numbered from `id`. Returns the range of their bytes and their number: fewer
    /// than `wanted` at the end of the row, where the next call continues at the beginning, and 0 once all frames are
    /// handed out.
    #[inline]
    pub fn take(&mut self, id: u64, wanted: usize) -> (Range<usize>, usize) {
        let total = self.bounds.len() - 1;
        let count = wanted.min(total - self.next).min(total - self.out);
        let bounds = &self.bounds[self.next..=self.next + count];
        for (frame, id) in bounds[..count].iter().zip(id..) {
            let id_at = frame + LENGTH_LEN + COMMAND_LEN;
            self.bytes[id_at..id_at + ID_LEN].copy_from_slice(&Id::from_number(id).0);
        }
        if let Some(stamps) = &mut self.stamps {
            for (frame, id) in bounds.windows(2).zip(id..) {
                stamps.put(&mut self.bytes[frame[0] + HEADER_LEN..frame[1]], id);
            }
        }
        let range = bounds[0]..bounds[count];
        self.next = (self.next + count) % total;
        self.out += count;
        (range, count)
    }

    /// Returns the bytes of a range that [`Self::take`] returned.
    #[inline]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.bytes[range]
    }

    /// Returns the bytes of one frame, for a caller that sends or copies them before the next call.
    pub fn one(&mut self, id: u64) -> &[u8] {
        self.reuse();
        let (range, _) = self.take(id, 1);
        &self.bytes[range]
    }

    /// Allows all frames to be handed out again: the kernel has copied their bytes. Frames of one size begin at the
    /// front again, where they are in the CPU's cache. Frames of mixed sizes continue, because otherwise only the first
    /// few sizes would be used.
    #[inline]
    pub fn reuse(&mut self) {
        self.out = 0;
        if self.one_size {
            self.next = 0;
        }
    }
}

impl Stamps {
    fn put(&mut self, payload: &mut [u8], id: u64) {
        let (connection, number) = (id >> self.number_bits, id & ((1 << self.number_bits) - 1));
        payload[..STAMP_LEN].copy_from_slice(&Stamp { run: self.run, connection, number }.encode());
        self.crcs.push(crc32c::crc32c(payload));
    }
}

/// Returns the next pseudorandom number (Knuth's MMIX generator, whose high half is good).
fn next_random(last: u64) -> u64 {
    last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407)
}

/// Frames of one size are all alike: there are enough of them for one loop iteration of a busy thread.
const ONE_SIZE_BYTES: usize = 1 << 20;
const ONE_SIZE_COUNT_MAX: usize = 16384;
/// Frames of mixed sizes: enough to cover the range, and not so many that large ones fill the memory.
const MIXED_BYTES: usize = 8 << 20;
const MIXED_COUNT_MIN: usize = 16;
const MIXED_COUNT_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::FrameReader;

    fn read(bytes: &[u8]) -> Vec<(Id, usize)> {
        let (reader, mut bytes) = (FrameReader::new(Kind::COMMANDS, 2 << 20), bytes);
        let frames = std::iter::from_fn(|| reader.next(&mut bytes).unwrap());
        frames.map(|frame| (frame.id, frame.body.len())).collect()
    }

    #[test]
    fn frames_are_numbered_in_order() {
        let mut frames = Frames::new(PayloadSizes { min: 32, max: 32 }, 1);
        let (range, count) = frames.take(0xff, 3);
        assert_eq!(count, 3);
        assert_eq!(read(frames.bytes(range)), [0xff, 0x100, 0x101].map(|id| (Id::from_number(id), 32)));
    }

    #[test]
    fn no_frame_is_handed_out_twice_before_reuse() {
        for max in [32, 33] {
            let mut frames = Frames::new(PayloadSizes { min: 32, max }, 1);
            let total = frames.bounds.len() - 1;
            frames.take(0, 10);
            frames.reuse();
            let mut bytes = Vec::new();
            loop {
                let (range, count) = frames.take(0, 1000);
                if count == 0 {
                    break;
                }
                bytes.extend(range);
            }
            bytes.sort_unstable();
            assert_eq!(bytes, (0..frames.bytes.len()).collect::<Vec<_>>());
            assert_eq!(frames.out, total);
        }
    }

    #[test]
    fn mixed_sizes_are_spread_over_their_range() {
        let frames = Frames::new(PayloadSizes { min: 16, max: 1039 }, 1);
        let sizes = read(&frames.bytes);
        let mut quarters = [0; 4];
        for (_, len) in &sizes {
            quarters[(len - 16) / 256] += 1;
        }
        assert!(quarters.iter().all(|&quarter| quarter > sizes.len() / 5), "{quarters:?}");
    }

    #[test]
    fn the_largest_payload_has_frames_too() {
        let count = |min, max| Frames::new(PayloadSizes { min, max }, 1).bounds.len() - 1;
        assert_eq!(count(2 << 20, 2 << 20), 1);
        assert_eq!(count(0, 1 << 20), 16);
        assert!(count(0, 0) > 1000);
    }
}
