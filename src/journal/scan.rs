//! One segment's file: single commits, and the search for commits behind damage.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use super::format::{BLOCK_LEN, COMMIT_HEADER_LEN, CommitHeader, HeaderError, Records, SegmentHeader, decode_body};
use super::id::WriterId;
use super::moment::BootTime;
use super::record::Source;

/// A segment that is read.
#[derive(Debug)]
pub struct SegmentFile {
    pub number: u32,
    pub path: PathBuf,
    file: File,
    /// `None` if the header is damaged or can't be read.
    pub header: Option<SegmentHeader>,
    /// When the segment was made, by the time since boot. `None` if its header doesn't have that time.
    pub boot_time: Option<BootTime>,
    /// The reason why the header can't be read.
    header_fault: Option<i32>,
    /// The format version, where it is later than this build knows.
    pub later: Option<u32>,
    writer: WriterId,
    /// What was read of it last, and where that begins.
    window: RefCell<(u64, Bytes)>,
}

/// A place in a file that can't be read.
#[derive(Debug)]
pub struct Fault {
    /// The offset of the first block that can't be read.
    pub offset: u64,
    pub error: io::Error,
}

impl Fault {
    /// Returns whether the disk has lost that place. Any other error is temporary, or concerns the whole file.
    pub fn is_lost(&self) -> bool {
        is_lost(&self.error)
    }

    /// Returns the kernel's error number.
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(libc::EIO)
    }
}

/// Returns whether an error means that a disk can't return its data: a bad sector, or a file system that has found a
/// wrong checksum of its own.
pub fn is_lost(error: &io::Error) -> bool {
    const LOST: [i32; 6] = [libc::EIO, libc::ENODATA, libc::EBADMSG, libc::EUCLEAN, libc::EREMOTEIO, libc::EILSEQ];
    error.raw_os_error().is_some_and(|errno| LOST.contains(&errno))
}

/// What a search has found.
#[derive(Debug, Default)]
pub struct Found {
    /// The highest durable number that a readable header names.
    pub durable: u64,
    /// Whether there is anything that this segment's writer wrote there: in a recycled segment a readable
    /// header says so, in any other whatever is not zero.
    pub data: bool,
    /// The first block that can't be read: segment, offset and error.
    pub unreadable: Option<(u32, u64, i32)>,
    /// The segment of the first readable header, and the number of that segment's first commit.
    pub first: Option<(u32, u64)>,
    /// The first whole commit with a high enough number: segment, offset and number.
    pub resume: Option<(u32, u64, u64)>,
}

/// A search through the blocks of a writer.
pub struct Search {
    pub salt: Option<u64>,
    /// Commits up to this number are no place to go on from.
    pub above: u64,
    /// Whether the first such commit ends it: all durable numbers are known already.
    pub first_only: bool,
    pub found: Found,
}

