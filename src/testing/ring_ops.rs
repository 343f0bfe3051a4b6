//! Ops on a ring that accept a path. Confinement must stop them as it stops system calls.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use io_uring::{opcode, squeue, types};

use crate::ring::submit;

/// Tries every op that accepts a path in `dir`, which contains a file `there`. The ops create files whose names begin
/// with `prefix`, and remove them again if they can.
pub async fn reach(dir: &Path, prefix: &str) -> Vec<(&'static str, io::Result<()>)> {
    let path =
        |name: &str| Box::new(CString::new(dir.join(name).as_os_str().as_bytes()).expect("a path has no zero byte"));
    let at = types::Fd(libc::AT_FDCWD);
    let there = path("there");
    let mut results = Vec::new();
    for (name, flags, options) in [
        ("OPENAT to read", squeue::Flags::empty(), libc::O_RDONLY),
        ("OPENAT to write", squeue::Flags::empty(), libc::O_WRONLY),
        // A kernel thread carries these out.
        ("OPENAT to read, by io-wq", squeue::Flags::ASYNC, libc::O_RDONLY),
        ("OPENAT to write, by io-wq", squeue::Flags::ASYNC, libc::O_WRONLY),
    ] {
        let entry = opcode::OpenAt::new(at, there.as_ptr()).flags(options).build().flags(flags);
        results.push((name, opened(entry, there.clone()).await));
    }
    let how = Box::new(types::OpenHow::new().flags(libc::O_RDONLY as u64));
    let entry = opcode::OpenAt2::new(at, there.as_ptr(), &raw const *how).build();
    results.push(("OPENAT2 to read", opened(entry, (there.clone(), how)).await));

    let [made, link, moved, folder] = ["made", "link", "moved", "folder"].map(|name| path(&format!("{prefix}{name}")));
    let flags = libc::O_WRONLY | libc::O_CREAT;
    let entry = opcode::OpenAt::new(at, made.as_ptr()).flags(flags).mode(0o600).build();
    results.push(("OPENAT to make", opened(entry, made.clone()).await));
    let entry = opcode::LinkAt::new(at, there.as_ptr(), at, link.as_ptr()).build();
    results.push(("LINKAT", done(entry, (there.clone(), link.clone())).await));
    // If no file could be created, the existing one would be renamed and removed.
    let source = if made.to_str().is_ok_and(|made| Path::new(made).exists()) { &made } else { &there };
    let entry = opcode::RenameAt::new(at, source.as_ptr(), at, moved.as_ptr()).build();
    results.push(("RENAMEAT", done(entry, (source.clone(), moved.clone())).await));
    let entry = opcode::MkDirAt::new(at, folder.as_ptr()).mode(0o700).build();
    results.push(("MKDIRAT", done(entry, folder.clone()).await));
    let target = if source == &made { &moved } else { &there };
    let entry = opcode::UnlinkAt::new(at, target.as_ptr()).build();
    results.push(("UNLINKAT", done(entry, target.clone()).await));
    results
}

/// Runs an op that returns a descriptor. `paths` owns the memory that `entry` points to.
async fn opened<B: Unpin + 'static>(entry: squeue::Entry, paths: B) -> io::Result<()> {
    // SAFETY: every path that the kernel reads is boxed in `paths`.
    let descriptor = unsafe { submit((), paths, entry) }.await.0?;
    // SAFETY: the kernel has just opened this descriptor for this op, and nothing else uses it.
    drop(unsafe { OwnedFd::from_raw_fd(descriptor as i32) });
    Ok(())
}

/// Runs an op that returns nothing. `paths` owns the memory that `entry` points to.
async fn done<B: Unpin + 'static>(entry: squeue::Entry, paths: B) -> io::Result<()> {
    // SAFETY: as in `opened`.
    unsafe { submit((), paths, entry) }.await.0.map(drop)
}
