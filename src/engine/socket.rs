//! A connection's socket: owned buffers in, owned buffers out, one receive and one send at a time.
//!
//! Owns the right to read and write, and what may be cancelled from outside. It must not know connections or requests.
//! Invariant: a send is never cancelled while its bytes may still be needed, except by cutting the connection.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::rc::Rc;

use super::descriptor::Descriptor;
use super::event_loop::EventLoop;
use super::raw_socket::RawSocket;

/// A connected socket. The connection's task owns it, and with it the right to read and write.
///
/// If it is dropped while an op is in flight (because its task panicked), it shuts down both directions: the op ends,
/// the descriptor is freed, and the peer sees the end of the stream. Otherwise the op would keep all three.
pub struct Socket(Rc<Inner>);

/// A handle with which others than the socket's task can end the task's wait.
#[derive(Clone)]
pub struct SocketHandle(Rc<Inner>);

struct Inner {
    descriptor: Descriptor,
    receiving: Cell<bool>,
    sending: Cell<bool>,
}

impl Socket {
    /// Takes over a connected socket in blocking mode. A ring needs that mode: on a non-blocking socket an op fails
    /// with EAGAIN instead of waiting.
    ///
    /// # Errors
    /// The engine can't watch another socket.
    ///
    /// # Panics
    /// With an event loop of epoll, outside of its runtime.
    pub fn new(event_loop: &EventLoop, socket: RawSocket) -> io::Result<Self> {
        let descriptor = Descriptor::new(event_loop, socket)?;
        Ok(Socket(Rc::new(Inner { descriptor, receiving: Cell::new(false), sending: Cell::new(false) })))
    }

    /// Returns a handle for others.
    pub fn handle(&self) -> SocketHandle {
        SocketHandle(self.0.clone())
    }

    /// Waits for bytes from the peer and appends them to `buffer`, within its capacity. Returns how many bytes came;
    /// 0 means the end of the stream.
    ///
    /// Not cancel-safe, as every op here: see the [module](super).
    ///
    /// # Errors
    /// The socket's; `ECANCELED` after [`SocketHandle::cancel_receive`]. `buffer` is returned unchanged.
    ///
    /// # Panics
    /// If `buffer` has no room.
    #[inline]
    pub async fn receive(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        assert!(buffer.len() < buffer.capacity(), "a receive into a full buffer would look like the end of the stream");
        self.0.receiving.set(true);
        let received = self.0.descriptor.receive(buffer).await;
        self.0.receiving.set(false);
        received
    }

    /// Receives like [`Self::receive`], but fails with [`io::ErrorKind::WouldBlock`] instead of waiting.
    ///
    /// # Errors
    /// The socket's. `buffer` is unchanged then.
    ///
    /// # Panics
    /// If `buffer` has no room.
    pub fn receive_now(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        assert!(buffer.len() < buffer.capacity(), "a receive into a full buffer would look like the end of the stream");
        self.0.descriptor.receive_now(buffer)
    }

    /// Waits until [`Self::receive_now`] may return something. Cancel-safe.
    ///
    /// # Errors
    /// The engine's; `ECANCELED` after [`SocketHandle::cancel_receive`].
    pub async fn readable(&self) -> io::Result<()> {
        self.0.receiving.set(true);
        let readable = self.0.descriptor.readable().await;
        self.0.receiving.set(false);
        readable
    }

    /// Sends all of `buffer`, in one piece if the socket has room, and returns the buffer.
    ///
    /// Not cancel-safe, as every op here: see the [module](super).
    ///
    /// # Errors
    /// The socket's. How much of `buffer` was sent is then unknown, and the connection can only be closed.
    pub async fn send_all(&self, mut buffer: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let mut sent = match self.0.descriptor.send_without_op(&buffer) {
            Ok(sent) => sent,
            Err(error) => return (Err(error), buffer),
        };
        while sent < buffer.len() {
            self.0.sending.set(true);
            let (result, back) = self.0.descriptor.send(buffer, sent).await;
            self.0.sending.set(false);
            buffer = back;
            match result {
                Ok(0) => return (Err(io::ErrorKind::WriteZero.into()), buffer),
                Ok(count) => sent += count,
                Err(error) => return (Err(error), buffer),
            }
        }
        (Ok(()), buffer)
    }

