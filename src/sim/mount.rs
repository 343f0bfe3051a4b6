//! The disk of the host that this thread simulates.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use super::disk::{Disk, SimStorage};
use super::kernel::{self, ProcessId};
use crate::journal::retention::Retention;

thread_local! {
    static DISK: RefCell<Option<Rc<RefCell<Disk>>>> = const { RefCell::new(None) };
}

/// Gives this thread's host a disk, or none.
pub fn mount(disk: Option<Rc<RefCell<Disk>>>) {
    DISK.set(disk);
}

/// Opens the storage of a writer's directory for a process.
///
/// # Errors
/// The process has no descriptors left, or the position file can't be created.
///
/// # Panics
/// The host has no disk.
pub fn open_storage(process: ProcessId, writer_dir: &Path, retention: Retention) -> io::Result<SimStorage> {
    let disk = DISK.with_borrow(|disk| disk.clone().expect("the host has a disk"));
    let descriptors = move || Ok(Box::new(kernel::hold_descriptor(process)?) as Box<dyn Any>);
    SimStorage::open(&disk, process, writer_dir, retention, Rc::new(descriptors))
}
