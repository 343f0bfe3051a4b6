//! How the server ends a connection without losing requests or acks: the drain, and the lingering close.
//!
//! Both are bounded in time, and the lingering close also in size.

use std::io;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::buffers::Buffers;
use super::conversation::Conversation;
use super::end::End;
use super::outbox::Outbox;
use crate::engine::Socket;
use crate::server::options::Options;
use crate::server::shard::deadline::CLOCK_LAG;
use crate::sink::Sink;

/// Answers the requests that the socket holds at this moment, and the first request of a connection that was accepted
/// just before. Drops a partial frame at the end, which needs no ack.
pub async fn drain<S: Sink>(connection: &mut Conversation<'_, S>) -> End {
    if let Err(end) = await_first_request(connection).await {
        return end;
    }
    let mut left = match connection.socket.readable_bytes() {
        Ok(left) => left as usize,
        Err(error) => return End::ReceiveFailed(error),
    };
    while left > 0 {
        while !connection.buffers.prepare(&mut connection.outbox) {
            connection.wait_for_memory().await;
        }
        let mut bytes = connection.buffers.input.lend();
        let result = connection.socket.receive_now(&mut bytes);
        connection.buffers.input.restore(bytes, *result.as_ref().unwrap_or(&0));
        match result {
            Ok(received) => {
                let answered = match connection.take(received).await {
                    Ok(progress) => connection.answer(progress).await,
                    Err(end) => return end,
                };
                if let ControlFlow::Break(end) = answered {
                    return end;
                }
                left = left.saturating_sub(received);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return End::ReceiveFailed(error),
        }
    }
    End::Drained
}

/// Waits for the first request and answers it, if none has arrived and the connection was accepted at most
/// [`FIRST_REQUEST_GRACE`] ago. Its client has seen it open, and may have sent a request by now.
async fn await_first_request<S: Sink>(connection: &mut Conversation<'_, S>) -> Result<(), End> {
    // The time of the accept comes from the coarse clock.
    let deadline = Instant::from_std(connection.outbox.last_received()) + FIRST_REQUEST_GRACE + CLOCK_LAG;
    while connection.bytes_received == connection.buffers.input.bytes().len() as u64 && Instant::now() < deadline {
        while !connection.buffers.prepare(&mut connection.outbox) {
            connection.wait_for_memory().await;
        }
        let buffer = connection.buffers.input.lend();
        let (result, bytes) = receive_until(&connection.socket, buffer, deadline).await;
        connection.buffers.input.restore(bytes, *result.as_ref().unwrap_or(&0));
        match result {
            Ok(received) => {
                let progress = connection.take(received).await?;
                if let ControlFlow::Break(end) = connection.answer(progress).await {
                    return Err(end);
                }
            }
            // The drain has begun, or the time is over.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => return Err(End::receive_failed(error, &connection.socket)),
        }
    }
    Ok(())
}

/// Closes a connection so that the acks on their way arrive.
///
/// A socket that is closed with unread bytes sends a reset, and the peer may then lose the acks. So this ends the
/// stream to the peer, and discards what the peer still sends until it closes too, for a limited time and size.
pub async fn linger<S: Sink>(socket: &Socket, config: &Options, buffers: &mut Buffers<'_>, outbox: &mut Outbox<'_, S>) {
    if socket.shut_down_writes().is_err() {
        return;
    }
    let scratch = buffers.swap_for_scratch(outbox, config.read_buffer_max);
    discard_input(socket, config, scratch).await;
}

/// Discards what the peer sends, until it closes or a limit is reached.
async fn discard_input(socket: &Socket, config: &Options, mut scratch: Vec<u8>) {
    let deadline = Instant::now() + config.linger_timeout;
    let mut left = config.linger_bytes_max;
    while left > 0 && Instant::now() < deadline {
        scratch.clear();
        let (result, bytes) = receive_until(socket, scratch, deadline).await;
        scratch = bytes;
        match result {
            Ok(0) => return,
            Ok(count) => left = left.saturating_sub(count as u64),
            // A drain has begun, or the time is over.
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(_) => return,
        }
    }
}

/// Receives into `buffer`. At the deadline it cancels the receive, which returns `ECANCELED` unless bytes have arrived.
async fn receive_until(socket: &Socket, buffer: Vec<u8>, deadline: Instant) -> (io::Result<usize>, Vec<u8>) {
    let mut receive = pin!(socket.receive(buffer));
    tokio::select! {
        biased;
        done = &mut receive => done,
        () = sleep_until(deadline) => {
            socket.cancel().await;
            receive.await
        }
    }
}

/// The time that a connection accepted just before a drain has for its first request, which is then answered.
const FIRST_REQUEST_GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;
    use crate::engine::{Engine, Runtime};

    const LINGER_TIMEOUT: Duration = Duration::from_secs(1000);
    const LINGER_BYTES_MAX: u64 = 10_000;

    /// Lingers on a connection whose peer does this first. Returns how long that took on a clock that jumps to the next
    /// deadline whenever nothing else is left to do.
    fn linger_while(peer_does: impl FnOnce(&mut TcpStream)) -> Duration {
        let runtime = Runtime::new(Engine::Epoll, 8).unwrap();
        let event_loop = runtime.event_loop();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let socket = Socket::new(&event_loop, socket2::Socket::from(listener.accept().unwrap().0).into()).unwrap();
            peer_does(&mut peer);
            tokio::time::pause();
            let config =
                Options { linger_timeout: LINGER_TIMEOUT, linger_bytes_max: LINGER_BYTES_MAX, ..Options::default() };
            let start = Instant::now();
            discard_input(&socket, &config, Vec::with_capacity(4096)).await;
            start.elapsed()
        })
    }

    #[test]
    fn lingering_ends_at_its_timeout_or_size_or_when_the_peer_closes() {
        let all = LINGER_TIMEOUT..LINGER_TIMEOUT + Duration::from_secs(1);
        assert!(all.contains(&linger_while(|_| {})), "the peer stays open");
        assert!(all.contains(&linger_while(|peer| peer.write_all(&[7; 100]).unwrap())), "the peer sends little");
        let most = linger_while(|peer| peer.write_all(&[7; LINGER_BYTES_MAX as usize]).unwrap());
        assert!(most < LINGER_TIMEOUT, "the peer sends too much, and lingering lasted {most:?}");
        let closed = linger_while(|peer| peer.shutdown(Shutdown::Write).unwrap());
        assert!(closed < LINGER_TIMEOUT, "the peer closes, and lingering lasted {closed:?}");
    }
}
