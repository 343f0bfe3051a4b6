//! Writes to stdout and stderr without a panic. Every error is returned, or deliberately ignored if it can't be
//! reported anywhere. It must not know what is written.
//!
//! `println!` and `eprintln!` panic when a write fails, and std's own `Stdout` keeps the rest of a line in a buffer
//! whose errors nobody sees. So this module writes the whole text directly to the descriptor, during the call.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The error of a command whose output could not be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write to stdout: {0}{fix}", fix = fix(.0))]
pub struct StdoutError(#[from] io::Error);

impl StdoutError {
    /// Returns whether the program that reads the output has closed it.
    pub fn is_closed(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; the output is not complete: free some space, or write it to another file"
        }
        _ => "; the output is not complete",
    }
}

/// Writes all of `text` to stdout, and waits for as long as that takes. If the reader has closed its end (`| head`),
/// that is not an error: the reader has what it wanted.
///
/// # Errors
/// The text was not written, or only in part: the disk is full, for example.
pub fn print(text: impl AsRef<[u8]>) -> Result<(), StdoutError> {
    match print_whole(text) {
        Err(error) if error.is_closed() => Ok(()),
        printed => printed,
    }
}

/// Writes all of `text` to stdout, and waits for as long as that takes.
///
/// # Errors
/// The text was not written, or only in part. A reader that has closed its end is an error too: see
/// [`StdoutError::is_closed`].
pub fn print_whole(text: impl AsRef<[u8]>) -> Result<(), StdoutError> {
    let written = write_all(io::stdout().as_fd(), text.as_ref(), None);
    written.map_err(|WriteError { error, .. }| StdoutError(error.into()))
}

/// Waits for `timeout`, or until the program that reads stdout has closed it, or until a signal arrives. Returns
/// whether stdout was closed.
pub fn wait_until_closed(timeout: Duration) -> bool {
    let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
    let stdout = io::stdout();
    let mut stdout = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut stdout, Some(&timeout)) {
        Ok(0) | Err(_) => false,
        Ok(_) => stdout[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
    }
}

/// The error of a text that was not written completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteError {
    /// Bytes that were written.
    pub written: usize,
    /// The reason.
    pub error: Errno,
}

/// Writes all of `text`, even to a non-blocking descriptor.
///
/// With a `patience`, waits at most that long before each part until the descriptor has room, since nobody may read a
/// pipe, and a terminal may be stopped. A write to a file on a disk that hangs is not limited: only a separate thread
/// can avoid that wait.
pub fn write_all(to: BorrowedFd<'_>, text: &[u8], patience: Option<Duration>) -> Result<(), WriteError> {
    let mut written = 0;
    while written < text.len() {
        let failed = |error| WriteError { written, error };
        if patience.is_some() {
            wait_for_room(to, patience).map_err(failed)?;
        }
        // A pipe that has room accepts this much without blocking.
        let len_max = if patience.is_some() { PIPE_BUF } else { usize::MAX };
        let rest = &text[written..];
        match rustix::io::write(to, &rest[..rest.len().min(len_max)]) {
            Ok(0) => return Err(failed(Errno::IO)),
            Ok(len) => written += len,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_for_room(to, patience).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

/// Waits until a write would not block, or would fail with the reason.
fn wait_for_room(to: BorrowedFd<'_>, patience: Option<Duration>) -> Result<(), Errno> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        match poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], left.as_ref()) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Bytes that a pipe accepts in one piece (`PIPE_BUF` of limits.h on Linux).
const PIPE_BUF: usize = 4096;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, pipe};
    use std::thread;

    use super::*;

    #[test]
    fn a_non_blocking_pipe_accepts_more_than_it_has_room_for() {
        let (mut read, write) = pipe().unwrap();
        rustix::io::ioctl_fionbio(&write, true).unwrap();
        let text: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let expected = text.clone();
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            read.read_to_end(&mut all).unwrap();
            all
        });
        write_all(write.as_fd(), &text, None).unwrap();
        drop(write);
        assert!(reader.join().unwrap() == expected);
    }

    #[test]
    fn patience_ends_at_a_pipe_that_nobody_reads() {
        let (_read, write) = pipe().unwrap();
        let began = Instant::now();
        let refused = write_all(write.as_fd(), &[b'x'; 1 << 20], Some(Duration::from_millis(50))).unwrap_err();
        assert_eq!(refused.error, Errno::TIMEDOUT);
        assert!(refused.written > 0 && began.elapsed() < Duration::from_secs(10), "{refused:?}");
    }

    #[test]
    fn a_reader_that_has_gone_and_a_full_disk_are_reported() {
        let (read, write) = pipe().unwrap();
        drop(read);
        assert_eq!(write_all(write.as_fd(), b"x", None), Err(WriteError { written: 0, error: Errno::PIPE }));
        let full = File::options().write(true).open("/dev/full").unwrap();
        for patience in [None, Some(Duration::from_secs(1))] {
            let refused = write_all(full.as_fd(), b"x", patience);
            assert_eq!(refused, Err(WriteError { written: 0, error: Errno::NOSPC }));
        }
    }
}
