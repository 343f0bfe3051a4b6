//! A socket that waits on its runtime's epoll. Both engines use it: epoll for every socket, and a ring for sockets of
//! connections that are served alone ([`crate::ring`]).
//!
//! Owns the wait for a socket and the non-blocking calls after it. It must not know any engine. Invariant: a cancelled
//! op fails with `ECANCELED`, as on a ring, and no bytes are lost.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket registered with epoll, blocking or not: no call on it blocks. At most one receive (or accept) and one send
/// may be in progress.
pub struct Readiness<D: AsFd + AsRawFd = OwnedFd> {
    socket: AsyncFd<D>,
    /// A generation counter: an op that began with a lower value has been cancelled.
    cancels: Cell<u64>,
    /// Whether the last receive filled its buffer.
    filled: Cell<bool>,
    /// The task that waits to receive or accept.
    reader: Cell<Option<Waker>>,
    /// The task that waits to send.
    writer: Cell<Option<Waker>>,
}

impl Readiness {
    /// Registers a socket with the runtime's epoll.
    ///
    /// # Errors
    /// epoll can't watch another socket: memory is short, or `fs.epoll.max_user_watches` is reached.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is one open descriptor for as long as it exists.
        #[allow(unsafe_code)]
        unsafe {
            Self::register(socket)
        }
    }
}

impl Readiness<Rc<OwnedFd>> {
    /// Registers a socket that others own too. See [`Readiness::new`].
    pub fn of_shared(socket: Rc<OwnedFd>) -> io::Result<Self> {
        // SAFETY: an Rc of an OwnedFd is one open descriptor for as long as the Rc exists.
        #[allow(unsafe_code)]
        unsafe {
            Self::register(socket)
        }
    }
}

impl<D: AsFd + AsRawFd> Readiness<D> {
    /// # Safety
    /// `socket` must be the same open descriptor for as long as the returned value exists.
    #[allow(unsafe_code)]
    unsafe fn register(socket: D) -> io::Result<Self> {
        // SAFETY: as this function's caller promises.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let (reader, writer) = (Cell::new(None), Cell::new(None));
        Ok(Readiness { socket, cancels: Cell::new(0), filled: Cell::new(false), reader, writer })
    }

    /// Cancels every op in progress.
    pub fn cancel(&self) {
        self.cancels.set(self.cancels.get() + 1);
        for waiting in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waiting.wake();
        }
    }

    /// Waits for bytes from the peer and appends them to `buffer`, within its capacity. Returns 0 at the end of the
    /// stream.
    pub async fn receive(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let room = buffer.capacity() - buffer.len();
        let before = self.cancels.get();
        let result = poll_fn(|context| {
            self.poll_unless_cancelled(before, &self.reader, context, |context| {
                // Yield after a full read, so that one fast sender can't starve other connections.
                if self.filled.take() {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                loop {
                    let mut ready = ready!(self.socket.poll_read_ready(context))?;
                    match self.receive_now(&mut buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        result => {
                            match result {
                                Ok(count) if count == room => self.filled.set(true),
                                // The socket is empty. epoll will report more.
                                Ok(1..) => ready.clear_ready(),
                                _ => {}
                            }
                            return Poll::Ready(result);
                        }
                    }
                }
            })
        })
        .await;
        (result, buffer)
    }

    /// Sends `bytes`, or a part of them. Waits until the socket has room.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.cancels.get();
        poll_fn(|context| {
            self.poll_unless_cancelled(before, &self.writer, context, |context| {
                loop {
                    let mut ready = ready!(self.socket.poll_write_ready(context))?;
                    match retry(|| rustix::net::send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        result => return Poll::Ready(result),
                    }
                }
            })
        })
        .await
    }

    /// Waits until there may be something to receive or to accept.
    pub async fn readable(&self) -> io::Result<()> {
        let before = self.cancels.get();
        poll_fn(|context| {
            self.poll_unless_cancelled(before, &self.reader, context, |context| {
                self.socket.poll_read_ready(context).map_ok(|_ready| ())
            })
        })
        .await
    }

    /// Tries to receive or to accept, regardless of what epoll has reported. After [`io::ErrorKind::WouldBlock`],
    /// [`Self::readable`] waits for the next change.
    pub fn try_read<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let result = call();
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            let empty = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::READABLE, |_| empty());
        }
        result
    }

    fn receive_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        retry(|| rustix::net::recv(&self.socket, spare_capacity(buffer), RecvFlags::DONTWAIT).map(|(count, _)| count))
    }

    /// Polls an op, unless it was cancelled after `before` was read.
    #[inline]
    fn poll_unless_cancelled<T>(
        &self,
        before: u64,
        waiting: &Cell<Option<Waker>>,
        context: &mut Context<'_>,
        op: impl FnOnce(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.cancels.get() != before {
            return Poll::Ready(Err(io::Error::from_raw_os_error(libc::ECANCELED)));
        }
        let result = op(context);
        waiting.set(result.is_pending().then(|| context.waker().clone()));
        result
    }
}

impl<D: AsFd + AsRawFd> AsFd for Readiness<D> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn retry<T>(call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    rustix::io::retry_on_intr(call).map_err(io::Error::from)
}
