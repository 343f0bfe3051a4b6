//! Stdout for a command that writes much to it: writes are whole or fail, and the command notices when its reader is
//! closed.

use std::io::{self, ErrorKind, Stdout, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Unbuffered stdout.
#[derive(Debug)]
pub struct Out(Stdout);

/// A failed write to stdout.
#[derive(Debug, thiserror::Error)]
#[error("can't write to stdout: {0}{fix}", fix = fix(.0))]
pub struct OutError(#[from] io::Error);

impl OutError {
    /// Returns whether the program that reads the output has closed it.
    pub fn is_unwanted(&self) -> bool {
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

impl Out {
    pub fn new() -> Self {
        Out(io::stdout())
    }

    /// Waits for `timeout`, or until the reader of the output has closed it. Returns whether it has.
    pub fn is_unwanted_within(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).expect("the timeout is short");
        let mut stdout = [PollFd::new(&self.0, PollFlags::empty())];
        match poll(&mut stdout, Some(&timeout)) {
            Ok(0) | Err(_) => false,
            Ok(_) => stdout[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(&self.0, bytes) {
                Err(Errno::INTR) => {}
                // Another program that shares the terminal or the pipe may have made it non-blocking.
                Err(Errno::AGAIN) => {
                    let _ = poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None);
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the whole result of a command.
pub fn print(text: &str) -> Result<(), OutError> {
    Ok(Out::new().write_all(text.as_bytes())?)
}
