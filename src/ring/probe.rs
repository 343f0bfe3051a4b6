//! Whether there is io_uring here: a ring set up as a shard's, and ops of a connection on it.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::error::{Asked, RingError};
use super::setup::{self, OPS, Op};

/// Enough for one op at a time. The size of a ring decides nothing about whether the kernel has rings, and
/// what this one locks is given back only a moment after it is closed.
const ENTRIES: u32 = 4;

/// Makes a ring with the flags of every [`Runtime`](super::Runtime), and sends and receives a byte on it.
/// May be called within any runtime, which it blocks for well under a millisecond.
///
/// # Errors
/// The kernel refused; [`RingError::is_unavailable`] tells whether io_uring can't be had here at all, or
/// whether something ran out.
pub fn probe() -> Result<(), RingError> {
    let setup = |error| RingError::explain(error, Asked::Ring { entries: ENTRIES });
    let mut ring = setup::builder(ENTRIES).build(ENTRIES).map_err(setup)?;
    let (one, mut other) = UnixStream::pair().map_err(setup)?;
    let byte = *b"?";
    let send = opcode::Send::new(types::Fd(one.as_raw_fd()), byte.as_ptr(), 1).build();
    run(&mut ring, send, "SEND")?;
    let mut taken = [0];
    let receive = opcode::Recv::new(types::Fd(other.as_raw_fd()), taken.as_mut_ptr(), 1).build();
    run(&mut ring, receive, "RECV")?;
    other.set_nonblocking(true).map_err(setup)?;
    let more = other.read(&mut [0]).is_ok();
    if taken == byte && !more {
        Ok(())
    } else {
        Err(RingError::explain(io::Error::other("the byte that was sent did not come"), Asked::Op { name: "RECV" }))
    }
}

/// Runs one op that transfers one byte at once, and awaits its completion.
fn run(ring: &mut IoUring, entry: squeue::Entry, name: &'static str) -> Result<(), RingError> {
    // SAFETY: what the entry points to lives in `probe` until the op has completed, which it does while it is
    // submitted: there is room for the byte, and then there is the byte.
    unsafe { ring.submission().push(&entry) }.expect("the queue is empty");
    while let Err(error) = ring.submit_and_wait(1) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(RingError::explain(error, Asked::Enter));
        }
    }
    let completion = ring.completion().next();
    match completion.map_or(0, |completion| completion.result()) {
        1 => Ok(()),
        0 => Err(RingError::explain(io::Error::other("no completion, or an empty one"), Asked::Op { name })),
        errno => Err(RingError::explain(io::Error::from_raw_os_error(-errno), Asked::Op { name })),
    }
}

/// Makes rings of `entries` as a server makes its own, all at once, and gives them up again.
///
/// # Errors
/// The first that the kernel refused.
pub fn make_at_once(entries: u32, count: usize) -> Result<(), RingError> {
    let make = |_| setup::builder(entries).build(entries);
    let rings: io::Result<Vec<_>> = (0..count).map(make).collect();
    rings.map(drop).map_err(|error| RingError::explain(error, Asked::Ring { entries }))
}

/// Which of [`OPS`] the kernel does not know.
///
/// # Errors
/// It makes no ring, or a filter refuses `io_uring_register`, which nothing but this needs.
pub fn unknown_ops() -> io::Result<Vec<&'static Op>> {
    let ring = IoUring::new(1)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(OPS.iter().filter(|op| !probe.is_supported(op.code)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Runtime;

    #[test]
    fn where_a_runtime_can_be_had_the_probe_says_so() {
        assert_eq!(Runtime::new(8).is_ok(), probe().is_ok());
        assert!(unknown_ops().unwrap().is_empty());
        // Within a runtime of any kind, and beside rings.
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { probe().unwrap() });
    }

    /// The most that `--ring-entries` may be: the kernel takes no more than 65,536 completion queue entries.
    #[test]
    fn the_largest_ring_can_be_had() {
        Runtime::new(1 << 15).unwrap();
    }

    #[test]
    fn every_flag_is_known_alone() {
        for flag in &setup::FLAGS {
            flag.check().unwrap_or_else(|error| panic!("{}: {error}", flag.name));
        }
    }
}
