//! A file that is written with owned memory, by one op at a time or by several.
//!
//! Owns the descriptor. It must not know the journal. Invariant: a write owns its file and its memory until it has
//! ended.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::choice::Engine;
use crate::{epoll, ring};

/// An open file.
pub struct File {
    engine: Engine,
    /// Shared with other threads, on which the epoll engine writes.
    descriptor: Arc<OwnedFd>,
}

impl File {
    /// Takes over an open file.
    pub fn new(engine: Engine, file: std::fs::File) -> Self {
        File { engine, descriptor: Arc::new(file.into()) }
    }

    /// Writes the bytes of `memory` in `range` at `offset`. Returns once they are durable, with the metadata that is
    /// needed to read them back (RWF_DSYNC). Returns how many bytes were written, which may be fewer, and the memory.
    ///
    /// On a file opened with O_DIRECT the address, the length and the offset must be multiples of the disk's block.
    /// Not cancel-safe, as every op here: see the [module](super).
    ///
    /// # Errors
    /// The file's. The content of the written range on the disk is then unknown.
    ///
    /// # Panics
    /// If `range` is not within `memory`.
    pub async fn write_durably(
        &self,
        offset: u64,
        memory: Box<[u8]>,
        range: Range<usize>,
    ) -> (io::Result<usize>, Box<[u8]>) {
        let file = self.descriptor.clone();
        match self.engine {
            Engine::Uring => ring::write_durably(file, offset, memory, range).await,
            Engine::Epoll => epoll::write_durably(file, offset, memory, range).await,
            #[cfg(feature = "sim")]
            Engine::Sim(_) => panic!("a simulation has files of its own"),
        }
    }

    /// Returns the descriptor, for calls that the engine does not offer, also on other threads.
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        self.descriptor.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::engine::{Runtime, spawn};

    #[test]
    fn concurrent_writes_land_at_their_offsets() {
        for engine in [Engine::Uring, Engine::Epoll] {
            let path = tempfile::NamedTempFile::new().unwrap();
            Runtime::new(engine, 8).unwrap().block_on(async {
                let file = Rc::new(File::new(engine, path.reopen().unwrap()));
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
            });
            let bytes = std::fs::read(path.path()).unwrap();
            let expected: Vec<u8> = (0..20u8).flat_map(|number| [number; 4096]).collect();
            assert!(bytes == expected);
        }
    }

    #[test]
    fn a_failed_write_returns_the_memory() {
        for engine in [Engine::Uring, Engine::Epoll] {
            let path = tempfile::NamedTempFile::new().unwrap();
            let read_only = std::fs::File::open(path.path()).unwrap();
            Runtime::new(engine, 8).unwrap().block_on(async {
                let file = File::new(engine, read_only);
                let (result, memory) = file.write_durably(0, vec![1; 512].into_boxed_slice(), 0..512).await;
                assert_eq!((result.unwrap_err().raw_os_error(), memory.len()), (Some(libc::EBADF), 512));
            });
        }
    }
}
