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
            // Not MSG_WAITALL: of a send that fails behind a short write it gives the count, and loses the error.
            let entry = opcode::Send::new(self.fd(), rest.as_ptr(), len).flags(libc::MSG_NOSIGNAL).build();
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

    /// Whether the peer's kernel has not acknowledged all that was sent; known of a socket that failed, too.
    pub fn has_unacknowledged(&self) -> bool {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the kernel writes one int.
        let result = unsafe { libc::ioctl(self.0.descriptor.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        result == 0 && bytes > 0
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

    /// Bytes that the peer's kernel has acknowledged since the connection began: whether a send that
    /// is stuck makes any progress. `None` where the kernel does not say.
    pub fn bytes_acked(&self) -> Option<u64> {
        // Where `struct tcp_info` of linux/tcp.h has tcpi_bytes_acked (since 4.1); libc's copy ends before.
        const OFFSET: usize = 120;
        let mut info = [0u8; OFFSET + size_of::<u64>()];
        let mut len = info.len() as libc::socklen_t;
        let fd = self.0.descriptor.as_raw_fd();
        // SAFETY: the kernel writes at most `len` bytes to `info`.
        let result =
            unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut len) };
        let known = result == 0 && len as usize == info.len();
        known.then(|| u64::from_ne_bytes(info[OFFSET..].try_into().expect("eight bytes")))
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::pin::pin;
    use std::time::Duration;

    use super::*;
    use crate::ring::{Runtime, spawn};

    fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        peer.set_nodelay(true).unwrap();
        (Socket::new(listener.accept().unwrap().0.into()), peer)
    }

    /// Why a receive is never dropped: the kernel goes on, and eats what comes.
    #[test]
    fn a_dropped_receive_eats_bytes() {
        Runtime::new(8).unwrap().block_on(async {
            let (socket, mut peer) = pair();
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

    /// The way to end a receive: cancel it, then await it all the same. Whoever wins, no byte is lost.
    #[test]
    fn a_cancelled_receive_that_is_awaited_loses_no_byte() {
        Runtime::new(8).unwrap().block_on(async {
            let (socket, mut peer) = pair();
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
            let numbers: Vec<_> = buffer.chunks(4).map(|four| u32::from_be_bytes(four.try_into().unwrap())).collect();
            assert!(numbers.is_sorted(), "{cancelled} receives were cancelled: {numbers:?}");
            assert!(numbers.windows(2).all(|two| two[0] != two[1]));
            let sent = numbers.len();
            assert!(sent >= 200, "{sent} of 500 rounds sent");
        });
    }

    /// A task that is torn down with a receive in flight frees its descriptor, and its peer sees the end.
    #[test]
    fn an_aborted_task_ends_its_connection() {
        Runtime::new(8).unwrap().block_on(async {
            let (socket, mut peer) = pair();
            let task = spawn(async move { socket.receive(Vec::with_capacity(64)).await.0 });
            tokio::time::sleep(Duration::from_millis(20)).await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            tokio::time::sleep(Duration::from_millis(20)).await;
            peer.set_nonblocking(true).unwrap();
            assert_eq!(peer.read(&mut [0; 8]).expect("the end, and not silence"), 0);
        });
    }

    #[test]
    fn a_handle_cancels_a_receive_and_leaves_a_send_alone() {
        Runtime::new(8).unwrap().block_on(async {
            let (socket, mut peer) = pair();
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
