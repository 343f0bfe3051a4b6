//! The plan of retention: lists all segments of a journal, determines their order and age, and names the ones to be
//! removed, one after the other.
//!
//! The plan changes nothing on disk. The rules are in the [module's documentation](super).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::dir;
use super::super::format::{BLOCK_LEN, SegmentHeader};
use super::super::id::WriterId;
use super::super::layout::{self, segment_path};
use super::super::moment::{BootTime, Moment};
use super::super::position;
use super::super::segment_file::SegmentFile;
use super::limits::Retention;

/// The receive times of the last messages of segments, for segments where only reading the segment shows it.
pub type Ends = HashMap<(WriterId, u32), Option<u64>>;

/// A segment as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedSegment {
    /// The segment's writer.
    pub writer: WriterId,
    /// The segment's number.
    pub number: u32,
    /// The length of the file in bytes.
    pub len: u64,
    /// How many of these bytes count for the size limit.
    counted: u64,
    removable: bool,
    /// Whether the file has all of its blocks, no write to it is in flight, and it has no other hard link.
    pub whole: bool,
}

/// A writer's remaining segments, oldest first.
#[derive(Debug)]
struct Queue {
    dir: PathBuf,
    writer: WriterId,
    segments: VecDeque<RetainedSegment>,
    /// The latest possible time of the first segment's last message, once that was determined.
    last: Option<Age>,
}

/// A point in time, in nanoseconds since 1970 as the wall clock counts them now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Age {
    at: i128,
    /// Whether the time since boot was used, so that the age is right even if the wall clock is wrong.
    exact: bool,
}

/// The segments to be removed, one after the other.
pub struct Plan<'a> {
    retention: Retention,
    now: Moment,
    /// Writers by their start times, as their IDs show them: oldest first.
    starts: BTreeMap<u64, Vec<Queue>>,
    /// The number of bytes that are left.
    bytes: u64,
    /// For earlier boots: the last time that their wall clocks showed, minus the time since boot.
    boots: HashMap<u128, i128>,
    ends: &'a mut Ends,
}

impl<'a> Plan<'a> {
    /// Lists a data directory in which the segment `making` is being made. All earlier segments of its writer are full,
    /// except the previous one, to which the first commit is being written. Writers that can't be read are omitted and
    /// added to `failures`.
    pub fn new(
        retention: Retention,
        data_dir: &Path,
        making: Option<(WriterId, u32)>,
        now: Moment,
        ends: &'a mut Ends,
        failures: &mut Vec<(WriterId, String, io::Error)>,
    ) -> io::Result<Self> {
        let bytes = u64::from(making.is_some());
        let mut plan = Plan { retention, now, starts: BTreeMap::new(), bytes, boots: HashMap::new(), ends };
        for writer in layout::writers(data_dir)? {
            let full = making.filter(|(of, _)| *of == writer).map_or(0, |(_, number)| number.saturating_sub(1));
            match Queue::list(data_dir.join(writer.to_string()), writer, full) {
                Ok(Some(queue)) => plan.add(queue),
                Ok(None) => {}
                Err(error) => failures.push((writer, "reading the writer".to_owned(), error)),
            }
        }
        Ok(plan)
    }

    fn add(&mut self, queue: Queue) {
        self.bytes += queue.segments.iter().map(|segment| segment.counted).sum::<u64>();
        if self.retention.age_limit().is_some()
            && let Some(newest) = queue.segments.back()
            && let Some((wall, Some(boot))) = made(&queue.dir, newest.writer, newest.number)
        {
            self.boots.insert(boot.id, i128::from(wall) - i128::from(boot.nanos));
        }
        self.starts.entry(queue.writer.started_nanos()).or_default().push(queue);
    }

    /// Returns the next segment to be removed.
    pub fn next(&mut self) -> Option<RetainedSegment> {
        let mut starts = std::mem::take(&mut self.starts);
        let too_much = self.retention.bytes_limit().is_some_and(|bytes_max| self.bytes > bytes_max);
        let segment = if too_much { self.oldest(&mut starts) } else { None };
        let segment = segment.or_else(|| self.too_old(&mut starts));
        self.starts = starts;
        self.bytes -= segment.as_ref().map_or(0, |segment| segment.counted);
        segment
    }

