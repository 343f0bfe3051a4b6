//! A descriptor that the server keeps back for when there are no others.
//!
//! With none left an accept fails, and a client that waits in the kernel's queue would hang. So the
//! reserve is then given up: the next accept gets its place, and that client is closed at once instead
//! of left to hang. The reserve also tells when this is over: a connection is served only if the
//! reserve can be held beside it.
//!
//! There is one for the whole process, as for the descriptors themselves. With one a shard, a shard
//! that still holds its own would take the place that another has given up, and that one's clients
//! would hang.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

/// The reserve.
#[derive(Debug, Default)]
pub struct SpareDescriptor {
    /// Whether there is nothing to do, so that an accept costs no lock.
    held: AtomicBool,
    descriptor: Mutex<Option<OwnedFd>>,
}

impl SpareDescriptor {
    /// A reserve that is held, if there is a descriptor for it.
    pub fn new() -> Self {
        let reserve = SpareDescriptor::default();
        reserve.hold();
        reserve
    }

    /// Holds the reserve, taking it again if it was given up. `false` if descriptors have run out.
    #[inline]
    pub fn hold(&self) -> bool {
        self.held.load(Ordering::Relaxed) || self.take()
    }

    /// Gives the reserve up. `false` if that had been done already.
    pub fn give_up(&self) -> bool {
        let mut descriptor = self.descriptor();
        self.held.store(false, Ordering::Relaxed);
        descriptor.take().is_some()
    }

    #[cold]
    fn take(&self) -> bool {
        let mut descriptor = self.descriptor();
        if descriptor.is_none() {
            // An eventfd needs no file that might not be there.
            match eventfd(0, EventfdFlags::CLOEXEC) {
                Ok(taken) => *descriptor = Some(taken),
                // Refused for another reason, it is done without: clients are not to suffer for it.
                Err(error) => return !matches!(error, Errno::MFILE | Errno::NFILE),
            }
        }
        self.held.store(true, Ordering::Relaxed);
        true
    }

    fn descriptor(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.descriptor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_can_be_held_again() {
        let reserve = SpareDescriptor::new();
        assert!(reserve.hold());
        assert!(reserve.give_up());
        assert!(!reserve.give_up(), "it is given up once");
        assert!(reserve.hold());
        assert!(reserve.give_up());
    }
}
