//! The engine on io_uring: one system call per loop iteration sends and receives everything.
//!
//! Measured on one core, against a raw ring as the server, with 64 connections and a window of 1: the system calls of
//! epoll cost 15 % more CPU per request, so that the load generator would need more CPU than the server.
//!
//! The unsafe parts are sound because:
//!
//! * A send (`MSG_DONTWAIT`) is complete when the system call that submits it returns, so it reads the frames only
//!   while [`Uring::submit`] runs. `MSG_WAITALL` makes a short send a failure, and only failed sends complete with an
//!   event.
//! * Receives are multishot and write only into the buffers of [`BufferRing`]. A buffer is read only between the
//!   completion that names it and its return to the kernel. Buffers are freed after they were unregistered.

#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::acks::StreamLost;
use super::connect::Wire;
use super::event::Event;
use super::faults::CLOSED_BY_SERVER;
use super::frames::Frames;
use super::plan::NANOS_PER_SECOND;
use super::tls::Channel;

/// Sockets that are driven by a ring.
pub struct Uring {
    ring: IoUring,
    buffers: BufferRing,
    sockets: Vec<Socket>,
    frames: Frames,
    /// Sockets with a queued send.
    sending: Vec<usize>,
    /// Sockets whose send has failed. The usual reason is a full send buffer, so they are polled for room. If the
    /// connection has ended, the receive reports it.
    crowded: Vec<usize>,
    /// Completions that were removed from the ring and are not handled yet.
    completed: Vec<Completion>,
}

struct Socket {
    /// `None` once the socket is closed.
    stream: Option<TcpStream>,
    tls: Option<Box<Channel>>,
    queued: Queued,
    /// Bytes that the kernel had no room for, and all bytes of TLS until they are sent.
    unsent: Vec<u8>,
}

/// The send of a socket that the next [`Uring::submit`] carries out.
enum Queued {
    Nothing,
    Frames(Range<usize>),
    /// All of `unsent`.
    Rest,
}

#[derive(Clone, Copy)]
struct Completion {
    op: u64,
    slot: usize,
    result: i32,
    flags: u32,
}

impl Uring {
    /// Checks whether the kernel allows such a ring.
    ///
    /// # Errors
    /// The kernel refuses the ring or its buffers.
    pub fn probe() -> io::Result<()> {
        let ring = build(8)?;
        BufferRing::new(&ring, 8, 64)?.release(&ring);
        Ok(())
    }

    /// Returns an engine for these sockets. Each socket receives up to `input_len_max` bytes in one piece.
    ///
    /// # Errors
    /// The kernel refuses the ring, its buffers or a socket.
    pub fn new(wires: Vec<Wire>, frames: Frames, input_len_max: usize) -> io::Result<Self> {
        let ring = build(wires.len())?;
        let fds: Vec<RawFd> = wires.iter().map(|wire| wire.socket.as_raw_fd()).collect();
        ring.submitter().register_files(&fds)?;
        let buffers = BufferRing::new(&ring, wires.len(), input_len_max)?;
        let socket = |Wire { socket, tls }| {
            let (stream, unsent) = (Some(socket), Vec::new());
            Socket { stream, tls, queued: Queued::Nothing, unsent }
        };
        let sockets = wires.into_iter().map(socket).collect();
        let mut uring =
            Uring { ring, buffers, sockets, frames, sending: Vec::new(), crowded: Vec::new(), completed: Vec::new() };
        for slot in 0..uring.sockets.len() {
            uring.receive(slot)?;
        }
        Ok(uring)
    }

    /// Returns the bytes of the requests.
    pub fn frames(&mut self) -> &mut Frames {
        &mut self.frames
    }

