//! How every ring is set up, and the ops that run on it, each with the first Linux that knows it.
//!
//! Owns the flags, the sizes and the list of ops. It must not know what the ops are for. Invariant: every ring of this
//! module is built by [`builder`], so that a probe tries what a shard needs.

use std::io;

use io_uring::{Builder, IoUring, opcode};

/// A flag of `io_uring_setup` that every ring has. [`Runtime::new`](super::Runtime::new) has the reasons.
pub struct Flag {
    /// The flag's name without its prefix.
    pub name: &'static str,
    /// The first Linux that knows it.
    pub since: &'static str,
    set: fn(&mut Builder),
}

/// An op that a server puts on its rings.
pub struct Op {
    /// The op's name without its prefix.
    pub name: &'static str,
    /// The first Linux that knows it with the flags that are used here.
    pub since: &'static str,
    pub(super) code: u8,
}

/// The flags of every ring.
pub const FLAGS: [Flag; 3] = [
    Flag { name: "SINGLE_ISSUER", since: "6.0", set: |ring| _ = ring.setup_single_issuer() },
    Flag { name: "COOP_TASKRUN", since: "5.19", set: |ring| _ = ring.setup_coop_taskrun() },
    Flag { name: "SUBMIT_ALL", since: "5.18", set: |ring| _ = ring.setup_submit_all() },
];

/// The ops on a server's rings.
pub const OPS: [Op; 6] = [
    Op { name: "POLL_ADD", since: "5.1", code: opcode::PollAdd::CODE },
    Op { name: "RECV", since: "5.6", code: opcode::Recv::CODE },
    Op { name: "SEND", since: "5.6", code: opcode::Send::CODE },
    Op { name: "ASYNC_CANCEL", since: "5.19, by descriptor", code: opcode::AsyncCancel2::CODE },
    Op { name: "WRITE", since: "5.6", code: opcode::Write::CODE },
    Op { name: "NOP", since: "5.1", code: opcode::Nop::CODE },
];

/// Returns the settings of a ring with `entries` submission queue entries.
pub(super) fn builder(entries: u32) -> Builder {
    let mut ring = IoUring::builder();
    for flag in &FLAGS {
        (flag.set)(&mut ring);
    }
    ring.setup_cqsize(completions(entries));
    ring
}

/// Returns the locked memory of a ring, in bytes: the entries of both queues, the index between them and a header, all
/// in whole pages.
pub fn memory_len(entries: u32) -> u64 {
    const PAGE: u64 = 4096;
    let (entries, completions) = (u64::from(entries), u64::from(completions(entries)));
    (entries * 64).next_multiple_of(PAGE) + (completions * 16 + entries * 4 + 320).next_multiple_of(PAGE)
}

/// Returns the number of completion queue entries of a ring.
fn completions(entries: u32) -> u32 {
    entries.saturating_mul(4).min(COMPLETIONS_MAX)
}

impl Flag {
    /// Checks whether the kernel creates a ring with this flag alone.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` if it does not know the flag.
    pub fn check(&self) -> io::Result<()> {
        let mut ring = IoUring::builder();
        (self.set)(&mut ring);
        ring.build(1).map(drop)
    }
}

/// The maximum of completion queue entries. For more the kernel returns EINVAL.
const COMPLETIONS_MAX: u32 = 1 << 16;
