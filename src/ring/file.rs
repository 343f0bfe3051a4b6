//! A file on the ring: owned memory out, one op at a time or several.

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, types};

use super::submit;

/// An open file.
pub struct File(Rc<OwnedFd>);

impl File {
    /// Takes over an open file.
    pub fn new(file: std::fs::File) -> Self {
        File(Rc::new(file.into()))
    }

    /// Writes the bytes of `memory` in `range` at `offset`, and returns once the disk has them for good,
    /// with the metadata that reading them back needs (RWF_DSYNC). Gives the memory back, and how many
    /// bytes were written, which may be fewer.
    ///
    /// On a file opened with O_DIRECT the address, the length and the offset are multiples of the
    /// disk's block. Not cancel-safe, as every op here: see the [module](super).
    ///
    /// # Errors
    /// The file's; what `range` covers on the disk is then unknown.
    ///
    /// # Panics
    /// If `range` is not within `memory`.
    pub async fn write_durably(
        &self,
        offset: u64,
        memory: Box<[u8]>,
        range: Range<usize>,
    ) -> (io::Result<usize>, Box<[u8]>) {
        let bytes = &memory[range];
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let entry = opcode::Write::new(self.fd(), bytes.as_ptr(), len).offset(offset).rw_flags(libc::RWF_DSYNC).build();
        let (result, memory) = submit(self.0.clone(), memory, entry).await;
        (result.map(|count| count as usize), memory)
    }

    /// Makes every write that has completed last, and the length of the file (fdatasync). Not
    /// cancel-safe.
    ///
    /// # Errors
    /// The file's, perhaps that of an earlier write. Nothing written since the last success can be
    /// relied on, then or after a later success.
    pub async fn sync(&self) -> io::Result<()> {
        let entry = opcode::Fsync::new(self.fd()).flags(types::FsyncFlags::DATASYNC).build();
        submit(self.0.clone(), (), entry).await.0.map(drop)
    }

    /// For what is not done on the ring.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.0.as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Runtime, spawn};

    #[test]
    fn several_writes_at_once_land_where_they_belong() {
        let path = tempfile::NamedTempFile::new().unwrap();
        Runtime::new(8).unwrap().block_on(async {
            let file = Rc::new(File::new(path.reopen().unwrap()));
            let writes: Vec<_> = (0..20u8)
                .map(|number| {
                    let file = file.clone();
                    let memory = vec![number; 4096 + 10].into_boxed_slice();
                    spawn(async move { file.write_durably(u64::from(number) * 4096, memory, 10..4106).await })
                })
                .collect();
            for write in writes {
                let (result, memory) = write.await.unwrap();
                assert_eq!((result.unwrap(), memory.len()), (4096, 4106));
            }
            file.sync().await.unwrap();
        });
        let bytes = std::fs::read(path.path()).unwrap();
        let expected: Vec<u8> = (0..20u8).flat_map(|number| [number; 4096]).collect();
        assert!(bytes == expected);
    }

    #[test]
    fn a_write_that_the_file_refuses_gives_the_memory_back() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let read_only = std::fs::File::open(path.path()).unwrap();
        Runtime::new(8).unwrap().block_on(async {
            let file = File::new(read_only);
            let (result, memory) = file.write_durably(0, vec![1; 512].into_boxed_slice(), 0..512).await;
            assert_eq!((result.unwrap_err().raw_os_error(), memory.len()), (Some(libc::EBADF), 512));
        });
    }
}
