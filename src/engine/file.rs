//! A file: owned memory out, one op at a time or several.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::Engine;
use crate::{epoll, ring};

/// An open file.
pub struct File {
    engine: Engine,
    /// The epoll engine writes on other threads.
    descriptor: Arc<OwnedFd>,
}

impl File {
    /// Takes over an open file.
    pub fn new(engine: Engine, file: std::fs::File) -> Self {
        File { engine, descriptor: Arc::new(file.into()) }
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
        let file = self.descriptor.clone();
        match self.engine {
            Engine::Uring => ring::write_durably(file, offset, memory, range).await,
            Engine::Epoll => epoll::write_durably(file, offset, memory, range).await,
        }
    }

    /// For what the engine does not do, on other threads too.
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
    fn several_writes_at_once_land_where_they_belong() {
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
    fn a_write_that_the_file_refuses_gives_the_memory_back() {
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
