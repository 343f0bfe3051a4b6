//! Tries out whether io_uring works here: a ring set up as a shard's, and the ops of a connection on it.
//!
//! Owns rings that exist only during a call. It must not know runtimes. Invariant: the memory of an op outlives it.

#![allow(unsafe_code)]

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use super::error::{Asked, RingError};
use super::setup::{self, OPS, Op};

/// Creates a ring with the flags of every [`Runtime`](super::Runtime), and sends and receives a byte on it. May be
/// called within any runtime, which it blocks for well under a millisecond.
///
/// # Errors
/// The kernel refused. [`RingError::is_unavailable`] distinguishes a host without io_uring from an exhausted limit.
pub fn probe() -> Result<(), RingError> {
    let setup = |error| RingError::explain(error, Asked::Ring { entries: ENTRIES });
    let mut ring = setup::builder(ENTRIES).build(ENTRIES).map_err(setup)?;
    let (one, mut other) = UnixStream::pair().map_err(setup)?;
    let byte = *b"?";
    let send = opcode::Send::new(types::Fd(one.as_raw_fd()), byte.as_ptr(), 1).build();
    run(&mut ring, send, "SEND")?;
    let mut received = [0];
    let receive = opcode::Recv::new(types::Fd(other.as_raw_fd()), received.as_mut_ptr(), 1).build();
    run(&mut ring, receive, "RECV")?;
    other.set_nonblocking(true).map_err(setup)?;
    let more = other.read(&mut [0]).is_ok();
    if received == byte && !more {
        Ok(())
    } else {
        Err(RingError::explain(io::Error::other("the byte that was sent did not arrive"), Asked::Op { name: "RECV" }))
    }
}

/// Runs one op that transfers one byte immediately, and waits for its completion.
fn run(ring: &mut IoUring, entry: squeue::Entry, name: &'static str) -> Result<(), RingError> {
    // SAFETY: the memory that `entry` points to belongs to `probe` and outlives the op, which completes while it is
    // submitted: a send has room for its byte, and a receive then finds that byte.
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

/// Creates `count` rings with `entries` submission queue entries, as a server does, and closes them after the last one
/// was created.
///
/// # Errors
/// The first ring that the kernel refused.
pub fn make_at_once(entries: u32, count: usize) -> Result<(), RingError> {
    let make = |_| setup::builder(entries).build(entries);
    let rings: io::Result<Vec<_>> = (0..count).map(make).collect();
    rings.map(drop).map_err(|error| RingError::explain(error, Asked::Ring { entries }))
}

/// Returns those of [`OPS`] that the kernel does not know.
///
/// # Errors
/// The kernel refused a ring, or a filter refused `io_uring_register`, which only this function needs.
pub fn unknown_ops() -> io::Result<Vec<&'static Op>> {
    let ring = IoUring::new(1)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    Ok(OPS.iter().filter(|op| !probe.is_supported(op.code)).collect())
}

/// Entries of the probe's ring: enough for one op at a time. Whether the kernel offers rings doesn't depend on their
/// size, and the kernel releases the locked memory only a moment after the ring is closed.
const ENTRIES: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Runtime;

    #[test]
    fn the_probe_succeeds_where_a_runtime_can_be_created() {
        assert_eq!(Runtime::new(8).is_ok(), probe().is_ok());
        assert!(unknown_ops().unwrap().is_empty());
        // It also works within a runtime, beside other rings.
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { probe().unwrap() });
    }

    /// `--ring-entries` is at most this, because the kernel accepts at most 65,536 completion queue entries.
    #[test]
    fn the_largest_ring_can_be_created() {
        Runtime::new(1 << 15).unwrap();
    }

    #[test]
    fn the_kernel_accepts_every_flag_alone() {
        for flag in &setup::FLAGS {
            flag.check().unwrap_or_else(|error| panic!("{}: {error}", flag.name));
        }
    }
}
