//! The kernel's counters of a TCP connection. No crate has a call that reads them.
//!
//! Owns the raw system calls. Invariant: each call gives the kernel memory of the size that it states.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Returns the bytes that were sent and that the peer's kernel has not acknowledged. It also works on a failed socket.
///
/// # Errors
/// The ioctl's.
pub fn unacknowledged_bytes(socket: impl AsFd) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int.
    match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(u64::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns the bytes that the peer's kernel has acknowledged since the connection began, or `None` if the kernel
/// doesn't report them.
pub fn bytes_acked(socket: impl AsFd) -> Option<u64> {
    // The offset of tcpi_bytes_acked in `struct tcp_info` of linux/tcp.h, since 4.1. libc's struct ends before it.
    tcp_info::<120>(socket)
}

/// Returns the bytes received from the peer since the connection began, or `None` if the kernel doesn't report them.
pub fn bytes_received(socket: impl AsFd) -> Option<u64> {
    // The offset of tcpi_bytes_received, which is also there since 4.1.
    tcp_info::<128>(socket)
}

/// Returns the u64 at `OFFSET` of the socket's `struct tcp_info`.
fn tcp_info<const OFFSET: usize>(socket: impl AsFd) -> Option<u64> {
    let mut info = [0u8; 136];
    let mut len = info.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `info`.
    let result =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) };
    let end = OFFSET + size_of::<u64>();
    let known = result == 0 && len as usize >= end;
    known.then(|| u64::from_ne_bytes(info[OFFSET..end].try_into().expect("eight bytes")))
}