    /// Queues up to `wanted` requests, with IDs from `id` on, for the next system call. Returns how many requests were
    /// queued and their length in bytes.
    ///
    /// # Errors
    /// The kernel fails to submit.
    pub fn send(&mut self, slot: usize, id: u64, wanted: usize) -> io::Result<(usize, usize)> {
        let (mut sent, mut len) = (0, 0);
        while sent < wanted {
            // A second send must not overtake the unsent bytes of the first. And the queue must have room before
            // `Frames::take`, because a submit allows the reuse of frames that are not queued yet.
            let is_queued = !matches!(self.sockets[slot].queued, Queued::Nothing);
            if !is_queued && !self.sockets[slot].unsent.is_empty() {
                break;
            }
            if is_queued || self.ring.submission().is_full() {
                self.submit(None)?;
                continue;
            }
            let (range, count) = self.frames.take(id + sent as u64, wanted - sent);
            if count == 0 {
                self.submit(None)?;
                continue;
            }
            let bytes = self.frames.bytes(range.clone());
            (sent, len) = (sent + count, len + bytes.len());
            let socket = &mut self.sockets[slot];
            if let Some(tls) = &mut socket.tls {
                // The error of a session that can't send arrives with the end of the connection.
                let _ = tls.send(bytes, &mut socket.unsent);
                self.queue_rest(slot)?;
                continue;
            }
            let entry = send_entry(slot, bytes);
            self.push(entry)?;
            self.sockets[slot].queued = Queued::Frames(range);
            self.sending.push(slot);
        }
        Ok((sent, len))
    }

