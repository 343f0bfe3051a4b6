//! A descriptor that the server keeps in reserve for when there are no others.
//!
//! Without a free descriptor an accept fails, and a client in the kernel's backlog would hang. The spare descriptor is
//! then given up: the next accept gets its place, and that client's connection is closed immediately instead of
//! hanging. The spare descriptor also shows when the shortage is over: a connection is served only if the spare
//! descriptor can be held beside it.
//!
//! There is one for the whole process, since descriptors are counted per process. With one per shard, a shard that
//! still holds its own would take the place that another shard has given up, and the other shard's clients would hang.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::{Engine, HeldDescriptor};

/// The spare descriptor of a process.
#[derive(Debug)]
pub struct SpareDescriptor {
    engine: Engine,
    /// Whether the descriptor is held. An accept then needs no lock.
    held: AtomicBool,
    descriptor: Mutex<Option<HeldDescriptor>>,
}

impl SpareDescriptor {
    /// Opens the spare descriptor, if there is a free one.
    pub fn new(engine: Engine) -> Self {
        let spare = SpareDescriptor { engine, held: AtomicBool::new(false), descriptor: Mutex::new(None) };
        spare.hold();
        spare
    }

    /// Holds the spare descriptor, and opens it again if it was given up. Returns `false` if descriptors have run out.
    #[inline]
    pub fn hold(&self) -> bool {
        self.held.load(Ordering::Relaxed) || self.open()
    }

    /// Closes the spare descriptor. Returns `false` if it was closed already.
    pub fn give_up(&self) -> bool {
        let mut descriptor = self.descriptor();
        self.held.store(false, Ordering::Relaxed);
        descriptor.take().is_some()
    }

    #[cold]
    fn open(&self) -> bool {
        let mut descriptor = self.descriptor();
        if descriptor.is_none() {
            match self.engine.hold_descriptor() {
                Ok(opened) => *descriptor = Some(opened),
                // After any other error, continue without a spare descriptor: clients must not suffer from it.
                Err(error) => return !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)),
            }
        }
        self.held.store(true, Ordering::Relaxed);
        true
    }

    fn descriptor(&self) -> MutexGuard<'_, Option<HeldDescriptor>> {
        self.descriptor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_descriptor_that_was_given_up_can_be_held_again() {
        let spare = SpareDescriptor::new(Engine::Epoll);
        assert!(spare.hold());
        assert!(spare.give_up());
        assert!(!spare.give_up(), "it can be given up once");
        assert!(spare.hold());
        assert!(spare.give_up());
    }
}
