//! One segment's file: reads its header, its commits, and finds out how much of it was used.
//!
//! Everything is read by offset from one open descriptor. A block that the disk can't read is reported as a [`Fault`]
//! with its offset. This module does not judge what damage means: see [`cursor`](super::cursor).

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use bytes::Bytes;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};
use rustix::io::Errno;

use super::format::{BLOCK_LEN, COMMIT_HEADER_LEN, CommitHeader, HeaderError, Records, SegmentHeader, decode_body};
use super::id::WriterId;
use super::moment::BootTime;
use super::record::Source;

/// A segment that is open for reading.
#[derive(Debug)]
pub struct SegmentFile {
    pub number: u32,
    pub path: PathBuf,
    pub(super) file: File,
    /// `None` if the header is damaged or can't be read.
    pub header: Option<SegmentHeader>,
    /// When the segment was created, by the time since boot. `None` if its header doesn't have that time.
    pub boot_time: Option<BootTime>,
    /// The reason why the header can't be read.
    header_fault: Option<i32>,
    /// The format version, if it is later than this build knows.
    pub later: Option<u32>,
    writer: WriterId,
    /// The bytes that were last read, and the offset of the first of them.
    window: RefCell<(u64, Bytes)>,
}

impl SegmentFile {
    /// Opens a segment. Returns `None` if there is no file with that name.
    ///
    /// # Errors
    /// The file can't be opened or read. A header that the disk has lost is no error: see [`Self::header_fault`].
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

    /// Returns the header of the commit at `offset`, or `None` if there is no intact header of this segment.
    ///
    /// # Errors
    /// The header's bytes can't be read.
    pub fn commit_header(&self, offset: u64, salt: Option<u64>) -> Result<Option<CommitHeader>, Fault> {
        Ok(self.own_header(&whole(read(&self.file, offset, COMMIT_HEADER_LEN))?, salt))
    }

    /// Returns when the segment's first record was received, or `None` if the segment doesn't begin with a record. The
    /// body is not checked for damage.
    ///
    /// # Errors
    /// The first commit's block can't be read.
    pub fn first_received(&self, salt: Option<u64>) -> Result<Option<u64>, Fault> {
        let block = whole(read(&self.file, BLOCK_LEN as u64, BLOCK_LEN))?;
        Ok(self.own_header(&block, salt).and_then(|_| Source::first_received(&block[COMMIT_HEADER_LEN..])))
    }

    /// Keeps the kernel from reading ahead. In a segment that is still being written, the disk would read bytes that
    /// are about to be overwritten, and each write would have to remove them from the page cache.
    pub fn expect_writes(&self) {
        // If the kernel ignores the advice, reading is only slower.
        let _ = fadvise(&self.file, 0, None, Advice::Random);
    }

    /// Returns the whole commit at `offset`, or `None` if there is no intact one. The bytes after it, up to `until`,
    /// are read with it and kept for the next calls, which see them as they were at that time.
    ///
    /// # Errors
    /// A part of the commit can't be read.
    pub fn commit(&self, offset: u64, until: u64, salt: Option<u64>) -> Result<Option<(CommitHeader, Records)>, Fault> {
        let bytes = self.bytes(offset, BLOCK_LEN, until)?;
        let Some(header) = self.own_header(&bytes, salt) else { return Ok(None) };
        let end = COMMIT_HEADER_LEN + header.body_len as usize;
        let bytes = if end <= bytes.len() { bytes } else { self.bytes(offset, end, until)? };
        let body = bytes.slice(COMMIT_HEADER_LEN.min(bytes.len())..end.min(bytes.len()));
        Ok(decode_body(&header, body).map(|records| (header, records)))
    }

    /// Returns at least `len` bytes from `offset` on, if the file has them.
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

