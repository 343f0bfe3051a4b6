//! How every ring is set up, and the ops that run on it: each with the kernel that knows it first.

use std::io;

use io_uring::{Builder, IoUring, opcode};

/// A flag of `io_uring_setup` that every ring has.
pub struct Flag {
    pub name: &'static str,
    /// The first Linux that knows it.
    pub since: &'static str,
    set: fn(&mut Builder),
}

/// An op that a server puts on its rings.
pub struct Op {
    pub name: &'static str,
    /// The first Linux that knows it, as it is used here.
    pub since: &'static str,
    pub(super) code: u8,
}

/// What each is for stands at [`Runtime::new`](super::Runtime::new).
pub const FLAGS: [Flag; 3] = [
    Flag { name: "SINGLE_ISSUER", since: "6.0", set: |ring| _ = ring.setup_single_issuer() },
    Flag { name: "COOP_TASKRUN", since: "5.19", set: |ring| _ = ring.setup_coop_taskrun() },
    Flag { name: "SUBMIT_ALL", since: "5.18", set: |ring| _ = ring.setup_submit_all() },
];

pub const OPS: [Op; 6] = [
    Op { name: "POLL_ADD", since: "5.1", code: opcode::PollAdd::CODE },
    Op { name: "RECV", since: "5.6", code: opcode::Recv::CODE },
    Op { name: "SEND", since: "5.6", code: opcode::Send::CODE },
    Op { name: "ASYNC_CANCEL", since: "5.19, by descriptor", code: opcode::AsyncCancel2::CODE },
    Op { name: "WRITE", since: "5.6", code: opcode::Write::CODE },
    Op { name: "NOP", since: "5.1", code: opcode::Nop::CODE },
];

/// The most completion queue entries that the kernel takes; more is EINVAL.
const COMPLETIONS_MAX: u32 = 1 << 16;

/// How a ring with `entries` submission queue entries is set up.
pub(super) fn builder(entries: u32) -> Builder {
    let mut ring = IoUring::builder();
    for flag in &FLAGS {
        (flag.set)(&mut ring);
    }
    ring.setup_cqsize(entries.saturating_mul(4).min(COMPLETIONS_MAX));
    ring
}

impl Flag {
    /// Whether the kernel makes a ring with this flag alone.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` if it does not know it.
    pub fn check(&self) -> io::Result<()> {
        let mut ring = IoUring::builder();
        (self.set)(&mut ring);
        ring.build(1).map(drop)
    }
}
