//! What the buffers of one shard's connections may take together, and who waits when that is reached.
//!
//! A connection asks before its read buffer grows beyond the small one. Where it may not grow it goes
//! on with what it has; only where that is full, inside a frame, does it wait. The first in the queue
//! goes on as soon as its growth fits, or with the reserve: memory for one largest frame, which one
//! connection at a time may use to finish the frame that it is in. So somebody always goes on, and
//! nobody is closed. While anybody waits, connections give back what they do not need.
//!
//! A connection is charged for its acks when its read buffer grows, and not when they are encoded:
//! then it would be too late to wait. The small buffers are counted and never wait.
//!
//! All of it belongs to one thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use slab::Slab;
use tokio::sync::{Mutex, Notify};

use crate::config::{READ_BUFFER_MIN, ServerConfig};
use crate::metrics::ShardMetrics;
use crate::proto::{ACK_LEN, HEADER_LEN};
use crate::ring::SocketHandle;

/// The memory of one shard's connections. All sizes are in bytes.
pub struct Memory {
    metrics: Arc<ShardMetrics>,
    /// What may be charged without the reserve; `usize::MAX` without a limit.
    limit: Cell<usize>,
    /// The largest read buffer of which one receive may fill all with small frames.
    read_buffer_max: usize,
    charged: Cell<usize>,
    reserve_is_used: Cell<bool>,
    waiting: Cell<usize>,
    /// Whoever holds it is the first in the queue; a tokio mutex is fair.
    turn: Mutex<()>,
    /// Tells the first in the queue that something was given back.
    freed: Notify,
    /// Those whose read buffer is not the small one.
    large: RefCell<Slab<SocketHandle>>,
}

impl Memory {
    /// The memory of a shard without connections.
    pub fn new(config: &ServerConfig, metrics: Arc<ShardMetrics>) -> Self {
        let share = config.memory_max_per_shard();
        metrics.buffer_limit_bytes.add(share.unwrap_or(0) as u64);
        Memory {
            metrics,
            limit: Cell::new(share.map_or(usize::MAX, |share| share - config.frame_len_max as usize)),
            read_buffer_max: config.read_buffer_max,
            charged: Cell::new(0),
            reserve_is_used: Cell::new(false),
            waiting: Cell::new(0),
            turn: Mutex::new(()),
            freed: Notify::new(),
            large: RefCell::default(),
        }
    }

    /// Whether connections shall give back what they do not need.
    #[inline]
    pub fn is_short(&self) -> bool {
        self.waiting.get() > 0 || self.reserve_is_used.get()
    }

    /// Those that may hold memory which they do not need, and do not know that it is short.
    pub fn large(&self) -> Vec<SocketHandle> {
        self.large.borrow().iter().map(|(_, socket)| socket.clone()).collect()
    }

    /// Lets all who wait go on: their sockets have been cut, so they take nothing more.
    pub fn lift_limit(&self) {
        self.limit.set(usize::MAX);
        self.freed.notify_one();
    }

    fn fits(&self, more: usize) -> bool {
        self.charged.get().saturating_add(more) <= self.limit.get()
    }

    /// The most that a connection can come to take whose read buffer has this capacity.
    fn charge_for(&self, input: usize) -> usize {
        if input <= READ_BUFFER_MIN {
            return input;
        }
        // One ack for each of the smallest frames, in a vector that doubles. A buffer that is larger
        // than the busy one has one frame in it.
        let acks_max = input.min(self.read_buffer_max) / HEADER_LEN + 1;
        input + 2 * acks_max * ACK_LEN
    }
}

/// One connection's part of its shard's memory; given back when dropped.
pub struct Share<'a> {
    memory: &'a Memory,
    socket: SocketHandle,
    /// What the connection's buffers take: for reading, and for acks.
    input: usize,
    acks: usize,
    charged: usize,
    uses_reserve: bool,
    large_key: Option<usize>,
}