    /// Cancels every op in flight on this socket. Each then returns `ECANCELED`, or its result if that came first. May
    /// be dropped: it holds no data.
    pub fn cancel(&self) -> impl Future<Output = ()> + use<> {
        self.0.descriptor.cancel()
    }

    /// Returns the number of bytes that can be read at this moment without waiting.
    ///
    /// # Errors
    /// The ioctl's.
    pub fn readable_bytes(&self) -> io::Result<u64> {
        self.0.descriptor.readable_bytes()
    }

    /// Returns whether the peer's kernel has not acknowledged all that was sent. It also works on a failed socket.
    pub fn has_unacknowledged(&self) -> bool {
        self.0.descriptor.has_unacknowledged()
    }

    /// Ends the stream to the peer. Data from the peer can still be read.
    ///
    /// # Errors
    /// The peer has already closed the connection.
    pub fn shut_down_writes(&self) -> io::Result<()> {
        self.0.descriptor.shut_down_writes()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.0.receiving.get() || self.0.sending.get() {
            self.0.descriptor.shut_down();
        }
    }
}

impl SocketHandle {
    /// Ends the wait for something to read, unless a send is in flight: nobody could know how much of that was sent.
    /// So a task that does both must check after the send whether it should end.
    pub async fn cancel_receive(&self) {
        if self.0.receiving.get() && !self.0.sending.get() {
            self.0.descriptor.cancel().await;
        }
    }

    /// Returns the bytes that the peer's kernel has acknowledged since the connection began, or `None` if the kernel
    /// doesn't report them. They show whether a waiting send makes progress.
    pub fn bytes_acked(&self) -> Option<u64> {
        self.0.descriptor.bytes_acked()
    }

    /// Returns the bytes received from the peer since the connection began, or `None` if the kernel doesn't report
    /// them.
    pub fn bytes_received(&self) -> Option<u64> {
        self.0.descriptor.bytes_received()
    }

    /// Cuts the connection: every op in flight ends, also a send that waits for room.
    pub fn shut_down(&self) {
        self.0.descriptor.shut_down();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::engine::{Engine, Runtime, spawn};

    /// The engines that each test runs on, unless it tests a property of rings.
    const ENGINES: [Engine; 2] = [Engine::Uring, Engine::Epoll];

    /// Runs a test with the event loop of a new runtime.
    fn run<F: Future<Output = ()>>(engine: Engine, test: impl FnOnce(EventLoop) -> F) {
        let runtime = Runtime::new(engine, 8).unwrap();
        runtime.block_on(test(runtime.event_loop()));
    }

    fn pair(event_loop: &EventLoop) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        peer.set_nodelay(true).unwrap();
        (Socket::new(event_loop, socket2::Socket::from(listener.accept().unwrap().0).into()).unwrap(), peer)
    }

    /// The reason why a receive is never dropped: the kernel continues, and eats what arrives.
    #[test]
    fn a_dropped_receive_eats_bytes() {
        run(Engine::Uring, async |event_loop| {
            let (socket, mut peer) = pair(&event_loop);
            {
                let receive = pin!(socket.receive(Vec::with_capacity(64)));
                let expired = tokio::time::timeout(Duration::from_millis(20), receive).await;
                assert!(expired.is_err());
            }
            peer.write_all(b"AAAA").unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            peer.write_all(b"BBBB").unwrap();
            let (result, buffer) = socket.receive(Vec::with_capacity(64)).await;
            assert_eq!((result.unwrap(), &buffer[..]), (4, &b"BBBB"[..]), "AAAA went to the receive that was dropped");
        });
    }

