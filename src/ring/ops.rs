//! The ops on a ring. Each is one SQE with one completion, and owns its memory, which it returns with the result.
//!
//! It must not know the runtime or sockets' rules. Invariant: each op passes only memory that its buffer owns.

#![allow(unsafe_code)]

use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{opcode, types};

use super::submit::submit;

/// Waits for bytes from a socket and appends them to `buffer`, within its capacity. Returns 0 at the end of the stream.
pub async fn receive<D>(socket: D, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>)
where
    D: AsFd + Unpin + 'static,
{
    let spare = buffer.spare_capacity_mut();
    let len = u32::try_from(spare.len()).unwrap_or(u32::MAX);
    let entry = opcode::Recv::new(fd(&socket), spare.as_mut_ptr().cast(), len).build();
    // SAFETY: the kernel writes to the spare capacity of `buffer`, which is on the heap.
    let (result, mut buffer) = unsafe { submit(socket, buffer, entry) }.await;
    let result = result.map(|count| count as usize);
    if let Ok(count) = result {
        // SAFETY: the kernel has written `count` bytes, at most `len`, after the old length.
        unsafe { buffer.set_len(buffer.len() + count) };
    }
    (result, buffer)
}

/// Sends the bytes of `buffer` after the first `from`, or a part of them.
pub async fn send<D>(socket: D, buffer: Vec<u8>, from: usize) -> (io::Result<usize>, Vec<u8>)
where
    D: AsFd + Unpin + 'static,
{
    let rest = &buffer[from..];
    let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    // Without MSG_WAITALL: if a send fails after a short write, that flag returns the count and loses the error.
    let entry = opcode::Send::new(fd(&socket), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
    // SAFETY: the kernel reads the bytes of `buffer`, which are on the heap.
    let (result, buffer) = unsafe { submit(socket, buffer, entry) }.await;
    (result.map(|count| count as usize), buffer)
}

/// Waits until a socket has something to receive or to accept, or has failed. May be dropped: it holds no data.
pub async fn readable<D>(socket: D) -> io::Result<()>
where
    D: AsFd + Unpin + 'static,
{
    let entry = opcode::PollAdd::new(fd(&socket), libc::POLLIN as u32).build();
    // SAFETY: the op uses no memory.
    unsafe { submit(socket, (), entry) }.await.0.map(drop)
}

/// Cancels every op in flight on a descriptor. The ops end even if the returned future is dropped.
pub fn cancel_all<D>(descriptor: D) -> impl Future<Output = ()>
where
    D: AsFd + Unpin + 'static,
{
    let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd(&descriptor)).all()).build();
    // SAFETY: the op uses no memory.
    let op = unsafe { submit(descriptor, (), entry) };
    async {
        // ENOENT means that there was nothing to cancel.
        let _ = op.await;
    }
}

/// Writes the bytes of `memory` in `range` at `offset` of a file. Returns once they are durable (RWF_DSYNC).
pub async fn write_durably<D>(
    file: D,
    offset: u64,
    memory: Box<[u8]>,
    range: Range<usize>,
) -> (io::Result<usize>, Box<[u8]>)
where
    D: AsFd + Unpin + 'static,
{
    let bytes = &memory[range];
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let entry = opcode::Write::new(fd(&file), bytes.as_ptr(), len).offset(offset).rw_flags(libc::RWF_DSYNC).build();
    // SAFETY: the kernel reads the bytes of `memory`, which are on the heap.
    let (result, memory) = unsafe { submit(file, memory, entry) }.await;
    (result.map(|count| count as usize), memory)
}

/// Sends a NOP through the ring and waits for its completion: a sign that the event loop runs.
pub async fn round_trip() {
    // SAFETY: the op uses neither memory nor a descriptor. Even a failed op shows that the ring works.
    let _ = unsafe { submit((), (), opcode::Nop::new().build()) }.await;
}

fn fd(descriptor: &impl AsFd) -> types::Fd {
    types::Fd(descriptor.as_fd().as_raw_fd())
}