impl<'a> Share<'a> {
    /// The part of a connection without buffers.
    pub fn new(memory: &'a Memory, socket: SocketHandle) -> Self {
        Share { memory, socket, input: 0, acks: 0, charged: 0, uses_reserve: false, large_key: None }
    }

    /// The connection's buffers now take so much.
    #[inline]
    pub fn set(&mut self, input: usize, acks: usize) {
        if input != self.input || acks != self.acks {
            self.change(input, acks);
        }
    }

    /// Whether the read buffer may grow to `capacity` now. It does not count before [`Self::set`].
    pub fn may_grow_to(&self, capacity: usize) -> bool {
        self.memory.waiting.get() == 0 && self.memory.fits(self.growth(capacity))
    }

    /// Whether this connection is the one that finishes its frame from the reserve.
    pub fn uses_reserve(&self) -> bool {
        self.uses_reserve
    }

    /// Waits, in turn, until the read buffer may grow to `capacity`, at most a largest frame. The
    /// caller lets it grow and says so ([`Self::set`]) before it waits for anything else.
    ///
    /// Cancel-safe; the place in the queue is lost.
    pub async fn wait_to_grow_to(&mut self, capacity: usize) {
        let memory = self.memory;
        memory.metrics.memory_waits.add(1);
        let _waiting = Waiting::new(&memory.waiting);
        let _turn = memory.turn.lock().await;
        while !memory.fits(self.growth(capacity)) {
            if !memory.reserve_is_used.replace(true) {
                self.uses_reserve = true;
                return;
            }
            memory.freed.notified().await;
        }
    }

    fn growth(&self, capacity: usize) -> usize {
        self.memory.charge_for(capacity).saturating_sub(self.charged)
    }

    #[cold]
    fn change(&mut self, input: usize, acks: usize) {
        let memory = self.memory;
        let gauge = &memory.metrics.buffer_bytes;
        gauge.add((input + acks) as u64);
        gauge.subtract((self.input + self.acks) as u64);
        (self.input, self.acks) = (input, acks);

        let charged = memory.charge_for(input).max(input + acks);
        memory.charged.set(memory.charged.get() + charged - self.charged);
        let mut gave_back = charged < self.charged;
        self.charged = charged;

        let is_large = input > READ_BUFFER_MIN;
        if self.uses_reserve && !is_large {
            self.uses_reserve = false;
            memory.reserve_is_used.set(false);
            gave_back = true;
        }
        match self.large_key {
            None if is_large => self.large_key = Some(memory.large.borrow_mut().insert(self.socket.clone())),
            Some(key) if !is_large => {
                memory.large.borrow_mut().remove(key);
                self.large_key = None;
            }
            _ => {}
        }
        if gave_back && memory.waiting.get() > 0 {
            memory.freed.notify_one();
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.set(0, 0);
    }
}

/// One that waits, for as long as it does.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::ring::Socket;

    const FRAME_LEN_MAX: usize = 100_000;
    const LIMIT: usize = 300_000;

    fn memory() -> Memory {
        let config = ServerConfig {
            frame_len_max: FRAME_LEN_MAX as u32,
            memory_max: LIMIT + FRAME_LEN_MAX,
            workers: std::num::NonZeroUsize::MIN,
            ..ServerConfig::default()
        };
        Memory::new(&config, Arc::default())
    }

