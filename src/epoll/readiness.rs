//! A socket that epoll watches, and its ops: each waits until the kernel says that it need not wait any
//! more. An op that is cancelled meanwhile fails with `ECANCELED`, as on a ring.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, Waker, ready};

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A socket, of any mode: no call on it blocks. At most one receive (or accept) and one send at a time.
pub struct Readiness<D: AsFd + AsRawFd = OwnedFd> {
    socket: AsyncFd<D>,
    /// How often its ops have been cancelled: an op that began before the last time is.
    cancels: Cell<u64>,
    /// Whether the last receive filled its buffer.
    greedy: Cell<bool>,
    /// Who waits to receive or accept, and who to send.
    readers: Cell<Option<Waker>>,
    writers: Cell<Option<Waker>>,
}

impl Readiness {
    /// Has the thread's epoll watch a socket.
    ///
    /// # Errors
    /// epoll takes no more: memory, or `fs.epoll.max_user_watches`.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd names one open descriptor, the same for as long as it lives.
        #[allow(unsafe_code)]
        unsafe {
            Self::register(socket)
        }
    }
}

impl<D: AsFd + AsRawFd> Readiness<D> {
    /// As [`Readiness::new`].
    ///
    /// # Safety
    /// `socket` names one open descriptor, the same for as long as this lives.
    #[allow(unsafe_code)]
    pub unsafe fn register(socket: D) -> io::Result<Self> {
        // SAFETY: what the caller promises.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let (readers, writers) = (Cell::new(None), Cell::new(None));
        Ok(Readiness { socket, cancels: Cell::new(0), greedy: Cell::new(false), readers, writers })
    }

    /// Ends every op in flight.
    pub fn cancel(&self) {
        self.cancels.set(self.cancels.get() + 1);
        for waiting in [self.readers.take(), self.writers.take()].into_iter().flatten() {
            waiting.wake();
        }
    }

    /// Appends to `buffer`, within its capacity, what has been received; 0 bytes mean that the peer sent
    /// its last. Waits for that.
    pub async fn receive(&self, mut buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        let room = buffer.capacity() - buffer.len();
        let before = self.cancels.get();
        let result = poll_fn(|context| {
            self.cancelled(before, &self.readers, context, |context| {
                // Whose peer sends without end must not keep the thread from the others.
                if self.greedy.take() {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                loop {
                    let mut ready = ready!(self.socket.poll_read_ready(context))?;
                    match self.receive_now(&mut buffer) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                        result => {
                            match result {
                                Ok(count) if count == room => self.greedy.set(true),
                                // Nothing is left, and the kernel will say when there is.
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

    /// Sends `bytes`, or a part of them.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let before = self.cancels.get();
        poll_fn(|context| {
            self.cancelled(before, &self.writers, context, |context| {
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
            self.cancelled(before, &self.readers, context, |context| {
                self.socket.poll_read_ready(context).map_ok(|_still| ())
            })
        })
        .await
    }

    /// Tries to receive or to accept, whatever epoll has said so far. Where that fails with
    /// [`io::ErrorKind::WouldBlock`], [`Self::readable`] waits for the next change.
    pub fn try_read<T>(&self, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let result = call();
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            let nothing_left = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::READABLE, |_| nothing_left());
        }
        result
    }

    fn receive_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        retry(|| rustix::net::recv(&self.socket, spare_capacity(buffer), RecvFlags::DONTWAIT).map(|(count, _)| count))
    }

    /// Goes on with an op, or ends it if it was cancelled since `before`.
    #[inline]
    fn cancelled<T>(
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