    /// Returns the oldest segment that may be removed.
    fn oldest(&mut self, starts: &mut BTreeMap<u64, Vec<Queue>>) -> Option<RetainedSegment> {
        for queues in starts.values_mut() {
            let mut expendable: Vec<_> = queues.iter_mut().filter(|queue| queue.is_expendable()).collect();
            let first = match expendable.len() {
                0 => continue,
                1 => 0,
                // A segment of unknown age counts as new.
                count => (0..count).min_by_key(|at| self.last(expendable[*at]).map_or(i128::MAX, |last| last.at))?,
            };
            return expendable.swap_remove(first).pop();
        }
        None
    }

    /// Returns a segment that is older than the limit.
    fn too_old(&mut self, starts: &mut BTreeMap<u64, Vec<Queue>>) -> Option<RetainedSegment> {
        let age_max = self.retention.age_limit()?;
        let age_max_nanos = i128::try_from(age_max.as_nanos()).unwrap_or(i128::MAX);
        // The wall clock of an earlier boot is compared with that of this one only once this one can be trusted.
        let up = self.now.boot.map_or(u64::MAX, |boot| boot.nanos);
        let clock_counts = self.now.wall >= EARLIEST && u128::from(up) >= CLOCK_GRACE.min(age_max).as_nanos();
        for queue in starts.values_mut().flatten().filter(|queue| queue.is_expendable()) {
            let Some(last) = self.last(queue) else { continue };
            if (last.exact || clock_counts) && i128::from(self.now.wall) - last.at > age_max_nanos {
                return queue.pop();
            }
        }
        None
    }

    /// Returns the latest possible time of the last message in a writer's oldest segment, if that is known.
    fn last(&mut self, queue: &mut Queue) -> Option<Age> {
        if queue.last.is_none() {
            queue.last = self.find_last(queue);
        }
        queue.last
    }

    fn find_last(&mut self, queue: &Queue) -> Option<Age> {
        let first = queue.segments.front()?;
        // The first plausible time of the segments that were made after its last message.
        for later in queue.segments.iter().filter(|later| later.number >= first.number + 2).take(LATER_LOOKS) {
            if let Some(age) = self.made(&queue.dir, later) {
                return Some(age);
            }
        }
        let key = (first.writer, first.number);
        let received = *self.ends.entry(key).or_insert_with(|| last_received(&queue.dir, first));
        // A segment without a record has nothing that could expire.
        let begun = self.made(&queue.dir, first);
        let at = received.map(i128::from).or(begun.map(|begun| begun.at))?;
        let is_plausible = self.is_plausible(at) && begun.is_none_or(|begun| at >= begun.at);
        let exact = begun.is_some_and(|begun| begun.exact);
        if is_plausible {
            return Some(Age { at, exact });
        }
        self.next_start(queue)
    }

    /// Returns when a segment was made.
    fn made(&self, dir: &Path, segment: &RetainedSegment) -> Option<Age> {
        let (wall, boot) = made(dir, segment.writer, segment.number)?;
        if let Some(passed) = boot.and_then(|boot| self.now.since_boot_time(boot)) {
            return Some(Age { at: i128::from(self.now.wall) - i128::from(passed), exact: true });
        }
        let set_right = boot.and_then(|boot| Some(i128::from(boot.nanos) + self.boots.get(&boot.id)?));
        let at = set_right.unwrap_or(wall.into());
        self.is_plausible(at).then_some(Age { at, exact: false })
    }

    /// Returns whether the wall clock may have shown this time while it was right.
    fn is_plausible(&self, at: i128) -> bool {
        (EARLIEST.into()..=i128::from(self.now.wall)).contains(&at)
    }

    /// Returns the first plausible time of a later start: everything that the writer wrote is older.
    fn next_start(&self, queue: &Queue) -> Option<Age> {
        // `starts` is borrowed by the caller; the directories of a later start show the same.
        let data_dir = queue.dir.parent()?;
        let writers = layout::writers(data_dir).ok()?;
        let later = writers.iter().filter(|later| later.started_nanos() > queue.writer.started_nanos());
        later.take(LATER_LOOKS).find_map(|later| {
            let dir = data_dir.join(later.to_string());
            let number = *layout::segments(&dir).ok()?.first()?;
            let segment =
                RetainedSegment { writer: *later, number, len: 0, counted: 0, removable: false, whole: false };
            self.made(&dir, &segment)
        })
    }

