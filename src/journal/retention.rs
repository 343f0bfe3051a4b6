//! Retention: decides which old segments are removed, by the bytes of all messages and by their age, over all writers
//! together.
//!
//! Whole segments are removed, the oldest first. A segment that a live writer writes to, or will write to, is never
//! removed: of a live writer, only segments before the one with its last durable commit are removed, and everything in
//! these is durable. Any segment of a dead writer may be removed, and the writer is removed with its last segment. A
//! writer without a lock file is left alone: the next start decides whether it is dead.
//!
//! An expired segment is removed, or it is recycled: if a writer needs a segment at that moment, the file becomes the
//! writer's next one. Its blocks are allocated, and most of them were written, so it need not be filled. Only segments
//! before the one with the last durable commit are recycled, also those of a dead writer: a late write of a killed
//! process can't reach them.
//!
//! # Order and age
//!
//! File timestamps are not used: a copy, a restore or a wrong clock changes them. Segments are ordered by the starts
//! of their writers, as their IDs show it (a start uses an ID above all others, whatever the clock shows). Among the
//! writers of one start, they are ordered by the last message of each segment, and within one writer by segment
//! number.
//!
//! A segment's last message was received before the segment after the next one was made, because that one is made when
//! the next one is first written to. Segment headers say when the segments were made, by two clocks ([`Moment`]):
//!
//! * On this boot, the age is the time since boot that has passed since then. The wall clock may have been set
//!   meanwhile, or be wrong now.
//! * On an earlier boot, the wall clock counts, as it was last set on that boot. If everything that it showed is
//!   before this program existed, or in the future, the next later plausible time counts. Such segments are removed
//!   by age only once the host has been up for [`CLOCK_GRACE`], since a host's clock is set right within that time.
//!
//! If there is no segment after the next one, the receive time of the last message counts, provided that it is between
//! the time in the segment's header and the present. If nothing is known, the segment stays.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::warn;

use super::dir::{self, Owned};
use super::format::{BLOCK_LEN, SegmentHeader};
use super::id::WriterId;
use super::layout::{self, segment_path};
use super::moment::{BootTime, Moment};
use super::position;
use super::segment_file::SegmentFile;

/// How much of a journal is kept. Nothing is removed if both limits are off, which is the default.
///
/// [`Enforcer`] applies the limits. A [`Storage`](super::storage::Storage) that recycles expired segments uses
/// [`Retention::recycle`].
///
/// ```no_run
/// use std::time::Duration;
/// use ringpost::journal::moment::Moment;
/// use ringpost::journal::retention::{Enforcer, Retention};
///
/// let retention = Retention::default().bytes_max(Some(10 << 30)).age_max(Some(Duration::from_secs(7 * 86_400)));
/// let mut enforcer = Enforcer::new(retention, "/var/lib/journal".into());
/// // From time to time:
/// let removed = enforcer.enforce(Moment::now())?;
/// println!("{} segments were removed", removed.segments);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The maximum size in bytes of all segments that were written to. The segment that is being written to counts
    /// only as far as it is written. Segments that are only prepared don't count. `None` or 0 means no limit.
    pub bytes_max: Option<u64>,
    /// The maximum age of a segment's last message. `None` or 0 means no limit.
    pub age_max: Option<Duration>,
}

/// What one call of [`Enforcer::enforce`] has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// The number of segments.
    pub segments: u64,
    /// The bytes of these segments.
    pub bytes: u64,
    /// The number of writers whose last segment was removed.
    pub writers: u64,
    /// The number of writers with something that could not be read or removed. Everything else was done nevertheless.
    pub failed: u64,
}

impl Retention {
    /// Sets the maximum size of all segments in bytes.
    pub fn bytes_max(mut self, bytes_max: Option<u64>) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Sets the maximum age of a segment's last message.
    pub fn age_max(mut self, age_max: Option<Duration>) -> Self {
        self.age_max = age_max;
        self
    }

    /// Returns whether there is no limit.
    pub fn is_off(&self) -> bool {
        self.bytes_limit().is_none() && self.age_limit().is_none()
    }

    fn bytes_limit(&self) -> Option<u64> {
        self.bytes_max.filter(|bytes_max| *bytes_max > 0)
    }

    fn age_limit(&self) -> Option<Duration> {
        self.age_max.filter(|age_max| !age_max.is_zero())
    }