    /// Drops the bytes that were read ahead.
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
        let mut len = BLOCK_LEN;
        while offset < end {
            let chunk = whole(read(&self.file, offset, len))?;
            if chunk.is_empty() {
                break;
            }
            if chunk.chunks(BLOCK_LEN).any(|block| self.has_data(block, salt)) {
                return Ok(true);
            }
            (offset, len) = (offset + chunk.len() as u64, SCAN_LEN);
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
            // Allocated space that was never written reads as zeros and contains no data, so it is skipped without a
            // read.
            match seek(&self.file, SeekFrom::Data(offset)) {
                Ok(data) if data - data % BLOCK_LEN as u64 > offset => {
                    offset = data - data % BLOCK_LEN as u64;
                    continue;
                }
                Err(Errno::NXIO) => break,
                // Not every file system reports where data begins.
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

    /// Returns whether the block at this offset contains anything that this segment's writer wrote.
    ///
    /// # Errors
    /// The block can't be read.
    pub fn has_data_at(&self, offset: u64, salt: Option<u64>) -> Result<bool, Fault> {
        Ok(self.has_data(&whole(read(&self.file, offset, BLOCK_LEN))?, salt))
    }

    /// Returns whether this block, read from this segment, contains anything that the segment's writer wrote.
    pub fn has_data(&self, block: &[u8], salt: Option<u64>) -> bool {
        match self.header {
            // The rest of the block may be old content from before the segment was recycled.
            Some(SegmentHeader { recycled: true, .. }) => self.own_header(block, salt).is_some(),
            // Most blocks of a search are zeros, and comparing with zeros is fast.
            _ => block != &ZEROS[..block.len()],
        }
    }

    /// Allows commits of a segment with a damaged header to be read, at places where a search has found them.
    pub fn make_usable(&mut self, salt: Option<u64>) {
        let (segment, writer, salt) = (self.number, self.writer, salt.unwrap_or(0));
        self.header_fault = None;
        self.header.get_or_insert(SegmentHeader { segment, writer, salt, created: 0, len: 0, recycled: false });
    }

    /// Returns whether the file still has its name, and no other file has got it.
    pub fn is_in_place(&self) -> bool {
        match (self.file.metadata(), fs::metadata(&self.path)) {
            (Ok(is), Ok(at)) => (is.dev(), is.ino()) == (at.dev(), at.ino()),
            // A directory that can't be read does not prove that the file is gone.
            (_, at) => !at.is_err_and(|error| error.kind() == ErrorKind::NotFound),
        }
    }

    /// Returns the commit header at the beginning of a block, if it belongs to this segment and not to one that used
    /// the blocks before.
    pub fn own_header(&self, block: &[u8], salt: Option<u64>) -> Option<CommitHeader> {
        CommitHeader::decode(block).filter(|header| {
            header.writer == self.writer && header.segment == self.number && salt.is_none_or(|salt| salt == header.salt)
        })
    }
}

/// A block of a segment that can't be read.
#[derive(Debug)]
pub struct Fault {
    /// The offset of the first block that can't be read.
    pub offset: u64,
    /// The kernel's error.
    pub error: io::Error,
}

impl Fault {
    /// Returns whether the disk has lost that block. Any other error is temporary, or concerns the whole file.
    pub fn is_lost(&self) -> bool {
        is_lost(&self.error)
    }

    /// Returns the kernel's error number.
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(libc::EIO)
    }
}

/// Returns whether an error means that a disk can't return its data: because of a bad sector, or because the file
/// system has found one of its own checksums to be wrong.
pub fn is_lost(error: &io::Error) -> bool {
    const LOST: [i32; 6] = [libc::EIO, libc::ENODATA, libc::EBADMSG, libc::EUCLEAN, libc::EREMOTEIO, libc::EILSEQ];
    error.raw_os_error().is_some_and(|errno| LOST.contains(&errno))
}

/// Returns all bytes that were requested, or the fault.
fn whole((bytes, fault): (Vec<u8>, Option<Fault>)) -> Result<Vec<u8>, Fault> {
    fault.map_or(Ok(bytes), Err)
}

/// Reads up to `len` bytes. Returns fewer bytes only at the end of the file, or before a block that can't be read.
pub fn read(file: &File, offset: u64, len: usize) -> (Vec<u8>, Option<Fault>) {
    let fault = |done: usize, error| Some(Fault { offset: offset + done as u64, error });
    // `len` may come from a damaged header, so the file's own length limits the memory that is allocated.
    let left = match file.metadata() {
        Ok(metadata) => metadata.len().saturating_sub(offset),
        Err(error) => return (Vec::new(), fault(0, error)),
    };
    let mut bytes = vec![0; len.min(usize::try_from(left).unwrap_or(usize::MAX))];
    let (mut done, mut step) = (0, bytes.len());
    while done < bytes.len() {
        let end = bytes.len().min(done + step);
        match file.read_at(&mut bytes[done..end], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // One bad block fails a longer read completely, so from here on each block is read by itself.
            Err(error) if is_lost(&error) && step > BLOCK_LEN => {
                (done, step) = (done / BLOCK_LEN * BLOCK_LEN, BLOCK_LEN);
            }
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

static ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// Bytes per read if more than one commit can be read.
const WINDOW_LEN: usize = 256 << 10;

/// Bytes per read of a search.
pub const SCAN_LEN: usize = 256 * BLOCK_LEN;