    /// The way to end a receive is to cancel it and still await it. No byte is lost, whichever comes first.
    #[test]
    fn a_cancelled_receive_that_is_awaited_loses_no_byte() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let (socket, mut peer) = pair(&event_loop);
                let mut buffer = Vec::with_capacity(1 << 16);
                let mut cancelled = 0;
                for round in 0..500u32 {
                    let mut receive = pin!(socket.receive(buffer));
                    let first = tokio::time::timeout(Duration::from_micros(200), &mut receive).await;
                    let (result, back) = match first {
                        Ok(done) => done,
                        Err(_) => {
                            peer.write_all(&round.to_be_bytes()).unwrap();
                            socket.cancel().await;
                            receive.await
                        }
                    };
                    cancelled += u32::from(result.is_err());
                    buffer = back;
                }
                drop(peer);
                loop {
                    let (result, back) = socket.receive(buffer).await;
                    buffer = back;
                    if result.unwrap() == 0 {
                        break;
                    }
                }
                let numbers: Vec<_> =
                    buffer.chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap())).collect();
                assert!(numbers.is_sorted(), "{cancelled} receives were cancelled: {numbers:?}");
                assert!(numbers.windows(2).all(|two| two[0] != two[1]));
                let sent = numbers.len();
                assert!(sent >= 200, "{sent} of 500 rounds sent");
            });
        }
    }

    /// A task that is aborted with a receive in flight frees its descriptor, and its peer sees the end of the stream.
    #[test]
    fn an_aborted_task_ends_its_connection() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let (socket, mut peer) = pair(&event_loop);
                let task = spawn(async move { socket.receive(Vec::with_capacity(64)).await.0 });
                tokio::time::sleep(Duration::from_millis(20)).await;
                task.abort();
                assert!(task.await.unwrap_err().is_cancelled());
                tokio::time::sleep(Duration::from_millis(20)).await;
                peer.set_nonblocking(true).unwrap();
                assert_eq!(peer.read(&mut [0; 8]).expect("the end of the stream"), 0);
            });
        }
    }

    /// A drain needs everything that has arrived, not only what epoll has reported.
    #[test]
    fn bytes_that_arrived_in_this_iteration_are_received_immediately() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let (socket, mut peer) = pair(&event_loop);
                let mut buffer = Vec::with_capacity(16);
                assert_eq!(socket.receive_now(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
                peer.write_all(b"late").unwrap();
                assert_eq!(socket.receive_now(&mut buffer).unwrap(), 4);
            });
        }
    }

    #[test]
    fn readable_bytes_are_received_immediately_and_without_them_nothing_blocks() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let (socket, mut peer) = pair(&event_loop);
                let mut buffer = Vec::with_capacity(4);
                for _ in 0..3 {
                    assert_eq!(socket.receive_now(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
                    let mut readable = pin!(socket.readable());
                    assert!(tokio::time::timeout(Duration::from_millis(10), &mut readable).await.is_err());
                    peer.write_all(b"sixsix").unwrap();
                    readable.await.unwrap();
                    buffer.clear();
                    assert_eq!(socket.receive_now(&mut buffer).unwrap(), 4);
                    buffer.clear();
                    socket.readable().await.unwrap();
                    assert_eq!((socket.receive_now(&mut buffer).unwrap(), &buffer[..]), (2, &b"ix"[..]));
                }
                assert_eq!(socket.receive_now(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
                let mut readable = pin!(socket.readable());
                assert!(tokio::time::timeout(Duration::from_millis(10), &mut readable).await.is_err());
                socket.handle().cancel_receive().await;
                assert_eq!(readable.await.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
            });
        }
    }

    #[test]
    fn a_handle_cancels_a_receive_and_leaves_a_send_alone() {
        for engine in ENGINES {
            run(engine, async |event_loop| {
                let (socket, mut peer) = pair(&event_loop);
                let handle = socket.handle();
                let mut receive = pin!(socket.receive(Vec::with_capacity(64)));
                assert!(tokio::time::timeout(Duration::from_millis(10), &mut receive).await.is_err());
                handle.cancel_receive().await;
                assert_eq!(receive.await.0.unwrap_err().raw_os_error(), Some(libc::ECANCELED));

                let big = vec![7; 64 << 20];
                let mut send = pin!(socket.send_all(big));
                assert!(
                    tokio::time::timeout(Duration::from_millis(50), &mut send).await.is_err(),
                    "the peer does not read"
                );
                handle.cancel_receive().await;
                let reader = std::thread::spawn(move || std::io::copy(&mut peer, &mut std::io::sink()).unwrap());
                send.await.0.unwrap();
                handle.shut_down();
                assert_eq!(reader.join().unwrap(), 64 << 20);
            });
        }
    }
}
