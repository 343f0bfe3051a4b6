//! A moment by two clocks: the wall clock, which may be wrong or be set, and the time since the host's boot, which
//! never goes back and is meaningful only on that boot.
//!
//! A segment's header has both times. Retention uses them to find how old a segment of this boot is, whatever the
//! wall clock showed, and what the wall clock of an earlier boot should have shown once it was set right.

use std::sync::OnceLock;

use bytes::Buf;
use rustix::time::{ClockId, clock_gettime};

use super::format::SEGMENT_HEADER_LEN;
use crate::clock::wall_nanos;

/// A moment by the wall clock and by the time since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Nanoseconds since 1970.
    pub wall: u64,
    /// `None` if the host doesn't identify its boot.
    pub boot: Option<BootTime>,
}

/// The time since a specific boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTime {
    /// The boot's random number, from `/proc/sys/kernel/random/boot_id`.
    pub id: u128,
    /// Nanoseconds since that boot, including time in suspend.
    pub nanos: u64,
}

impl Moment {
    /// Returns the present moment.
    pub fn now() -> Self {
        Moment { wall: wall_nanos(), boot: BootTime::now() }
    }

    /// Returns the nanoseconds since `earlier`, if that was on the same boot.
    pub fn since_boot_time(&self, earlier: BootTime) -> Option<u64> {
        self.boot.filter(|boot| boot.id == earlier.id).map(|boot| boot.nanos.saturating_sub(earlier.nanos))
    }
}

/// The length of the boot time after a segment's header: the boot's ID, nanoseconds, and the CRC32C of the header and
/// both.
pub const BOOT_TIME_LEN: usize = 28;

impl BootTime {
    /// Returns the time since this boot, or `None` if the host doesn't identify its boot.
    pub fn now() -> Option<Self> {
        #[cfg(feature = "sim")]
        if let Some((id, nanos)) = crate::clock::simulated::boot_time() {
            return Some(BootTime { id, nanos });
        }
        static ID: OnceLock<Option<u128>> = OnceLock::new();
        let id = (*ID.get_or_init(boot_id))?;
        let time = clock_gettime(ClockId::Boottime);
        Some(BootTime { id, nanos: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 })
    }

    /// Encodes the bytes that follow a segment's header; `header` has the header's bytes.
    pub fn encode(self, header: &[u8; SEGMENT_HEADER_LEN]) -> [u8; BOOT_TIME_LEN] {
        let mut bytes = [0; BOOT_TIME_LEN];
        bytes[..16].copy_from_slice(&self.id.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.nanos.to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(header), &bytes[..24]);
        bytes[24..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Decodes the boot time in a segment's first block. Returns `None` if the segment was written without one.
    pub fn decode(block: &[u8]) -> Option<Self> {
        let bytes = block.get(..SEGMENT_HEADER_LEN + BOOT_TIME_LEN)?;
        let mut fields = &bytes[SEGMENT_HEADER_LEN..];
        let (id, nanos) = (fields.get_u128(), fields.get_u64());
        let crc = crc32c::crc32c(&bytes[..SEGMENT_HEADER_LEN + BOOT_TIME_LEN - 4]);
        (id != 0 && fields.get_u32() == crc).then_some(BootTime { id, nanos })
    }
}

fn boot_id() -> Option<u128> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|digit| *digit != '-').collect();
    u128::from_str_radix(&digits, 16).ok().filter(|id| *id != 0)
}

#[cfg(test)]
mod tests {
    use super::super::format::{BLOCK_LEN, SegmentHeader};
    use super::super::id::WriterId;
    use super::*;

    #[test]
    fn a_boot_time_survives_the_round_trip_and_belongs_to_its_header() {
        let header = SegmentHeader { segment: 1, writer: WriterId(7), salt: 3, created: 5, len: 9, recycled: false };
        let (header, boot) = (header.encode(), BootTime { id: 77, nanos: 12 });
        let mut block = vec![0; BLOCK_LEN];
        block[..SEGMENT_HEADER_LEN].copy_from_slice(&header);
        assert_eq!(BootTime::decode(&block), None, "a header of an earlier version");
        block[SEGMENT_HEADER_LEN..][..BOOT_TIME_LEN].copy_from_slice(&boot.encode(&header));
        assert_eq!(BootTime::decode(&block), Some(boot));
        for at in 0..SEGMENT_HEADER_LEN + BOOT_TIME_LEN {
            block[at] ^= 1;
            assert_eq!(BootTime::decode(&block), None, "byte {at}");
            block[at] ^= 1;
        }
        assert_eq!(BootTime::decode(&block[..60]), None);
    }

    #[test]
    fn the_time_since_boot_is_known_only_on_the_same_boot() {
        let at = |id, nanos| Moment { wall: 0, boot: Some(BootTime { id, nanos }) };
        assert_eq!(at(1, 30).since_boot_time(BootTime { id: 1, nanos: 10 }), Some(20));
        assert_eq!(at(2, 30).since_boot_time(BootTime { id: 1, nanos: 10 }), None);
        assert_eq!(Moment { wall: 9, boot: None }.since_boot_time(BootTime { id: 1, nanos: 10 }), None);
    }
}
