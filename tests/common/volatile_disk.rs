//! A disk with a volatile write cache whose power can be cut: a FUSE file for a loop device.
//!
//! A write goes to the cache. A flush moves all earlier writes to the medium. Each sector that has not been flushed
//! when the power is cut survives or is lost at random. All later requests to the disk fail.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, MountOption, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request,
};

use crate::common::random::Random;

/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Bytes of the image that are read at a time.
const PIECE: usize = 4096;
/// How long a cut waits for the number of writes that it needs.
const CUT_WAIT: Duration = Duration::from_millis(500);
/// From fuse.h: reads and writes of this file bypass its page cache. Files on the disk still have theirs.
const FOPEN_DIRECT_IO: u32 = 1;

/// The disk. It is removed on drop.
pub struct VolatileDisk {
    cache: Arc<Mutex<Cache>>,
    _session: BackgroundSession,
}

struct Cache {
    /// The durable contents.
    medium: File,
    /// The contents that reads return: the medium and every write since the last flush.
    current: Vec<u8>,
    unflushed: Vec<(usize, Vec<u8>)>,
    has_power: bool,
    /// The power is cut at the write that makes this many unflushed ones.
    unflushed_max: usize,
    flushes_lie: bool,
}

impl VolatileDisk {
    /// Creates a disk with the contents of `image`. It appears as the file `path`, which must exist.
    pub fn new(image: &Path, path: &Path) -> io::Result<Self> {
        let medium = File::options().read(true).write(true).open(image)?;
        let mut current = vec![0; medium.metadata()?.len() as usize];
        let mut piece = [0; PIECE];
        for (at, place) in current.chunks_mut(PIECE).enumerate() {
            medium.read_exact_at(&mut piece, (at * PIECE) as u64)?;
            // Only bytes that are not zero need memory.
            if piece != [0; PIECE] {
                place.copy_from_slice(&piece);
            }
        }
        let cache = Cache {
            medium,
            current,
            unflushed: Vec::new(),
            has_power: true,
            unflushed_max: usize::MAX,
            flushes_lie: false,
        };
        let cache = Arc::new(Mutex::new(cache));
        let options = [MountOption::FSName("volatile-disk".to_owned())];
        let session = fuser::spawn_mount2(Answers(cache.clone()), path, &options)?;
        Ok(VolatileDisk { cache, _session: session })
    }

    /// From now on, a flush is answered and does nothing.
    pub fn lie(&self) {
        self.cache.lock().unwrap().flushes_lie = true;
    }

    /// Cuts the power, if possible when this many writes are unflushed. About this percentage of their sectors
    /// survives. Returns the number of unflushed writes.
    pub fn cut_power(&self, unflushed: usize, percent: u64, random: &mut Random) -> usize {
        self.cache.lock().unwrap().unflushed_max = unflushed;
        let deadline = Instant::now() + CUT_WAIT;
        while self.cache.lock().unwrap().has_power && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let cache = &mut *self.cache.lock().unwrap();
        cache.has_power = false;
        for (offset, bytes) in &cache.unflushed {
            for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                if random.below(100) < percent {
                    cache.medium.write_all_at(sector, (offset + number * SECTOR) as u64).unwrap();
                }
            }
        }
        cache.unflushed.len()
    }
}

impl Cache {
    fn powered(&mut self) -> Result<&mut Self, i32> {
        if self.has_power { Ok(self) } else { Err(libc::EIO) }
    }

    fn read(&mut self, offset: usize, len: usize) -> Result<&[u8], i32> {
        let current = &self.powered()?.current;
        Ok(&current[offset.min(current.len())..(offset + len).min(current.len())])
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), i32> {
        let cache = self.powered()?;
        cache.current.get_mut(offset..offset + bytes.len()).ok_or(libc::ENOSPC)?.copy_from_slice(bytes);
        cache.unflushed.push((offset, bytes.to_vec()));
        cache.has_power = cache.unflushed.len() < cache.unflushed_max;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), i32> {
        let cache = self.powered()?;
        if !cache.flushes_lie {
            for (offset, bytes) in cache.unflushed.drain(..) {
                cache.medium.write_all_at(&bytes, offset as u64).map_err(|_| libc::EIO)?;
            }
        }
        Ok(())
    }

    fn attributes(&self) -> FileAttr {
        let (size, time) = (self.current.len() as u64, UNIX_EPOCH);
        FileAttr {
            ino: fuser::FUSE_ROOT_ID,
            size,
            blocks: size / SECTOR as u64,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::RegularFile,
            perm: 0o600,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

/// A file system whose root is its only file.
struct Answers(Arc<Mutex<Cache>>);

impl Filesystem for Answers {
    fn lookup(&mut self, _: &Request<'_>, _: u64, _: &OsStr, reply: ReplyEntry) {
        reply.error(libc::ENOENT);
    }

    fn getattr(&mut self, _: &Request<'_>, _: u64, _: Option<u64>, reply: ReplyAttr) {
        reply.attr(&Duration::from_secs(3600), &self.0.lock().unwrap().attributes());
    }

    fn open(&mut self, _: &Request<'_>, _: u64, _: i32, reply: ReplyOpen) {
        reply.opened(0, FOPEN_DIRECT_IO);
    }

    fn read(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        len: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyData,
    ) {
        match self.0.lock().unwrap().read(offset as usize, len as usize) {
            Ok(bytes) => reply.data(bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &mut self,
        _: &Request<'_>,
        _: u64,
        _: u64,
        offset: i64,
        bytes: &[u8],
        _: u32,
        _: i32,
        _: Option<u64>,
        reply: ReplyWrite,
    ) {
        match self.0.lock().unwrap().write(offset as usize, bytes) {
            Ok(()) => reply.written(bytes.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn fsync(&mut self, _: &Request<'_>, _: u64, _: u64, _: bool, reply: ReplyEmpty) {
        match self.0.lock().unwrap().flush() {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&mut self, _: &Request<'_>, _: u64, _: u64, _: u64, reply: ReplyEmpty) {
        // The flush of a close, which promises nothing.
        reply.ok();
    }
}
