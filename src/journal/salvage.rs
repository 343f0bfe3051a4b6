//! Searches a writer's segments after damage: for the durable numbers that decide whether the damage is corruption, and
//! for the next commit that can be read.

use super::format::BLOCK_LEN;
use super::segment_file::{Fault, SCAN_LEN, SegmentFile, read};

/// A search through the blocks of a writer.
pub struct Search {
    /// The writer's salt. Without it, a payload could pass for a commit, so nothing is found to resume from.
    pub salt: Option<u64>,
    /// Reading can't resume from commits up to this number.
    pub above: u64,
    /// Whether the search ends at the first commit to resume from, because all durable numbers are already known.
    pub first_only: bool,
    /// The result so far.
    pub found: Found,
}

/// The result of a search.
#[derive(Debug, Default)]
pub struct Found {
    /// The highest durable number that a readable header names.
    pub durable: u64,
    /// Whether the writer wrote anything there. In a recycled segment, a readable header shows this. In any other,
    /// every byte that is not zero does.
    pub data: bool,
    /// The first block that can't be read: segment, offset and error.
    pub unreadable: Option<(u32, u64, i32)>,
    /// The segment of the first readable header, and the number of that segment's first commit.
    pub first: Option<(u32, u64)>,
    /// The first whole commit with a number above [`Search::above`]: segment, offset and number.
    pub resume: Option<(u32, u64, u64)>,
}

impl Search {
    /// Searches a segment from `offset` on. Returns whether to continue with the next segment. Blocks that the disk has
    /// lost are skipped, each after one attempt.
    ///
    /// # Errors
    /// A block can't be read for any other reason.
    pub fn look_through(&mut self, segment: &SegmentFile, mut offset: u64) -> Result<bool, Fault> {
        if let Some(fault) = segment.header_fault() {
            self.skip(segment, &fault);
        }
        loop {
            let (chunk, fault) = read(&segment.file, offset, SCAN_LEN);
            if chunk.is_empty() && fault.is_none() {
                return Ok(true);
            }
            for block in chunk.chunks(BLOCK_LEN) {
                if segment.has_data(block, self.salt) {
                    self.found.data = true;
                    self.look_at(segment, offset, block)?;
                    if self.first_only && self.found.resume.is_some() {
                        return Ok(false);
                    }
                }
                offset += BLOCK_LEN as u64;
            }
            match fault {
                Some(fault) if fault.is_lost() => {
                    self.skip(segment, &fault);
                    offset = fault.offset + BLOCK_LEN as u64;
                }
                Some(fault) => return Err(fault),
                None => {}
            }
        }
    }

    fn skip(&mut self, segment: &SegmentFile, fault: &Fault) {
        self.found.unreadable.get_or_insert((segment.number, fault.offset, fault.errno()));
    }

    fn look_at(&mut self, segment: &SegmentFile, offset: u64, block: &[u8]) -> Result<(), Fault> {
        let Some(header) = segment.own_header(block, self.salt) else { return Ok(()) };
        let found = &mut self.found;
        found.durable = found.durable.max(header.durable);
        found.first.get_or_insert((segment.number, header.first_commit));
        if found.resume.is_some() || self.salt.is_none() || header.number <= self.above {
            return Ok(());
        }
        match segment.commit(offset, offset, self.salt) {
            Ok(Some(_)) => found.resume = Some((segment.number, offset, header.number)),
            Ok(None) => {}
            Err(fault) if fault.is_lost() => self.skip(segment, &fault),
            Err(fault) => return Err(fault),
        }
        Ok(())
    }
}
