//! Writing a whole buffer, and which errors of the disk are temporary.
//!
//! This module decides what is repeated within one write. It does not know what the caller does about an error.

use std::io;

use super::super::buffer::Buffer;
use super::super::format::BLOCK_LEN;
use super::super::storage::Storage;

/// Writes a whole buffer and returns it. A short write is continued from the last whole block. A write of less than a
/// block, or one that was interrupted, is repeated up to [`REPEATS_MAX`] times in a row.
pub async fn write_all<S: Storage>(
    storage: &S,
    file: &S::File,
    offset: u64,
    mut buffer: Buffer,
) -> (io::Result<()>, Buffer) {
    let (mut done, mut repeats) = (0, 0);
    while done < buffer.len() {
        let (result, returned) = storage.write_at(file, offset + done as u64, buffer, done).await;
        buffer = returned;
        match result {
            Ok(written) if written >= BLOCK_LEN => (done, repeats) = (done + written / BLOCK_LEN * BLOCK_LEN, 0),
            // O_DIRECT can't continue within a block. The next write fails with the reason why this one was
            // short, if there is one.
            Ok(written) if repeats > 0 => return (Err(short_write(written)), buffer),
            Ok(_) => repeats = REPEATS_MAX,
            Err(error) if is_interrupted(&error) && repeats < REPEATS_MAX => repeats += 1,
            Err(error) => return (Err(error), buffer),
        }
    }
    (Ok(()), buffer)
}

/// Returns whether an error reports that there was no space for the data.
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns whether an error is temporary and not about the files: a resource ran out, and may be available again
/// later.
pub fn is_temporary(error: &io::Error) -> bool {
    let ran_out = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM));
    is_no_space(error) || is_interrupted(error) || ran_out || error.kind() == io::ErrorKind::OutOfMemory
}

fn is_interrupted(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

fn short_write(written: usize) -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, format!("the disk wrote only {written} bytes of a block of {BLOCK_LEN}"))
}

/// How many times in a row a write without effect is repeated.
const REPEATS_MAX: usize = 16;