impl SegmentFile {
    /// Opens a segment; none if there is none of that name.
    pub fn open(path: PathBuf, number: u32, writer: WriterId) -> io::Result<Option<Self>> {
        let file = match File::open(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let (block, fault) = read(&file, 0, BLOCK_LEN);
        let header_fault = match fault {
            Some(fault) if !fault.is_lost() => return Err(fault.error),
            fault => fault.map(|fault| fault.errno()),
        };
        let (header, later) = match SegmentHeader::decode(&block) {
            Ok(header) if header.segment == number && header.writer == writer => (Some(header), None),
            Ok(_) | Err(HeaderError::Damaged) => (None, None),
            Err(HeaderError::Later(version)) => (None, Some(version)),
        };
        let window = RefCell::default();
        let boot_time = BootTime::decode(&block);
        Ok(Some(SegmentFile { number, path, file, header, boot_time, header_fault, later, writer, window }))
    }

    /// Returns the reason why the header can't be read, if it can't.
    pub fn header_fault(&self) -> Option<Fault> {
        self.header_fault.map(|errno| Fault { offset: 0, error: io::Error::from_raw_os_error(errno) })
    }

    /// The header of a commit; none where there is no intact one of this segment.
    pub fn commit_header(&self, offset: u64, salt: Option<u64>) -> Result<Option<CommitHeader>, Fault> {
        Ok(self.own_header(&whole(read(&self.file, offset, COMMIT_HEADER_LEN))?, salt))
    }

    /// Returns when the segment's first record was received, or `None` if the segment doesn't begin with one. The
    /// body is not checked for damage.
    pub fn first_received(&self, salt: Option<u64>) -> Result<Option<u64>, Fault> {
        let block = whole(read(&self.file, BLOCK_LEN as u64, BLOCK_LEN))?;
        Ok(self.own_header(&block, salt).and_then(|_| Source::first_received(&block[COMMIT_HEADER_LEN..])))
    }

    /// Keeps the kernel from reading ahead: where a writer is about to write, the disk would read what is
    /// not there yet, and each write would have to throw that out of the page cache.
    pub fn expect_writes(&self) {
        // Where no advice is taken, reading is only slower.
        let _ = fadvise(&self.file, 0, None, Advice::Random);
    }

    /// A whole commit; none where there is no intact one. What stands behind it up to `until` is read at
    /// once with it, and given when it is asked for, as it was then.
    pub fn commit(&self, offset: u64, until: u64, salt: Option<u64>) -> Result<Option<(CommitHeader, Records)>, Fault> {
        let bytes = self.bytes(offset, BLOCK_LEN, until)?;
        let Some(header) = self.own_header(&bytes, salt) else { return Ok(None) };
        let end = COMMIT_HEADER_LEN + header.body_len as usize;
        let bytes = if end <= bytes.len() { bytes } else { self.bytes(offset, end, until)? };
        let body = bytes.slice(COMMIT_HEADER_LEN.min(bytes.len())..end.min(bytes.len()));
        Ok(decode_body(&header, body).map(|records| (header, records)))
    }

    /// At least `len` bytes from `offset` on, if the file has them.
    fn bytes(&self, offset: u64, len: usize, until: u64) -> Result<Bytes, Fault> {
        let (begin, bytes) = &mut *self.window.borrow_mut();
        let at = usize::try_from(offset.wrapping_sub(*begin)).unwrap_or(usize::MAX);
        if at >= bytes.len() || bytes.len() - at < len {
            let ahead = until.saturating_sub(offset).min(WINDOW_LEN as u64) as usize;
            let (read, fault) = read(&self.file, offset, len.max(ahead));
            // An unreadable place after the needed bytes doesn't matter yet.
            if let Some(fault) = fault.filter(|_| read.len() < len) {
                return Err(fault);
            }
            (*begin, *bytes) = (offset, read.into());
            return Ok(bytes.clone());
        }
        Ok(bytes.slice(at..))
    }

    /// Gives up what was read before it was asked for.
    pub fn forget(&self) {
        self.window.take();
    }

    /// Returns whether the segment's writer has written anything to the `within` bytes after the header, as far as
    /// that can be known.
    ///
    /// # Errors
    /// A part of these bytes can't be read.
    pub fn is_used(&self, within: u64) -> Result<bool, Fault> {
        if let Some(fault) = self.header_fault() {
            return Err(fault);
        }
        let salt = self.header.map(|header| header.salt);
        let (mut offset, end) = (BLOCK_LEN as u64, BLOCK_LEN as u64 + within);
        // A used segment has a commit in its second block, so one short read shows it.
        let mut ask = BLOCK_LEN;
        while offset < end {
            let chunk = whole(read(&self.file, offset, ask))?;
            if chunk.is_empty() {
                break;
            }
            if chunk.chunks(BLOCK_LEN).any(|block| self.has_data(block, salt)) {
                return Ok(true);
            }
            (offset, ask) = (offset + chunk.len() as u64, SCAN_LEN);
        }
        Ok(false)
    }

    /// Returns the offset at which the data that its writer wrote after `from` ends, as far as that can be known, or
    /// `from` if the writer wrote nothing there. The search stops after `quiet` bytes without data of this writer.
    ///
    /// # Errors
    /// A part of the searched range can't be read.
    pub fn used_until(&self, from: u64, quiet: u64) -> Result<u64, Fault> {
        let salt = self.header.map(|header| header.salt);
        let len = self.file.metadata().map_err(|error| Fault { offset: 0, error })?.len();
        let (mut used, mut offset) = (from, from);
        while offset < len && offset - used < quiet {
            // Allocated space that was never written reads as zeros and is no data: it is skipped without a read.
            match seek(&self.file, SeekFrom::Data(offset)) {
                Ok(data) if data - data % BLOCK_LEN as u64 > offset => {
                    offset = data - data % BLOCK_LEN as u64;
                    continue;
                }
                Err(Errno::NXIO) => break,
                // Not every file system reports it.
                Ok(_) | Err(_) => {}
            }
            let chunk = whole(read(&self.file, offset, SCAN_LEN))?;
            if chunk.is_empty() {
                break;
            }
            for block in chunk.chunks(BLOCK_LEN) {
                if self.has_data(block, salt) {
                    let own = self.own_header(block, salt);
                    used = used.max(offset + own.map_or(BLOCK_LEN as u64, |header| header.padded_len()));
                }
                offset += block.len() as u64;
            }
        }
        Ok(used.min(len))
    }

    /// Whether the block at this offset holds anything of this segment's own.
    pub fn has_data_at(&self, offset: u64, salt: Option<u64>) -> Result<bool, Fault> {
        Ok(self.has_data(&whole(read(&self.file, offset, BLOCK_LEN))?, salt))
    }

    fn has_data(&self, block: &[u8], salt: Option<u64>) -> bool {
        match self.header {
            // An earlier segment has left behind whatever it liked.
            Some(SegmentHeader { recycled: true, .. }) => self.own_header(block, salt).is_some(),
            // Most of what is searched are zeros, and comparing them is quick.
            _ => block != &ZEROS[..block.len()],
        }
    }

    /// Lets commits be read though the header is damaged: where each has shown itself.
    pub fn make_usable(&mut self, salt: Option<u64>) {
        let (segment, writer, salt) = (self.number, self.writer, salt.unwrap_or(0));
        self.header_fault = None;
        self.header.get_or_insert(SegmentHeader { segment, writer, salt, created: 0, len: 0, recycled: false });
    }

    /// Whether the file is still there under its name.
    pub fn is_linked(&self) -> bool {
        // A directory that can't be read does not prove that the file is gone.
        !matches!(self.path.try_exists(), Ok(false))
    }

    /// The header that a block begins with, if it is of this segment, and not of one that had its blocks before.
    fn own_header(&self, block: &[u8], salt: Option<u64>) -> Option<CommitHeader> {
        CommitHeader::decode(block).filter(|header| {
            header.writer == self.writer && header.segment == self.number && salt.is_none_or(|salt| salt == header.salt)
        })
    }
}

impl Search {
    /// Searches a segment from `offset` on. Returns whether to continue with the next segment. Blocks that can't be
    /// read are skipped, each after one attempt.
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
        // Without a salt a payload could pass for a commit.
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

/// Returns all bytes that were requested, or the fault.
fn whole((bytes, fault): (Vec<u8>, Option<Fault>)) -> Result<Vec<u8>, Fault> {
    fault.map_or(Ok(bytes), Err)
}

/// Reads up to `len` bytes: fewer only at the end of the file, or before a block that can't be read.
fn read(file: &File, offset: u64, len: usize) -> (Vec<u8>, Option<Fault>) {
    let fault = |done: usize, error| Some(Fault { offset: offset + done as u64, error });
    // A length comes from a header that may be wrong: the file's own length bounds what is reserved.
    let left = match file.metadata() {
        Ok(metadata) => metadata.len().saturating_sub(offset),
        Err(error) => return (Vec::new(), fault(0, error)),
    };
    let mut bytes = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
    let (mut done, mut ask) = (0, bytes.len());
    while done < bytes.len() {
        let end = bytes.len().min(done + ask);
        match file.read_at(&mut bytes[done..end], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // One bad block fails a longer read completely, so from here on each block is read by itself.
            Err(error) if is_lost(&error) && ask > BLOCK_LEN => (done, ask) = (done / BLOCK_LEN * BLOCK_LEN, BLOCK_LEN),
            Err(error) => {
                done = done / BLOCK_LEN * BLOCK_LEN;
                bytes.truncate(done);
                return (bytes, fault(done, error));
            }
        }
    }
    bytes.truncate(done);
    (bytes, None)
}

/// Where a writer's segment is.
pub fn segment_path(writer_dir: &Path, number: u32) -> PathBuf {
    writer_dir.join(super::dir::segment_name(number))
}

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
/// Bytes that are read at once where more than one commit is there.
const WINDOW_LEN: usize = 256 << 10;
/// Bytes that a search reads at once.
const SCAN_LEN: usize = 256 * BLOCK_LEN;
