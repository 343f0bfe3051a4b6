//! Which old segments go: by the bytes of all segments, and by age, over all writers together.
//!
//! Whole segments go, the oldest first; a segment is as old as the last write to it. Never one that a
//! live writer writes to or will: of a live writer only segments before the one that holds its last
//! durable commit go, and all of those are durable. Of a dead writer any may go, and when all have,
//! the writer does.
//!
//! A segment that goes is removed, or becomes the next one of a writer that needs one just then: its
//! blocks were written before, if not to the last, so that it need not be filled. Only segments before
//! that of the last durable commit are recycled, of a dead writer too: what a killed process had under
//! way to its disk may land late, but not there.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::dir::{self, Owned};
use super::id::WriterId;
use super::position;
use super::scan::segment_path;

/// How much of a journal is kept. Nothing is removed where both are off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Bytes of all segments together, those that are only prepared included.
    pub bytes_max: Option<u64>,
    pub age_max: Option<Duration>,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    pub segments: u64,
    pub bytes: u64,
    pub writers: u64,
}

/// A segment, as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    /// The time of the last write to it or to an earlier segment of its writer.
    written: SystemTime,
    writer: WriterId,
    number: u32,
    bytes: u64,
    removable: bool,
    /// It has all of its blocks, nothing is under way to it, and nobody keeps it by another name.
    whole: bool,
}

impl Retention {
    pub fn is_off(&self) -> bool {
        self.bytes_max.is_none() && self.age_max.is_none()
    }

    /// Removes what is too much or too old. It makes blocking calls, some of which take milliseconds:
    /// not for a shard's thread.
    ///
    /// # Errors
    /// The directory can't be read, or a file not be removed. What was removed before stays so.
    pub fn enforce(&self, data_dir: &Path, now: SystemTime) -> io::Result<Removed> {
        let mut removed = Removed::default();
        if self.is_off() {
            return Ok(removed);
        }
        for segment in self.choose(list(data_dir)?, 0, now) {
            let dir = data_dir.join(segment.writer.to_string());
            if dir::remove_if_there(&segment_path(&dir, segment.number))? {
                removed.segments += 1;
                removed.bytes += segment.bytes;
            }
            if dir::segments(&dir)?.is_empty()
                && let Owned::Free(_lock) = dir::try_own(&dir)?
            {
                dir::remove_writer(&dir)?;
                removed.writers += 1;
            }
        }
        Ok(removed)
    }

    /// Gives the oldest segment of `len` bytes that has to go where as many are to come, the name `to`, in
    /// the directory of any writer of the same journal. Says whether there was one; that it has left its
    /// writer is on disk then. It makes blocking calls, as [`Self::enforce`].
    ///
    /// # Errors
    /// The directory can't be read, or a file not be renamed.
    pub fn recycle(&self, data_dir: &Path, len: u64, to: &Path, now: SystemTime) -> io::Result<bool> {
        if self.is_off() {
            return Ok(false);
        }
        let mut passed_over = Vec::new();
        for segment in self.choose(list(data_dir)?, len, now) {
            // A writer's segments go in their order, or its readers would find a hole.
            if !segment.whole || segment.bytes != len || passed_over.contains(&segment.writer) {
                passed_over.push(segment.writer);
                continue;
            }
            let dir = data_dir.join(segment.writer.to_string());
            match fs::rename(segment_path(&dir, segment.number), to) {
                // Another writer was quicker.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                // First, or a crash could leave what is written to it under its old name.
                Ok(()) => return dir::sync_dir(&dir).map(|()| true),
            }
        }
        Ok(false)
    }

    /// The segments that go where so many bytes are to come, oldest first.
    fn choose(&self, mut segments: Vec<Segment>, to_come: u64, now: SystemTime) -> Vec<Segment> {
        segments.sort_by_key(|segment| (segment.written, segment.writer, segment.number));
        let mut bytes = segments.iter().map(|segment| segment.bytes).sum::<u64>() + to_come;
        segments.retain(|segment| {
            let age = now.duration_since(segment.written).unwrap_or_default();
            let too_old = self.age_max.is_some_and(|age_max| age > age_max);
            let too_much = self.bytes_max.is_some_and(|bytes_max| bytes > bytes_max);
            let goes = segment.removable && (too_old || too_much);
            bytes -= if goes { segment.bytes } else { 0 };
            goes
        });
        segments
    }
}

fn list(data_dir: &Path) -> io::Result<Vec<Segment>> {
    let mut all = Vec::new();
    for writer in dir::writers(data_dir)? {
        let path = data_dir.join(writer.to_string());
        // In this order: what a writer publishes after it was seen to live only grows.
        let live = dir::is_live(&path)?;
        let active = position::read(&path)?.segment;
        let mut written = SystemTime::UNIX_EPOCH;
        for number in dir::segments(&path)? {
            let Some(metadata) = metadata(segment_path(&path, number))? else { continue };
            // A writer's segments go in their order, whatever the clock did.
            written = written.max(metadata.modified()?);
            let (bytes, allocated) = (metadata.len(), metadata.blocks() * STAT_BLOCK_LEN);
            let settled = number < active;
            let (removable, whole) = (!live || settled, settled && allocated >= bytes && metadata.nlink() == 1);
            all.push(Segment { written, writer, number, bytes, removable, whole });
        }
    }
    Ok(all)
}