    /// Records that a segment could not be removed: it stays, and so do all later segments of its writer.
    pub fn keep(&mut self, segment: &RetainedSegment) {
        self.bytes += segment.counted;
        for queue in self.starts.values_mut().flatten().filter(|queue| queue.writer == segment.writer) {
            queue.segments.clear();
        }
    }

    /// Returns the segments that stay.
    pub fn known(&self) -> impl Iterator<Item = (WriterId, u32)> {
        self.starts.values().flatten().flat_map(|queue| &queue.segments).map(|segment| (segment.writer, segment.number))
    }
}

impl Queue {
    /// Lists a writer's segments, of which those before `full` are known to be full. Returns `None` for a writer
    /// without a lock file.
    fn list(dir: PathBuf, writer: WriterId, full: u32) -> io::Result<Option<Queue>> {
        if !dir::has_lock(&dir)? {
            return Ok(None);
        }
        // In this order: a live writer's position only advances afterwards.
        let live = dir::is_live(&dir)?;
        let durable = position::read(&dir)?;
        let mut segments = VecDeque::new();
        for number in layout::segments(&dir)? {
            let Some(metadata) = metadata(segment_path(&dir, number))? else { continue };
            let (len, allocated) = (metadata.len(), metadata.blocks() * STAT_BLOCK_LEN);
            let settled = number < durable.segment;
            let counted = match () {
                () if !live || settled || number < full => len,
                () if number > durable.segment || durable.commit == 0 => 0,
                // A writer of an earlier version doesn't publish where its last commit ends.
                () if durable.end == 0 => len,
                () => durable.end.min(len),
            };
            let (removable, whole) = (!live || settled, settled && allocated >= len && metadata.nlink() == 1);
            segments.push_back(RetainedSegment { writer, number, len, counted, removable, whole });
        }
        Ok(Some(Queue { dir, writer, segments, last: None }))
    }

    fn is_expendable(&self) -> bool {
        self.segments.front().is_some_and(|segment| segment.removable)
    }

    fn pop(&mut self) -> Option<RetainedSegment> {
        self.last = None;
        self.segments.pop_front()
    }
}

fn metadata(path: PathBuf) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        metadata => metadata.map(Some),
    }
}

/// Returns when a segment was made, according to its header: by the wall clock, and since boot. Returns `None` if the
/// header can't be read.
fn made(dir: &Path, writer: WriterId, number: u32) -> Option<(u64, Option<BootTime>)> {
    let mut block = [0; BLOCK_LEN];
    let len = File::open(segment_path(dir, number)).ok()?.read_at(&mut block, 0).ok()?;
    let header = SegmentHeader::decode(&block[..len]).ok()?;
    (header.writer == writer && header.segment == number).then(|| (header.created, BootTime::decode(&block[..len])))
}

/// Returns when the last record of a segment was received, or `None` if the segment has no readable record.
fn last_received(dir: &Path, segment: &RetainedSegment) -> Option<u64> {
    let file = SegmentFile::open(segment_path(dir, segment.number), segment.number, segment.writer).ok()??;
    let salt = file.header.map(|header| header.salt);
    let (mut offset, mut expected, mut last) = (BLOCK_LEN as u64, None, None);
    while let Ok(Some(header)) = file.commit_header(offset, salt)
        && expected.is_none_or(|expected| expected == header.number)
    {
        if header.records > 0 {
            last = Some(offset);
        }
        expected = Some(header.number.saturating_add(1));
        offset += header.padded_len();
    }
    let (_, records) = file.commit(last?, 0, salt).ok()??;
    records.last().map(|record| record.received)
}

/// How many later segments or starts are checked for a plausible time.
const LATER_LOOKS: usize = 8;
/// 2025-01-01, in nanoseconds since 1970. This program did not exist before, so no message is older.
pub const EARLIEST: u64 = 1_735_689_600_000_000_000;
/// The unit in which stat counts blocks, whatever the block size of the file system is.
const STAT_BLOCK_LEN: u64 = 512;
/// How long a host must have been up before its wall clock is trusted.
pub const CLOCK_GRACE: Duration = Duration::from_secs(3600);