    fn share(memory: &Memory) -> Share<'_> {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        Share::new(memory, Socket::new(socket.into()).handle())
    }

    fn is_ready(future: &mut Pin<&mut impl Future<Output = ()>>) -> bool {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    /// The read buffer that is charged as much as the limit.
    fn capacity_of_all(memory: &Memory) -> usize {
        (0..LIMIT).rev().find(|capacity| memory.charge_for(*capacity) <= LIMIT).unwrap()
    }

    #[test]
    fn who_waits_goes_on_in_turn_and_the_first_has_the_reserve() {
        let memory = memory();
        let mut holder = share(&memory);
        let all = capacity_of_all(&memory);
        assert!(holder.may_grow_to(all));
        holder.set(all, 0);
        let (mut one, mut two, mut three) = (share(&memory), share(&memory), share(&memory));
        assert!(!one.may_grow_to(2000) && !memory.is_short());
        {
            let mut one_waits = pin!(one.wait_to_grow_to(2000));
            let mut two_waits = pin!(two.wait_to_grow_to(2000));
            let mut three_waits = pin!(three.wait_to_grow_to(2000));
            assert!(is_ready(&mut one_waits), "the first has the reserve");
            assert!(!is_ready(&mut two_waits) && !is_ready(&mut three_waits), "and only the first");
            holder.set(READ_BUFFER_MIN, 0);
            assert!(!is_ready(&mut three_waits), "not before its turn, though there is room");
            assert!(!holder.may_grow_to(2000), "nor does anybody else overtake");
            assert!(is_ready(&mut two_waits) && is_ready(&mut three_waits));
        }
        assert!(one.uses_reserve() && !two.uses_reserve() && !three.uses_reserve());
        one.set(2000, 0);
        assert!(memory.is_short() && one.uses_reserve(), "its frame is not done");
        one.set(0, 14);
        assert!(!memory.is_short() && !one.uses_reserve());
        assert!(holder.may_grow_to(2000));
    }

    #[test]
    fn the_reserve_passes_on_and_a_wait_that_is_given_up_blocks_nobody() {
        let memory = memory();
        let mut holder = share(&memory);
        holder.set(capacity_of_all(&memory), 0);
        let (mut one, mut two, mut three) = (share(&memory), share(&memory), share(&memory));
        assert!(is_ready(&mut pin!(one.wait_to_grow_to(2000))));
        one.set(2000, 0);
        let mut three_waits = pin!(three.wait_to_grow_to(2000));
        {
            let mut two_waits = pin!(two.wait_to_grow_to(2000));
            assert!(!is_ready(&mut two_waits) && !is_ready(&mut three_waits));
        }
        assert!(!is_ready(&mut three_waits));
        drop(one);
        assert!(is_ready(&mut three_waits));
        assert_eq!(memory.waiting.get(), 0);
        assert_eq!(memory.metrics.memory_waits.get(), 3);
    }

    #[test]
    fn all_go_on_where_the_limit_is_lifted() {
        let memory = memory();
        let mut shares: Vec<_> = (0..10).map(|_| share(&memory)).collect();
        shares[0].set(capacity_of_all(&memory), 0);
        let mut waits: Vec<_> = shares[1..].iter_mut().map(|share| Box::pin(share.wait_to_grow_to(2000))).collect();
        waits.retain_mut(|wait| !is_ready(&mut wait.as_mut()));
        assert_eq!(waits.len(), 8, "one has the reserve");
        memory.lift_limit();
        waits.retain_mut(|wait| !is_ready(&mut wait.as_mut()));
        assert!(waits.is_empty());
    }

    #[test]
    fn what_is_counted_is_what_is_held_and_all_of_it_comes_back() {
        let memory = memory();
        let gauge = &memory.metrics.buffer_bytes;
        let (mut one, mut two) = (share(&memory), share(&memory));
        one.set(1024, 28);
        two.set(64 << 10, 0);
        assert_eq!(gauge.get(), 1052 + (64 << 10));
        assert!(memory.charged.get() > 3 * (64 << 10), "charged for the acks that may come");
        assert_eq!(memory.large().len(), 1);
        one.set(0, 14);
        assert_eq!(gauge.get(), 14 + (64 << 10));
        drop(two);
        assert_eq!((gauge.get(), memory.charged.get(), memory.large().len()), (14, 14, 0));
        drop(one);
        assert_eq!((gauge.get(), memory.charged.get()), (0, 0));
        assert_eq!(memory.metrics.buffer_limit_bytes.get(), (LIMIT + FRAME_LEN_MAX) as u64);
    }
}