    /// Returns how long a writer may write to one segment, so that its messages are removed in time: for
    /// [`WriterOptions::roll_age`](super::WriterOptions::roll_age).
    pub fn roll_age(&self) -> Option<Duration> {
        self.age_limit().map(|age_max| (age_max / ROLLS_PER_AGE).max(INTERVAL))
    }

    /// Renames an expired segment of exactly `len` bytes to `to`, which is the path of a segment that is being made, in
    /// the directory of any writer of the same journal. The limits are applied as if that segment were already in use.
    /// Returns whether there was such a segment. Its removal from its writer is then durable. This makes blocking calls,
    /// like [`Enforcer::enforce`].
    ///
    /// # Errors
    /// The directory can't be read, or the segment can't be renamed.
    pub fn recycle(&self, data_dir: &Path, len: u64, to: &Path, now: Moment) -> io::Result<bool> {
        if self.is_off() {
            return Ok(false);
        }
        let mut ends = HashMap::new();
        // The enforcer reports what can't be read.
        let mut plan = Plan::new(*self, data_dir, segment_of(to), now, &mut ends, &mut Vec::new())?;
        while let Some(segment) = plan.next() {
            let dir = data_dir.join(segment.writer.to_string());
            if !segment.whole || segment.len != len {
                // This segment must be removed before a newer one, here as well as when the limits are enforced.
                if remove(&dir, &segment, &mut Removed::default()).is_err() {
                    plan.keep(&segment);
                }
                continue;
            }
            match fs::rename(segment_path(&dir, segment.number), to) {
                // Another writer has recycled it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                // Before the file is written to: after a crash, it could have its old name again.
                Ok(()) => return layout::sync_dir(&dir).map(|()| true),
            }
        }
        Ok(false)
    }
}

/// Enforces a [`Retention`] repeatedly on one data directory.
#[derive(Debug)]
pub struct Enforcer {
    retention: Retention,
    data_dir: PathBuf,
    /// The receive times of segments' last messages, for segments where only reading the segment shows it.
    ends: Ends,
    /// Whether an obviously wrong wall clock was reported.
    reported_clock: bool,
    /// Writers that were reported because something of them could not be read or removed.
    reported: HashSet<WriterId>,
}

type Ends = HashMap<(WriterId, u32), Option<u64>>;

impl Enforcer {
    /// Returns an enforcer for a data directory.
    pub fn new(retention: Retention, data_dir: PathBuf) -> Self {
        Enforcer { retention, data_dir, ends: Ends::new(), reported_clock: false, reported: HashSet::new() }
    }

    /// Removes segments beyond the size limit or the age limit. A failed removal is logged once and tried again by each
    /// call; until it succeeds, later segments of the same writer stay as well. This makes blocking calls, some of which
    /// need milliseconds, so don't call it on a shard's thread.
    ///
    /// # Errors
    /// The directory can't be listed.
    pub fn enforce(&mut self, now: Moment) -> io::Result<Removed> {
        let mut removed = Removed::default();
        if self.retention.is_off() {
            return Ok(removed);
        }
        if self.retention.age_limit().is_some() && now.wall < EARLIEST && !self.reported_clock {
            self.reported_clock = true;
            warn!(
                "the wall clock is wrong: it shows a time before 2025. --retain-age does not apply to messages from \
                 before the last boot until the clock is set"
            );
        }
        let mut failures = Vec::new();
        let mut plan = Plan::new(self.retention, &self.data_dir, None, now, &mut self.ends, &mut failures)?;
        while let Some(segment) = plan.next() {
            let dir = self.data_dir.join(segment.writer.to_string());
            match remove(&dir, &segment, &mut removed) {
                Ok(()) => {}
                Err((what, error)) => {
                    plan.keep(&segment);
                    failures.push((segment.writer, what, error));
                }
            }
        }
        let known: HashSet<_> = plan.known().collect();
        self.ends.retain(|key, _| known.contains(key));
        removed.failed = failures.len() as u64;
        let failed: HashSet<_> = failures.iter().map(|(writer, ..)| *writer).collect();
        self.reported.retain(|writer| failed.contains(writer));
        for (writer, what, error) in failures {
            if self.reported.insert(writer) {
                warn!(
                    %writer,
                    %what,
                    %error,
                    "cannot remove old segments of a writer; trying again. Until then its later segments stay as well"
                );
            }
        }
        Ok(removed)
    }
}

