//! A connection's socket: owned buffers in, owned buffers out, one op at a time.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use io_uring::{opcode, types};
use socket2::SockRef;

use super::submit;

/// A connected socket. Its connection's task owns it, and with it the right to read and write.
///
/// If it is dropped while an op is in flight (its task panicked), it shuts both sides down: the op
/// ends, the descriptor is freed, the peer sees the end. Otherwise the task would leak all three.
pub struct Socket(Rc<Inner>);

/// What may be done to a socket from outside its task: to end what it waits for.
#[derive(Clone)]
pub struct SocketHandle(Rc<Inner>);

struct Inner {
    descriptor: OwnedFd,
    in_flight: Cell<InFlight>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum InFlight {
    Nothing,
    Receive,
    Send,
}

impl Socket {
    /// Takes over a connected socket in blocking mode (which the ring needs: on a non-blocking one an
    /// op fails with EAGAIN instead of waiting).
    pub fn new(descriptor: OwnedFd) -> Self {
        Socket(Rc::new(Inner { descriptor, in_flight: Cell::new(InFlight::Nothing) }))
    }

    /// A handle for others.
    pub fn handle(&self) -> SocketHandle {
        SocketHandle(self.0.clone())
    }

    /// Appends to `buffer`, within its capacity, what the peer sent, and returns how many bytes came;
    /// 0 means that it sent its last. Waits until there is something.
    ///
    /// Not cancel-safe, as every op here: see the [module](super).
    ///
    /// # Errors
    /// The socket's; `ECANCELED` after [`SocketHandle::cancel_receive`]. `buffer` comes back unchanged.
    ///
    /// # Panics
    /// If `buffer` has no room.
    pub async fn receive(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        self.receive_with(buffer, 0).await
    }

    /// As [`Self::receive`], but fails with [`io::ErrorKind::WouldBlock`] where it would wait.
    pub async fn receive_now(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        self.receive_with(buffer, libc::MSG_DONTWAIT).await
    }

    #[inline]
    async fn receive_with(&self, mut buffer: Vec<u8>, flags: i32) -> (io::Result<usize>, Vec<u8>) {
        let spare = buffer.spare_capacity_mut();
        assert!(!spare.is_empty(), "a receive into a full buffer would look like the end of the stream");
        let len = u32::try_from(spare.len()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(self.fd(), spare.as_mut_ptr().cast(), len).flags(flags).build();
        self.0.in_flight.set(InFlight::Receive);
        let (result, mut buffer) = submit(self.0.clone(), buffer, entry).await;
        self.0.in_flight.set(InFlight::Nothing);
        let result = result.map(|count| count as usize);
        if let Ok(count) = result {
            // SAFETY: the kernel has written `count` bytes, at most `len`, behind the old length.
            unsafe { buffer.set_len(buffer.len() + count) };
        }
        (result, buffer)
    }

    /// Sends all of `buffer`, in one piece where the socket has room, and gives it back.
    ///
    /// Not cancel-safe, as every op here: see the [module](super).
    ///
    /// # Errors
    /// The socket's; how much of `buffer` went out is then unknown, and the stream is only good for
    /// closing.
    pub async fn send_all(&self, mut buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut sent = 0;
        while sent < buffer.len() {
            let rest = &buffer[sent..];
            let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            // MSG_WAITALL: the kernel itself goes on behind a short write.
            let entry =
                opcode::Send::new(self.fd(), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL).build();
            self.0.in_flight.set(InFlight::Send);
            let (result, back) = submit(self.0.clone(), buffer, entry).await;
            self.0.in_flight.set(InFlight::Nothing);
            buffer = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(count) => sent += count as usize,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Ends the op in flight on this socket, which then gives `ECANCELED`, or its result if that came
    /// first. May be dropped: it holds no data.
    pub fn cancel(&self) -> impl Future<Output = ()> + use<> {
        self.0.clone().cancel()
    }

    /// Bytes that can be read at this moment without waiting.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn readable_bytes(&self) -> io::Result<u64> {
        Ok(rustix::io::ioctl_fionread(&self.0.descriptor)?)
    }

    /// Tells the peer that nothing more will be sent; what it sends can still be read.
    ///
    /// # Errors
    /// The peer is gone already.
    pub fn shut_down_writes(&self) -> io::Result<()> {
        SockRef::from(&self.0.descriptor).shutdown(Shutdown::Write)
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.0.descriptor.as_raw_fd())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.0.in_flight.get() != InFlight::Nothing {
            self.0.shut_down();
        }
    }
}

impl SocketHandle {
    /// Ends the wait for something to read, if that is what the socket's task is doing. A send is left
    /// alone: nobody could say how much of it had gone out.
    pub async fn cancel_receive(&self) {
        if self.0.in_flight.get() == InFlight::Receive {
            self.0.clone().cancel().await;
        }
    }

    /// Cuts the connection: ends whatever is in flight, a stuck send too.
    pub fn shut_down(&self) {
        self.0.shut_down();
    }
}

impl Inner {
    fn cancel(self: Rc<Self>) -> impl Future<Output = ()> {
        let fd = types::Fd(self.descriptor.as_raw_fd());
        let op = submit(self, (), super::accept::cancel_all(fd));
        async {
            // That there was nothing left to cancel is no error.
            let _ = op.await;
        }
    }

    fn shut_down(&self) {
        // It fails only where the peer is gone already, and then there is nothing to end.
        let _ = SockRef::from(&self.descriptor).shutdown(Shutdown::Both);
    }
}
