//! The ops: each one SQE, one completion, and owned memory that comes back with the result.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use io_uring::{opcode, types};

use super::submit;

/// Appends to `buffer`, within its capacity, what a socket has received; 0 bytes mean that the peer sent
/// its last.
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
        // SAFETY: the kernel has written `count` bytes, at most `len`, behind the old length.
        unsafe { buffer.set_len(buffer.len() + count) };
    }
    (result, buffer)
}

/// Sends what stands in `buffer` from `from` on, or a part of it.
pub async fn send<D>(socket: D, buffer: Vec<u8>, from: usize) -> (io::Result<usize>, Vec<u8>)
where
    D: AsFd + Unpin + 'static,
{
    let rest = &buffer[from..];
    let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
    // Not MSG_WAITALL: of a send that fails behind a short write it gives the count, and loses the error.
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

/// Cancels all that is in flight on a descriptor. The ops end; the returned future may be dropped.
pub fn cancel_all<D>(descriptor: D) -> impl Future<Output = ()>
where
    D: AsFd + Unpin + 'static,
{
    let entry = opcode::AsyncCancel2::new(types::CancelBuilder::fd(fd(&descriptor)).all()).build();
    // SAFETY: the op uses no memory.
    let op = unsafe { submit(descriptor, (), entry) };
    async {
        // That there was nothing to cancel is no error.
        let _ = op.await;
    }
}

/// Writes the bytes of `memory` in `range` at `offset` of a file, to last when it returns (RWF_DSYNC).
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

/// Once round the ring: submitted, completed, and the task woken.
pub async fn round_trip() {
    // SAFETY: the op uses neither memory nor a descriptor. Even a failed op shows that the ring works.
    let _ = unsafe { submit((), (), opcode::Nop::new().build()) }.await;
}

fn fd(descriptor: &impl AsFd) -> types::Fd {
    types::Fd(descriptor.as_fd().as_raw_fd())
}
