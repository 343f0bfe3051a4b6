//! A file or a directory of which a part can't be read, as on a failing disk. A FUSE file with the same bytes is
//! mounted over it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, FileAttr, FileType, Filesystem, MountOption, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    ReplyOpen, Request,
};

use super::requirement::FUSE;

/// A file or a directory that is covered. It becomes readable again when this is dropped.
pub struct Unreadable {
    _session: BackgroundSession,
}

impl Unreadable {
    /// Makes every read of a file fail that touches these bytes. Returns `None` if FUSE is not permitted.
    pub fn file(path: &Path, lost: Range<u64>) -> Option<Self> {
        Self::cover(path, Cover { bytes: fs::read(path).unwrap(), lost, kind: FileType::RegularFile })
    }

    /// Makes the listing of a directory fail.
    pub fn directory(path: &Path) -> Option<Self> {
        Self::cover(path, Cover { bytes: Vec::new(), lost: 0..0, kind: FileType::Directory })
    }

    fn cover(path: &Path, cover: Cover) -> Option<Self> {
        let options = [MountOption::FSName("unreadable".to_owned()), MountOption::RO];
        let mounted: io::Result<BackgroundSession> = fuser::spawn_mount2(cover, path, &options);
        FUSE.check(mounted).map(|session| Unreadable { _session: session })
    }
}

struct Cover {
    bytes: Vec<u8>,
    lost: Range<u64>,
    kind: FileType,
}

impl Filesystem for Cover {
    fn lookup(&mut self, _: &Request<'_>, _: u64, _: &OsStr, reply: ReplyEntry) {
        reply.error(libc::EIO);
    }

    fn getattr(&mut self, _: &Request<'_>, _: u64, _: Option<u64>, reply: ReplyAttr) {
        let (size, time) = (self.bytes.len() as u64, UNIX_EPOCH);
        let attributes = FileAttr {
            ino: fuser::FUSE_ROOT_ID,
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: self.kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(1), &attributes);
    }

    fn open(&mut self, _: &Request<'_>, _: u64, _: i32, reply: ReplyOpen) {
        reply.opened(0, 0);
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
        let begin = (offset as u64).min(self.bytes.len() as u64);
        let end = (begin + u64::from(len)).min(self.bytes.len() as u64);
        if begin < self.lost.end && self.lost.start < end {
            reply.error(libc::EIO);
        } else {
            reply.data(&self.bytes[begin as usize..end as usize]);
        }
    }

    fn readdir(&mut self, _: &Request<'_>, _: u64, _: u64, _: i64, reply: ReplyDirectory) {
        reply.error(libc::EIO);
    }
}