fn metadata(path: PathBuf) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        metadata => metadata.map(Some),
    }
}

/// What stat counts blocks in, whatever the file system's are.
const STAT_BLOCK_LEN: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(written: u64, writer: u64, number: u32, removable: bool) -> Segment {
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(written);
        Segment { written, writer: WriterId(writer), number, bytes: 100, removable, whole: removable }
    }

    fn chosen(bytes_max: Option<u64>, age_max: Option<u64>) -> Vec<(u64, u32)> {
        chosen_where(0, bytes_max, age_max)
    }

    fn chosen_where(to_come: u64, bytes_max: Option<u64>, age_max: Option<u64>) -> Vec<(u64, u32)> {
        let retention = Retention { bytes_max, age_max: age_max.map(Duration::from_secs) };
        let segments = vec![
            segment(10, 1, 0, true),
            segment(30, 1, 1, true),
            segment(50, 1, 2, false),
            segment(20, 2, 0, true),
            segment(25, 2, 1, false),
        ];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        retention.choose(segments, to_come, now).into_iter().map(|segment| (segment.writer.0, segment.number)).collect()
    }

    #[test]
    fn the_oldest_go_first_over_all_writers_and_never_an_active_one() {
        assert_eq!(chosen(None, None), []);
        assert_eq!(chosen(Some(500), None), []);
        assert_eq!(chosen(Some(499), None), [(1, 0)]);
        assert_eq!(chosen(Some(300), None), [(1, 0), (2, 0)]);
        assert_eq!(chosen(Some(0), None), [(1, 0), (2, 0), (1, 1)]);
        assert_eq!(chosen(None, Some(40)), [(1, 0)]);
        assert_eq!(chosen(None, Some(0)), [(1, 0), (2, 0), (1, 1)]);
        assert_eq!(chosen(Some(300), Some(45)), [(1, 0), (2, 0)]);
        assert_eq!(chosen_where(100, Some(600), None), []);
        assert_eq!(chosen_where(100, Some(500), None), [(1, 0)]);
    }

    #[test]
    fn only_a_whole_segment_that_nothing_is_under_way_to_is_recycled() {
        let dir = tempfile::tempdir().unwrap();
        let mut made = dir::claim(dir.path(), 2, false).unwrap();
        for (writer, (active, mark)) in made.iter().zip([(3, 10), (2, 20)]) {
            for number in 0..4 {
                fs::write(segment_path(&writer.path, number), [mark + number as u8; 4096]).unwrap();
            }
            let durable = position::Durable { commit: 9, sequence: 9, segment: active, end: 0 };
            position::PositionFile::create(&writer.path).unwrap().publish(durable).unwrap();
        }
        let live = made.pop().unwrap();
        let dead = made.pop().unwrap().path;
        // One has no blocks, the other a second name.
        fs::remove_file(segment_path(&dead, 1)).unwrap();
        fs::File::create(segment_path(&dead, 1)).unwrap().set_len(4096).unwrap();
        fs::hard_link(segment_path(&live.path, 1), dir.path().join("backup")).unwrap();
        let to = live.path.join("to");
        let recycle = |bytes_max| {
            let retention = Retention { bytes_max, age_max: None };
            let recycled = retention.recycle(dir.path(), 4096, &to, SystemTime::now()).unwrap();
            recycled.then(|| fs::read(&to).unwrap()[0])
        };
        assert_eq!((recycle(None), recycle(Some(1 << 20))), (None, None));
        let first = recycle(Some(0));
        assert_eq!([first, recycle(Some(0))].iter().flatten().sum::<u8>(), 30, "the first of each writer");
        assert_eq!(recycle(Some(0)), None);
        assert_eq!(dir::segments(&dead).unwrap(), [1, 2, 3], "and none behind one that stays");
        assert_eq!(dir::segments(&live.path).unwrap(), [1, 2, 3]);
    }

    #[test]
    fn a_dead_writer_goes_with_its_last_segment() {
        let dir = tempfile::tempdir().unwrap();
        let mut made = dir::claim(dir.path(), 2, false).unwrap();
        for writer in &made {
            for number in 0..3 {
                fs::write(segment_path(&writer.path, number), [1; 100]).unwrap();
            }
        }
        let live = made.pop().unwrap();
        let durable = position::Durable { commit: 9, sequence: 9, segment: 1, end: 0 };
        position::PositionFile::create(&live.path).unwrap().publish(durable).unwrap();
        drop(made);
        let retention = Retention { bytes_max: Some(0), age_max: None };
        let removed = retention.enforce(dir.path(), SystemTime::now()).unwrap();
        assert_eq!(removed, Removed { segments: 4, bytes: 400, writers: 1 });
        assert_eq!(dir::writers(dir.path()).unwrap(), [live.id]);
        assert_eq!(dir::segments(&live.path).unwrap(), [1, 2]);
    }
}