    /// Submits everything, waits for at most `nanos`, and passes every event to `on`. If `on` returns an error, the
    /// socket is closed.
    ///
    /// # Errors
    /// The kernel fails to submit or to wait.
    pub fn wait(
        &mut self,
        nanos: u64,
        mut on: impl FnMut(usize, Event<'_>) -> Result<(), StreamLost>,
    ) -> io::Result<()> {
        self.submit(Some(nanos))?;
        let mut completed = std::mem::take(&mut self.completed);
        for Completion { op, slot, result, flags } in completed.drain(..) {
            match op {
                OP_ROOM if self.send_rest(slot)? => drop(on(slot, Event::Room)),
                OP_ROOM => {}
                _ => self.received(slot, result, flags, &mut on)?,
            }
        }
        if self.completed.is_empty() {
            self.completed = completed;
        }
        self.buffers.publish();
        Ok(())
    }

    /// Handles the completion of a receive.
    fn received(
        &mut self,
        slot: usize,
        result: i32,
        flags: u32,
        on: &mut impl FnMut(usize, Event<'_>) -> Result<(), StreamLost>,
    ) -> io::Result<()> {
        let open = self.sockets[slot].stream.is_some();
        let mut lost = false;
        let mut answer = Vec::new();
        if let Some(buffer) = cqueue::buffer_select(flags) {
            let bytes = self.buffers.bytes(buffer, result.max(0) as usize);
            if open && !bytes.is_empty() {
                lost = match &mut self.sockets[slot].tls {
                    None => on(slot, Event::Received(bytes)).is_err(),
                    Some(tls) => !tls.deliver(bytes, &mut answer, |event| on(slot, event)),
                };
            }
            self.buffers.give_back(buffer);
        }
        if !answer.is_empty() {
            self.answer(slot, &answer)?;
        }
        if lost {
            self.close(slot);
        } else if open && !cqueue::more(flags) {
            // If the kernel ran out of buffers, or ended a multishot receive for reasons of its own, the receive is
            // submitted again. Otherwise the connection has ended.
            if result > 0 || result == -libc::ENOBUFS {
                return self.receive(slot);
            }
            self.close(slot);
            let why = match result {
                0 => CLOSED_BY_SERVER.to_owned(),
                error => format!("receiving failed: {}", io::Error::from_raw_os_error(-error)),
            };
            let _ = on(slot, Event::Ended(why));
        }
        Ok(())
    }

    /// Closes a socket. The ring keeps its registered file open, so the connection is shut down first.
    fn close(&mut self, slot: usize) {
        let Socket { stream, tls, unsent, .. } = &mut self.sockets[slot];
        if let Some(stream) = stream.take() {
            if let Some(tls) = tls
                && unsent.is_empty()
            {
                tls.end(&stream);
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
        unsent.clear();
    }

    fn receive(&mut self, slot: usize) -> io::Result<()> {
        let entry = opcode::RecvMulti::new(Fixed(slot as u32), BUFFER_GROUP).build();
        self.push(entry.user_data(OP_RECEIVE | slot as u64))
    }

    /// Sends what is left to send. Returns whether everything was sent.
    fn send_rest(&mut self, slot: usize) -> io::Result<bool> {
        if self.sockets[slot].unsent.is_empty() {
            return Ok(false);
        }
        self.queue_rest(slot)?;
        self.submit(None)?;
        Ok(self.sockets[slot].unsent.is_empty())
    }

    /// Queues a send of everything that is left to send.
    fn queue_rest(&mut self, slot: usize) -> io::Result<()> {
        let entry = send_entry(slot, &self.sockets[slot].unsent);
        self.push(entry)?;
        self.sockets[slot].queued = Queued::Rest;
        self.sending.push(slot);
        Ok(())
    }

    /// Sends the answer of TLS to what was received, after everything that is left to send.
    fn answer(&mut self, slot: usize, answer: &[u8]) -> io::Result<()> {
        if !matches!(self.sockets[slot].queued, Queued::Nothing) {
            self.submit(None)?;
        }
        let unsent = &mut self.sockets[slot].unsent;
        let is_crowded = !unsent.is_empty();
        unsent.extend_from_slice(answer);
        if !is_crowded {
            self.send_rest(slot)?;
        }
        Ok(())
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        // SAFETY: receives and polls name no memory. The bytes of a send stay at their address until `submit` has
        // returned: frames are never moved, and only `submit` changes the `unsent` of a socket with a queued send.
        // (`send` ensures that the content of queued frames does not change either.)
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.submit(None)?;
        }
        Ok(())
    }

    /// Submits everything that is queued. With `nanos`, then waits up to that long for a completion, but not if
    /// completions are available. The kernel completes deferred work only during such a wait.
    fn submit(&mut self, mut nanos: Option<u64>) -> io::Result<()> {
        loop {
            let wait = nanos.take();
            let timeout = wait.filter(|_| self.completed.is_empty()).unwrap_or(0);
            let timeout = Timespec::new().sec(timeout / NANOS_PER_SECOND).nsec((timeout % NANOS_PER_SECOND) as u32);
            let args = SubmitArgs::new().timespec(&timeout);
            let entered = self.ring.submitter().submit_with_args(usize::from(wait.is_some()), &args);
            self.reap();
            match entered.map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {}
                Err(error) => return Err(io::Error::from_raw_os_error(error.unwrap_or(libc::EIO))),
            }
            if self.ring.submission().is_empty() {
                break;
            }
        }
        // A send that did not complete with a failure was sent completely.
        for slot in self.sending.drain(..) {
            let socket = &mut self.sockets[slot];
            if matches!(std::mem::replace(&mut socket.queued, Queued::Nothing), Queued::Rest) {
                socket.unsent.clear();
            }
        }
        self.frames.reuse();
        while let Some(slot) = self.crowded.pop() {
            let entry = opcode::PollAdd::new(Fixed(slot as u32), libc::POLLOUT as u32).build();
            self.push(entry.user_data(OP_ROOM | slot as u64))?;
        }
        Ok(())
    }

    /// Removes completions from the ring. Failed sends are handled here, before their frames change.
    fn reap(&mut self) {
        for entry in self.ring.completion() {
            let (op, slot) = (entry.user_data() & OP_MASK, (entry.user_data() & !OP_MASK) as usize);
            let (result, flags) = (entry.result(), entry.flags());
            if op != OP_SEND {
                self.completed.push(Completion { op, slot, result, flags });
                continue;
            }
            let socket = &mut self.sockets[slot];
            let sent = result.max(0) as usize;
            match std::mem::replace(&mut socket.queued, Queued::Nothing) {
                Queued::Frames(range) => socket.unsent.extend_from_slice(&self.frames.bytes(range)[sent..]),
                Queued::Rest => drop(socket.unsent.drain(..sent)),
                Queued::Nothing => unreachable!("a send completes while it is queued, and fails once"),
            }
            self.crowded.push(slot);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        for slot in 0..self.sockets.len() {
            self.close(slot);
        }
        self.buffers.release(&self.ring);
    }
}

/// Builds a ring that only this thread uses. The kernel does the ring's deferred work only while the thread waits.
fn build(sockets: usize) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_submit_all()
        .setup_cqsize((4 * sockets as u32).clamp(CQ_ENTRIES_MIN, CQ_ENTRIES_MAX).next_power_of_two())
        .build(SQ_ENTRIES)
}

fn send_entry(slot: usize, bytes: &[u8]) -> squeue::Entry {
    opcode::Send::new(Fixed(slot as u32), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT | libc::MSG_WAITALL)
        .build()
        .flags(squeue::Flags::SKIP_SUCCESS)
        .user_data(OP_SEND | slot as u64)
}

/// Buffers that the kernel receives into, and the ring that provides them.
struct BufferRing {
    entries: NonNull<BufRingEntry>,
    buffers: NonNull<u8>,
    /// The number of buffers, a power of two.
    count: u16,
    buffer_len: usize,
    /// How many buffers were given to the kernel since the beginning, modulo 65536.
    tail: u16,
}

impl BufferRing {
    /// Registers two buffers for each socket, each with room for `input_len_max` bytes within the limits below.
    fn new(ring: &IoUring, sockets: usize, input_len_max: usize) -> io::Result<Self> {
        let count = (2 * sockets).clamp(BUFFERS_MIN, BUFFERS_MAX).next_power_of_two() as u16;
        let buffer_len = input_len_max.clamp(BUFFER_LEN_MIN, BUFFER_LEN_MAX).next_power_of_two();
        let (entries, buffers) = (allocate(entries_layout(count)), allocate(buffers_layout(count, buffer_len)));
        let mut this = BufferRing { entries: entries.cast(), buffers, count, buffer_len, tail: 0 };
        // SAFETY: the entries are aligned to a page, and are freed only after they were unregistered.
        let registered = unsafe { ring.submitter().register_buf_ring(entries.as_ptr() as u64, count, BUFFER_GROUP) };
        if let Err(error) = registered {
            this.free();
            return Err(error);
        }
        for buffer in 0..count {
            this.give_back(buffer);
        }
        this.publish();
        Ok(this)
    }

    /// Returns the bytes that the kernel wrote to a buffer that a completion named.
    fn bytes(&self, buffer: u16, len: usize) -> &[u8] {
        assert!(buffer < self.count && len <= self.buffer_len);
        // SAFETY: the range is inside the allocation, as asserted, and the allocation is initialised. The kernel does
        // not write there before `give_back`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.buffers.as_ptr().add(usize::from(buffer) * self.buffer_len), len) }
    }

    /// Returns a buffer to the kernel, with the next [`Self::publish`].
    fn give_back(&mut self, buffer: u16) {
        assert!(buffer < self.count);
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: both offsets are inside their allocations. The kernel reads an entry only after the tail has passed
        // it, and the tail itself is in a field that is not written here.
        unsafe {
            let address = self.buffers.as_ptr().add(usize::from(buffer) * self.buffer_len);
            let entry = &mut *self.entries.as_ptr().add(index);
            entry.set_addr(address as u64);
            entry.set_len(self.buffer_len as u32);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the tail is in the first entry, is aligned, and is written only by this thread.
        let tail = unsafe { &*BufRingEntry::tail(self.entries.as_ptr()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Unregisters the buffers and frees them. If the kernel refuses, the buffers are leaked.
    fn release(&mut self, ring: &IoUring) {
        if ring.submitter().unregister_buf_ring(BUFFER_GROUP).is_ok() {
            self.free();
        }
    }

    fn free(&mut self) {
        // SAFETY: both were allocated with these layouts. `new` and `release` call this once, when the buffers were
        // never registered or are no longer registered.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), entries_layout(self.count));
            dealloc(self.buffers.as_ptr(), buffers_layout(self.count, self.buffer_len));
        }
    }
}

fn entries_layout(count: u16) -> Layout {
    let len = usize::from(count) * size_of::<BufRingEntry>();
    Layout::from_size_align(len, PAGE_LEN).expect("a few hundred KiB")
}

fn buffers_layout(count: u16, buffer_len: usize) -> Layout {
    Layout::from_size_align(usize::from(count) * buffer_len, PAGE_LEN).expect("at most 512 MiB")
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout here is empty.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

const OP_RECEIVE: u64 = 0;
const OP_SEND: u64 = 1 << 32;
const OP_ROOM: u64 = 2 << 32;
const OP_MASK: u64 = !0 << 32;

const SQ_ENTRIES: u32 = 1024;
const CQ_ENTRIES_MIN: u32 = 4096;
const CQ_ENTRIES_MAX: u32 = 65536;

const BUFFER_GROUP: u16 = 0;
const BUFFERS_MIN: usize = 64;
const BUFFERS_MAX: usize = 1 << 15;
const BUFFER_LEN_MIN: usize = 64;
const BUFFER_LEN_MAX: usize = 16 << 10;
/// The alignment that the kernel requires: a multiple of the page size of every host.
const PAGE_LEN: usize = 64 << 10;