/// Removes a segment, and its writer if it has no other segment. An error comes with a description of what was tried.
fn remove(dir: &Path, segment: &Segment, removed: &mut Removed) -> Result<(), (String, io::Error)> {
    let path = segment_path(dir, segment.number);
    if layout::remove_if_there(&path).map_err(|error| (format!("removing {}", path.display()), error))? {
        removed.segments += 1;
        removed.bytes += segment.len;
    }
    let emptied = || {
        if layout::segments(dir)?.is_empty()
            && let Owned::Free(_lock) = dir::try_own(dir)?
        {
            dir::remove_writer(dir)?;
            return Ok(1);
        }
        Ok(0)
    };
    removed.writers += emptied().map_err(|error| (format!("removing {}", dir.display()), error))?;
    Ok(())
}

/// A segment as retention sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    writer: WriterId,
    number: u32,
    /// The length of the file in bytes, and how many of them count for the size limit.
    len: u64,
    counted: u64,
    removable: bool,
    /// Whether the file has all of its blocks, no write to it is in flight, and it has no other hard link.
    whole: bool,
}

/// A writer's remaining segments, oldest first.
#[derive(Debug)]
struct Queue {
    dir: PathBuf,
    writer: WriterId,
    segments: VecDeque<Segment>,
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
struct Plan<'a> {
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
    fn new(
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
    fn next(&mut self) -> Option<Segment> {
        let mut starts = std::mem::take(&mut self.starts);
        let too_much = self.retention.bytes_limit().is_some_and(|bytes_max| self.bytes > bytes_max);
        let segment = if too_much { self.oldest(&mut starts) } else { None };
        let segment = segment.or_else(|| self.too_old(&mut starts));
        self.starts = starts;
        self.bytes -= segment.as_ref().map_or(0, |segment| segment.counted);
        segment
    }

    /// Returns the oldest segment that may be removed.
    fn oldest(&mut self, starts: &mut BTreeMap<u64, Vec<Queue>>) -> Option<Segment> {
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
    fn too_old(&mut self, starts: &mut BTreeMap<u64, Vec<Queue>>) -> Option<Segment> {
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
    fn made(&self, dir: &Path, segment: &Segment) -> Option<Age> {
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
            let segment = Segment { writer: *later, number, len: 0, counted: 0, removable: false, whole: false };
            self.made(&dir, &segment)
        })
    }

    /// Records that a segment could not be removed: it stays, and so do all later segments of its writer.
    fn keep(&mut self, segment: &Segment) {
        self.bytes += segment.counted;
        for queue in self.starts.values_mut().flatten().filter(|queue| queue.writer == segment.writer) {
            queue.segments.clear();
        }
    }

    fn known(&self) -> impl Iterator<Item = (WriterId, u32)> {
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
            segments.push_back(Segment { writer, number, len, counted, removable, whole });
        }
        Ok(Some(Queue { dir, writer, segments, last: None }))
    }

    fn is_expendable(&self) -> bool {
        self.segments.front().is_some_and(|segment| segment.removable)
    }

    fn pop(&mut self) -> Option<Segment> {
        self.last = None;
        self.segments.pop_front()
    }
}

