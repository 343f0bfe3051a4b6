//! The position file: how far a live writer's records are durable, for readers that follow the writer.
//!
//! It is one small file that the writer overwrites in the page cache as commits become durable, at most once a
//! millisecond. It may be older than what the disk holds, after a crash much older, but it is never ahead of it.
//! Retention relies only on that. A read may overlap a write, so the file has a checksum, and a reader that finds a
//! torn value reads again.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use bytes::Buf;

use super::layout::{Access, POSITION};

/// How far a writer's records are durable. All fields are zero if no record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Durable {
    /// The number of the last durable commit. All commits before it are durable too.
    pub commit: u64,
    /// The sequence number of the last record in that commit.
    pub sequence: u64,
    /// The number of the segment that holds that commit.
    pub segment: u32,
    /// The offset in its segment at which that commit ends, in bytes, or 0 if the writer doesn't publish it.
    pub end: u64,
}

const LEN: usize = 36;
/// The length of an earlier layout, which has no `end`.
const SHORT_LEN: usize = 24;

impl Durable {
    fn encode(self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..8].copy_from_slice(&self.commit.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.segment.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.end.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes;
        let (commit, sequence, segment) = (fields.get_u64(), fields.get_u64(), fields.get_u32());
        let mut crc = (fields.get_u32(), crc32c::crc32c(&bytes[..20]));
        let mut end = 0;
        if bytes.len() == LEN {
            end = fields.get_u64();
            crc = (fields.get_u32(), crc32c::crc32c(&bytes[..32]));
        }
        (crc.0 == crc.1).then_some(Durable { commit, sequence, segment, end })
    }
}

/// A position file that is open for its writer.
#[derive(Debug)]
pub struct PositionFile(File);

impl PositionFile {
    /// Creates the file, with nothing durable.
    ///
    /// # Errors
    /// The file can't be created or written.
    pub fn create(writer_dir: &Path) -> io::Result<Self> {
        let file =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(writer_dir.join(POSITION))?;
        Access::of(writer_dir)?.apply(&file)?;
        let file = PositionFile(file);
        file.publish(Durable::default())?;
        Ok(file)
    }

    /// Publishes how far records are durable. This is one write to the page cache. It takes about a microsecond, but
    /// blocks for as long as the disk stalls, so a shard's thread must not call it.
    ///
    /// # Errors
    /// The file can't be written. Followers then wait, and nothing is lost.
    pub fn publish(&self, durable: Durable) -> io::Result<()> {
        self.0.write_all_at(&durable.encode(), 0)
    }
}

/// Returns the position that a writer last published. The writer may already be further.
///
/// # Errors
/// The file can't be read. A missing or damaged file is no error: it means that nothing is known to be durable.
pub fn read(writer_dir: &Path) -> io::Result<Durable> {
    let file = match File::open(writer_dir.join(POSITION)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Durable::default()),
        file => file?,
    };
    for _ in 0..READS_MAX {
        let mut bytes = [0; LEN];
        let len = file.read_at(&mut bytes, 0)?;
        if len != LEN && len != SHORT_LEN {
            break;
        }
        if let Some(durable) = Durable::decode(&bytes[..len]) {
            return Ok(durable);
        }
        thread::yield_now();
    }
    Ok(Durable::default())
}

/// How many times in a row a read may overlap a write before the file counts as damaged.
const READS_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_reader_sees_no_torn_value() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), Durable::default());
        let file = PositionFile::create(dir.path()).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for commit in 0..50_000u64 {
                    let spread = commit * 0x0101_0101;
                    file.publish(Durable { commit, sequence: spread, segment: commit as u32, end: !commit }).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            });
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let durable = read(dir.path()).unwrap();
                assert!(durable.commit >= last, "{} after {last}", durable.commit);
                let commit = durable.commit;
                // The file is created without an end.
                let end = if commit == 0 { durable.end } else { !commit };
                assert_eq!(durable, Durable { commit, sequence: commit * 0x0101_0101, segment: commit as u32, end });
                last = durable.commit;
            }
        });
    }

    #[test]
    fn a_position_without_the_end_of_its_commit_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Durable { commit: 7, sequence: 70, segment: 2, end: 4096 };
        std::fs::write(dir.path().join(POSITION), &durable.encode()[..SHORT_LEN]).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Durable { end: 0, ..durable });
        for len in [0, SHORT_LEN - 1, SHORT_LEN + 1, LEN - 1] {
            std::fs::write(dir.path().join(POSITION), &durable.encode()[..len]).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Durable::default());
        }
    }
}
