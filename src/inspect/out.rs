//! Stdout, as a command that writes much to it sees it: written whole or an error, and known when its reader goes.

use std::io::{self, ErrorKind, Stdout, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// Stdout, without a buffer of its own.
#[derive(Debug)]
pub struct Out(Stdout);

/// Output that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("can't write to stdout: {0}{fix}", fix = fix(.0))]
pub struct OutError(#[from] io::Error);

impl OutError {
    /// Whether the program that reads the output has closed it.
    pub fn is_unwanted(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

fn fix(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "; the output is not complete: make room, or write it to another file"
        }
        _ => "; the output is not complete",
    }
}

impl Out {
    pub fn new() -> Self {
        Out(io::stdout())
    }

    /// Waits for so long, or until the reader of the output is gone. Says whether it is.
    pub fn is_unwanted_within(&self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).expect("a short time");
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

/// Writes a command's result, whole.
pub fn print(text: &str) -> Result<(), OutError> {
    Ok(Out::new().write_all(text.as_bytes())?)
}