/// Returns the writer and the number of a segment that is being made.
fn segment_of(path: &Path) -> Option<(WriterId, u32)> {
    let writer = path.parent()?.file_name()?.to_str()?.parse().ok()?;
    let number = path.file_name()?.to_str()?.split('.').next()?.parse().ok()?;
    Some((writer, number))
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
fn last_received(dir: &Path, segment: &Segment) -> Option<u64> {
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

/// How many segments a writer leaves half empty within `--retain-age`. This bounds how late messages are removed.
const ROLLS_PER_AGE: u32 = 8;
/// How many later segments or starts are checked for a plausible time.
const LATER_LOOKS: usize = 8;
/// How long a host must have been up before its wall clock is trusted.
pub const CLOCK_GRACE: Duration = Duration::from_secs(3600);
/// 2025-01-01, in nanoseconds since 1970. This program did not exist before, so no message is older.
const EARLIEST: u64 = 1_735_689_600_000_000_000;
/// The unit in which stat counts blocks, whatever the block size of the file system is.
const STAT_BLOCK_LEN: u64 = 512;

/// How often a server looks for segments to remove.
pub const INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::super::format::{CommitHeader, SEGMENT_HEADER_LEN};
    use super::super::moment::BOOT_TIME_LEN;
    use super::super::position::{Durable, PositionFile};
    use super::super::sim::Random;
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// 2026-01-01.
    const TODAY: u64 = 1_767_225_600 * SECOND;

    fn boot(id: u128, seconds: u64) -> Option<BootTime> {
        Some(BootTime { id, nanos: seconds * SECOND })
    }

    fn at(wall: u64, boot: Option<BootTime>) -> Moment {
        Moment { wall, boot }
    }

    /// Makes a segment of four blocks at this moment, with a commit without records if it was used.
    fn segment(dir: &Path, writer: WriterId, number: u32, made: Moment, used: bool) {
        let header = SegmentHeader { segment: number, writer, salt: 5, created: made.wall, len: 0, recycled: false };
        let header = header.encode();
        let mut bytes = vec![0; LEN as usize];
        bytes[..SEGMENT_HEADER_LEN].copy_from_slice(&header);
        if let Some(boot) = made.boot {
            bytes[SEGMENT_HEADER_LEN..][..BOOT_TIME_LEN].copy_from_slice(&boot.encode(&header));
        }
        if used {
            let commit = CommitHeader {
                number: u64::from(number) + 1,
                durable: 0,
                writer,
                salt: 5,
                first_commit: u64::from(number) + 1,
                first_sequence: 1,
                segment: number,
                body_len: 0,
                records: 0,
                body_crc: 0,
            };
            bytes[BLOCK_LEN..BLOCK_LEN + 72].copy_from_slice(&commit.encode());
        }
        fs::write(segment_path(dir, number), bytes).unwrap();
    }

    const LEN: u64 = 4 * BLOCK_LEN as u64;

    /// Makes a dead writer with segments that were made at these moments.
    fn writer(data_dir: &Path, micros: u64, shard: usize, made: &[Moment]) -> WriterId {
        let id = WriterId::new(micros, shard);
        let dir = data_dir.join(id.to_string());
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("lock"), "").unwrap();
        for (number, made) in made.iter().enumerate() {
            segment(&dir, id, number as u32, *made, true);
        }
        id
    }

    fn left(data_dir: &Path) -> Vec<(WriterId, Vec<u32>)> {
        let writers = layout::writers(data_dir).unwrap();
        writers.into_iter().map(|id| (id, layout::segments(&data_dir.join(id.to_string())).unwrap())).collect()
    }

    fn enforce(data_dir: &Path, bytes_max: Option<u64>, age_max: Option<u64>, now: Moment) -> Removed {
        let retention = Retention { bytes_max, age_max: age_max.map(Duration::from_secs) };
        Enforcer::new(retention, data_dir.to_owned()).enforce(now).unwrap()
    }

    #[test]
    fn zero_is_no_limit() {
        let dir = tempfile::tempdir().unwrap();
        let old = at(TODAY, boot(1, 5000));
        writer(dir.path(), 1, 0, &[old, old, old]);
        let retention = Retention { bytes_max: Some(0), age_max: Some(Duration::ZERO) };
        assert!(retention.is_off() && retention.roll_age().is_none());
        assert_eq!(enforce(dir.path(), Some(0), Some(0), at(TODAY + 99 * SECOND, boot(1, 5099))), Removed::default());
        // Each limit by itself, while the other limit is in force and not reached.
        let now = at(TODAY + 99 * SECOND, boot(1, 5099));
        assert_eq!(enforce(dir.path(), Some(0), Some(1000), now).segments, 0);
        assert_eq!(enforce(dir.path(), Some(1 << 20), Some(0), now).segments, 0);
        assert_eq!(enforce(dir.path(), Some(1), Some(0), now).segments, 3);
    }

    #[test]
    fn the_oldest_segments_of_all_writers_are_removed_first_whatever_their_clocks_showed() {
        let (future, past) = (TODAY + 900_000_000 * SECOND, 5 * SECOND);
        for (seed, walls) in [[TODAY; 7], [future; 7], [past; 7], [future, TODAY, past, future, past, TODAY, past]]
            .into_iter()
            .enumerate()
        {
            let dir = tempfile::tempdir().unwrap();
            let made = |index: usize, seconds: u64| at(walls[index] + seconds * SECOND, boot(1, 5000 + seconds));
            // Two shards of one start, then a later start. The times are those at which the segments were made: a
            // segment's last message came when the one after the next one was made.
            let slow = writer(dir.path(), 1, 0, &[made(0, 1), made(1, 2), made(2, 90), made(3, 91)]);
            let quick = writer(dir.path(), 1, 1, &[made(4, 1), made(5, 2), made(6, 20)]);
            let later = writer(dir.path(), 2, 0, &[at(TODAY + 99 * SECOND, boot(1, 5099))]);
            let now = at(TODAY + 100 * SECOND, boot(1, 5100));
            let mut order = Vec::new();
            for keep in (1..8).rev() {
                let before = left(dir.path());
                assert_eq!(enforce(dir.path(), Some(keep * LEN), None, now).segments, 1);
                let gone = before.into_iter().find(|writer| !left(dir.path()).contains(writer)).unwrap();
                order.push((gone.0, gone.1[0]));
            }
            assert_eq!(order[0], (quick, 0), "{seed}");
            assert!(order.iter().all(|(writer, _)| *writer != later), "{seed}: {order:?}");
            assert_eq!(order.iter().filter(|(writer, _)| *writer == slow).count(), 4, "{seed}: {order:?}");
            assert_eq!(left(dir.path()), [(later, vec![0])]);
        }
    }

    #[test]
    fn no_fresh_message_is_removed_by_age_whatever_clock_was_wrong_and_old_ones_are() {
        const AGE: u64 = 1000;
        let mut removed_in_all = 0;
        for seed in 0..300 {
            let dir = tempfile::tempdir().unwrap();
            let mut random = Random(seed);
            let clock = |random: &mut Random| [0, -56, 9, 0][random.below(4) as usize] * 31_000_000_i64;
            // The true time: seconds since the journal's first day, and on which boot since when.
            let (mut time, mut boot_id, mut booted) = (10_000_u64, 1, 0_u64);
            let (mut segments, mut wrong) = (Vec::new(), clock(&mut random));
            let moment = |time: u64, wrong: i64, boot_id, booted| {
                let wall = TODAY.saturating_add(time * SECOND).saturating_add_signed(wrong * SECOND as i64);
                at(wall, boot(boot_id, time - booted))
            };
            for start in 0..1 + random.below(4) {
                if start > 0 && random.one_in(3) {
                    // An earlier boot's clock was set right in time, at the latest before that boot ended.
                    let last = moment(time, 0, boot_id, booted);
                    let id = writer(dir.path(), 100 * start + 50, 0, &[last]);
                    segments.push((id, 0, time));
                    (boot_id, booted, wrong) = (boot_id + 1, time, clock(&mut random));
                }
                let count = 1 + random.below(6);
                let mut made = Vec::new();
                let mut times = Vec::new();
                for _ in 0..count {
                    made.push(moment(time, wrong, boot_id, booted));
                    times.push(time);
                    time += random.below(600);
                    if random.one_in(3) {
                        wrong = clock(&mut random);
                    }
                }
                let id = writer(dir.path(), 100 * (start + 1), 0, &made);
                // The last message of each segment was received just before the one after the next one was made. The
                // last two segments have no record that would show when that was.
                for number in 0..times.len() {
                    let last = times.get(number + 2).copied().unwrap_or(times[number]);
                    segments.push((id, number as u32, last));
                }
            }
            // The current start.
            let own = writer(dir.path(), 9000, 0, &[moment(time, wrong, boot_id, booted)]);
            time += random.below(2000);
            // Once the host has been up for a while, its clock counts for messages of earlier boots.
            let wrong = if boot_id == 1 || time - booted < AGE { clock(&mut random) } else { 0 };
            let now = moment(time, wrong, boot_id, booted);
            removed_in_all += enforce(dir.path(), None, Some(AGE), now).segments;
            let left: HashSet<_> = left(dir.path())
                .into_iter()
                .flat_map(|(id, numbers)| numbers.into_iter().map(move |number| (id, number)))
                .collect();
            for (id, number, last) in segments.into_iter().filter(|(id, ..)| *id != own) {
                let fresh = time - last <= AGE;
                assert!(!fresh || left.contains(&(id, number)), "seed {seed}: segment {number} of {id} is fresh");
            }
        }
        assert!(removed_in_all > 100, "{removed_in_all}");
    }

    #[test]
    fn a_wrong_clock_changes_nothing_for_segments_of_this_boot() {
        for wall in [TODAY, TODAY + 900_000_000 * SECOND, 7 * SECOND] {
            let dir = tempfile::tempdir().unwrap();
            // The clock was in 2035, then in 1970, then right.
            let made = [(900_000_000 * SECOND + TODAY, 10), (40 * SECOND, 20), (TODAY, 30), (TODAY + SECOND, 500)];
            let made = made.map(|(wall, seconds)| at(wall, boot(1, seconds)));
            let id = writer(dir.path(), 1, 0, &made);
            let now = |seconds| at(wall, boot(1, seconds));
            assert_eq!(enforce(dir.path(), None, Some(100), now(125)).segments, 0, "the first ended at 30: {wall}");
            assert_eq!(enforce(dir.path(), None, Some(100), now(131)).segments, 1, "{wall}");
            assert_eq!(enforce(dir.path(), None, Some(100), now(590)).segments, 0, "{wall}");
            assert_eq!(left(dir.path()), [(id, vec![1, 2, 3])]);
        }
    }

    #[test]
    fn segments_of_an_earlier_boot_stay_until_the_clock_can_be_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let old = at(TODAY, boot(1, 50));
        writer(dir.path(), 1, 0, &[old, old, old]);
        let grace = CLOCK_GRACE.as_secs();
        let later = TODAY + 9_000_000 * SECOND;
        writer(dir.path(), 2, 0, &[at(later, boot(2, 10))]);
        let removed = |age, seconds, wall| enforce(dir.path(), None, Some(age), at(wall, boot(2, seconds))).segments;
        assert_eq!(removed(100_000, grace - 1, later), 0);
        assert_eq!(removed(100_000, grace + 1, 90 * SECOND), 0, "a clock that shows 1970");
        assert_eq!(removed(100_000, grace + 1, later), 3);
    }

    #[test]
    fn prepared_segments_and_the_rest_of_the_active_one_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir::claim(dir.path(), 1, false).unwrap().remove(0);
        for number in 0..4 {
            segment(&made.path, made.id, number, at(TODAY, None), number < 3);
        }
        let durable = Durable { commit: 3, sequence: 3, segment: 2, end: 8192 };
        PositionFile::create(&made.path).unwrap().publish(durable).unwrap();
        let removed = |bytes_max| enforce(dir.path(), Some(bytes_max), None, at(TODAY, None)).segments;
        assert_eq!(removed(2 * LEN + 8192), 0);
        assert_eq!(removed(2 * LEN + 8191), 1);
        assert_eq!(removed(1), 1, "and the active one and the next one stay");
        assert_eq!(layout::segments(&made.path).unwrap(), [2, 3]);
    }

    #[test]
    fn only_a_whole_segment_without_writes_in_flight_is_recycled() {
        let dir = tempfile::tempdir().unwrap();
        let mut made = dir::claim(dir.path(), 2, false).unwrap();
        for (writer, (active, mark)) in made.iter().zip([(3, 10), (2, 20)]) {
            for number in 0..4 {
                fs::write(segment_path(&writer.path, number), [mark + number as u8; 4096]).unwrap();
            }
            let durable = Durable { commit: 9, sequence: 9, segment: active, end: 0 };
            PositionFile::create(&writer.path).unwrap().publish(durable).unwrap();
        }
        let live = made.pop().unwrap();
        let dead = made.pop().unwrap().path;
        // One has no blocks, one has a second name, and one can't be removed.
        fs::remove_file(segment_path(&dead, 1)).unwrap();
        File::create(segment_path(&dead, 1)).unwrap().set_len(4096).unwrap();
        fs::hard_link(segment_path(&live.path, 0), dir.path().join("backup")).unwrap();
        fs::remove_file(segment_path(&live.path, 1)).unwrap();
        fs::create_dir(segment_path(&live.path, 1)).unwrap();
        let to = live.path.join("to");
        let recycle = |bytes_max| {
            let retention = Retention { bytes_max, age_max: None };
            let recycled = retention.recycle(dir.path(), 4096, &to, Moment::now()).unwrap();
            recycled.then(|| fs::read(&to).unwrap()[0])
        };
        assert_eq!((recycle(None), recycle(Some(1 << 20))), (None, None));
        let mut recycled = [recycle(Some(1)), recycle(Some(1))].map(Option::unwrap);
        recycled.sort_unstable();
        assert_eq!(recycled, [10, 12]);
        assert_eq!(recycle(Some(1)), None);
        assert!(!dead.exists(), "the segments before and after it were removed too");
        assert_eq!(layout::segments(&live.path).unwrap(), [1, 2, 3], "and no segment is removed after one that stays");
        assert!(dir.path().join("backup").exists());
    }

    #[test]
    fn only_segments_that_would_be_removed_are_recycled() {
        let dir = tempfile::tempdir().unwrap();
        let made = at(TODAY, None);
        let first = writer(dir.path(), 1, 0, &[made; 3]);
        let second = writer(dir.path(), 2, 0, &[made; 3]);
        for id in [first, second] {
            let durable = Durable { commit: 3, sequence: 3, segment: 2, end: LEN };
            PositionFile::create(&dir.path().join(id.to_string())).unwrap().publish(durable).unwrap();
        }
        // A live writer whose position is not yet at its third segment, to which its first commit is being written.
        let live = dir::claim(dir.path(), 1, false).unwrap().remove(0);
        for number in 0..3 {
            segment(&live.path, live.id, number, made, number < 2);
        }
        let durable = Durable { commit: 2, sequence: 2, segment: 1, end: LEN - 4096 };
        let position = PositionFile::create(&live.path).unwrap();
        position.publish(durable).unwrap();
        let to = live.path.join(layout::temporary_name(3));
        let recycle = |bytes_max| {
            let retention = Retention { bytes_max: Some(bytes_max), age_max: None };
            retention.recycle(dir.path(), LEN, &to, made).unwrap()
        };
        assert!(!recycle(8 * LEN + 1));
        assert!(recycle(8 * LEN), "the commit that needs a segment would exceed the limit");
        assert_eq!(left(dir.path())[..2], [(first, vec![1, 2]), (second, vec![0, 1, 2])]);
        position.publish(Durable { commit: 3, sequence: 3, segment: 2, end: 8192 }).unwrap();
        assert_eq!(enforce(dir.path(), Some(7 * LEN + 8192), None, made).segments, 0);
    }

    #[test]
    fn a_dead_writer_is_removed_with_its_last_segment() {
        let dir = tempfile::tempdir().unwrap();
        let mut made = dir::claim(dir.path(), 2, false).unwrap();
        for writer in &made {
            for number in 0..3 {
                fs::write(segment_path(&writer.path, number), [1; 100]).unwrap();
            }
            fs::write(writer.path.join(layout::temporary_name(3)), [0; 100]).unwrap();
        }
        let live = made.pop().unwrap();
        let durable = Durable { commit: 9, sequence: 9, segment: 1, end: 0 };
        PositionFile::create(&live.path).unwrap().publish(durable).unwrap();
        drop(made);
        let removed = enforce(dir.path(), Some(1), None, Moment::now());
        assert_eq!(removed, Removed { segments: 4, bytes: 400, writers: 1, failed: 0 });
        assert_eq!(layout::writers(dir.path()).unwrap(), [live.id], "with the segment that it was making");
        assert_eq!(layout::segments(&live.path).unwrap(), [1, 2]);
        assert!(live.path.join(layout::temporary_name(3)).exists());
    }

    #[test]
    fn a_segment_that_cannot_be_removed_keeps_no_segment_of_other_writers() {
        let dir = tempfile::tempdir().unwrap();
        let made = at(TODAY, None);
        let stuck = writer(dir.path(), 1, 0, &[made; 3]);
        let other = writer(dir.path(), 2, 0, &[made; 3]);
        let path = segment_path(&dir.path().join(stuck.to_string()), 0);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        let retention = Retention { bytes_max: Some(1), age_max: None };
        let mut enforcer = Enforcer::new(retention, dir.path().to_owned());
        let removed = enforcer.enforce(made).unwrap();
        assert_eq!((removed.segments, removed.failed), (3, 1));
        assert_eq!(left(dir.path()), [(stuck, vec![0, 1, 2])], "there is no gap, and only {other} is gone");
        assert_eq!(enforcer.enforce(made).unwrap().failed, 1, "the removal is tried again");
        fs::remove_dir(&path).unwrap();
        segment(&dir.path().join(stuck.to_string()), stuck, 0, made, true);
        assert_eq!(enforcer.enforce(made).unwrap(), Removed { segments: 3, bytes: 3 * LEN, writers: 1, failed: 0 });
    }

    #[test]
    fn a_writer_without_a_lock_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let id = writer(dir.path(), 1, 0, &[at(TODAY, None); 3]);
        fs::remove_file(dir.path().join(id.to_string()).join("lock")).unwrap();
        assert_eq!(enforce(dir.path(), Some(1), None, at(TODAY, None)), Removed::default());
    }
}
