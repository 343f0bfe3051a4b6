//! The memory that the buffers of one shard's connections may use together, and the queue of connections at that limit.
//!
//! A connection asks before its read buffer grows beyond the small one. If the buffer may not grow, the connection
//! continues with what it has. It waits only when the buffer is full inside a frame. The head of the queue continues as
//! soon as its whole frame fits, or with the reserve: memory for one largest frame, which one connection at a time may
//! use. Either is a promise: the connection waits once and then finishes that frame. So some connection always makes
//! progress. Meanwhile all connections return memory that they do not need. While any connection waits, those that hold
//! memory must be faster than a minimum rate: [`Memory::too_slow`] finds those that are not.
//!
//! A connection is charged for its acks when its read buffer grows, and not when they are encoded, when it would be too
//! late to wait. The small buffers are counted and never wait.
//!
//! All of this belongs to one thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::deadline::Progress;
use crate::fair_queue::FairQueue;
use crate::metrics::ShardMetrics;
use crate::proto::{ACK_LEN, HEADER_LEN};
use crate::server::options::{Options, READ_BUFFER_MIN};

/// The memory of one shard's connections. All sizes are in bytes.
pub struct Memory {
    metrics: Arc<ShardMetrics>,
    /// The most that may be charged, without the reserve; `usize::MAX` without a limit.
    limit: Cell<usize>,
    /// The largest read buffer that one receive may fill with small frames.
    read_buffer_max: usize,
    charged: Cell<usize>,
    reserve_is_used: Cell<bool>,
    /// Connections that wait for memory. Notified whenever memory is returned, the reserve included.
    waiting: FairQueue,
    /// The number of connections that have waited, and are finishing their frame.
    promised: Cell<usize>,
    /// Connections that hold more than the small buffers.
    large: RefCell<Slab<Large>>,
}

/// A connection that holds more than the small buffers.
struct Large {
    /// The connection's key in the shard's register.
    connection: usize,
    /// The peer's progress when the measurement of its rate began.
    began: Option<Progress>,
}

impl Memory {
    /// Creates the memory of a shard without connections.
    pub fn new(config: &Options, metrics: Arc<ShardMetrics>) -> Self {
        let share = config.memory_max_per_shard();
        metrics.buffer_limit_bytes.add(share.unwrap_or(0) as u64);
        Memory {
            metrics,
            limit: Cell::new(share.map_or(usize::MAX, |share| share - config.input_len_max())),
            read_buffer_max: config.read_buffer_max,
            charged: Cell::new(0),
            reserve_is_used: Cell::new(false),
            waiting: FairQueue::default(),
            promised: Cell::new(0),
            large: RefCell::default(),
        }
    }

    /// Returns whether connections should return memory that they do not need.
    #[inline]
    pub fn is_short(&self) -> bool {
        !self.waiting.is_empty() || self.promised.get() > 0
    }

    /// Returns the register's keys of connections that may hold memory which they do not need, and that may not have
    /// noticed that memory is short.
    pub fn large(&self) -> Vec<usize> {
        self.large.borrow().iter().map(|(_, large)| large.connection).collect()
    }

    /// Returns the connections that hold memory for which others wait, and whose peers were slower than `rate_min`
    /// bytes per second for [`RATE_WINDOW`]. Call it regularly. `progress` returns the progress of a connection's peer,
    /// or `None` if the connection does not wait for its peer.
    pub fn too_slow(&self, rate_min: u64, progress: impl Fn(usize) -> Option<Progress>) -> Vec<usize> {
        let waited_for = !self.waiting.is_empty() && rate_min > 0;
        let mut too_slow = Vec::new();
        for (_, large) in &mut *self.large.borrow_mut() {
            let now = if waited_for { progress(large.connection) } else { None };
            let before = large.began.filter(|before| now.is_some_and(|now| now.kind == before.kind));
            let (Some(before), Some(now)) = (before, now) else {
                large.began = now;
                continue;
            };
            let elapsed = now.at.saturating_duration_since(before.at);
            if elapsed >= RATE_WINDOW {
                let rate = now.bytes.saturating_sub(before.bytes) as f64 / elapsed.as_secs_f64();
                if rate < rate_min as f64 {
                    too_slow.push(large.connection);
                }
                large.began = Some(now);
            }
        }
        too_slow
    }

    /// Begins the measurement of all peers' rates again, because the shard did not run for a while.
    pub fn measure_anew(&self) {
        self.large.borrow_mut().iter_mut().for_each(|(_, large)| large.began = None);
    }

    /// Lets all waiting connections continue. Their sockets have been cut, so they receive nothing more.
    pub fn lift_limit(&self) {
        self.limit.set(usize::MAX);
        self.waiting.notify();
    }

    fn fits(&self, more: usize) -> bool {
        self.charged.get().saturating_add(more) <= self.limit.get()
    }

    /// Returns the most memory that a connection can come to use while its read buffer has this capacity.
    fn charge_for(&self, input: usize) -> usize {
        if input <= READ_BUFFER_MIN {
            return input;
        }
        input + held_acks_max(input.min(self.read_buffer_max)) * ACK_LEN
    }
}

/// One connection's share of its shard's memory, returned when this is dropped.
pub struct Share<'a> {
    memory: &'a Memory,
    /// The connection's key in the shard's register.
    connection: usize,
    /// The sizes of the connection's buffers: for reading, and for acks.
    input: usize,
    acks: usize,
    /// The bytes that the connection holds besides its buffers, for TLS.
    state: usize,
    charged: usize,
    /// The least charge until the frame that the connection waited with is complete; 0 if it has not waited.
    promised: usize,
    uses_reserve: bool,
    large_key: Option<usize>,
}

impl<'a> Share<'a> {
    /// Creates the share of a connection without buffers. `connection` is its key in the shard's register.
    pub fn new(memory: &'a Memory, connection: usize) -> Self {
        Share {
            memory,
            connection,
            input: 0,
            acks: 0,
            state: 0,
            charged: 0,
            promised: 0,
            uses_reserve: false,
            large_key: None,
        }
    }

    /// Records the sizes that the connection's buffers have now.
    #[inline]
    pub fn set(&mut self, input: usize, acks: usize) {
        if input != self.input || acks != self.acks {
            self.change(input, acks);
        }
    }

    /// Records the size of what the connection holds besides its buffers.
    pub fn set_state(&mut self, state: usize) {
        let gauge = &self.memory.metrics.buffer_bytes;
        gauge.add(state as u64);
        gauge.subtract(std::mem::replace(&mut self.state, state) as u64);
        if self.charge() {
            self.memory.waiting.notify();
        }
    }

    /// Returns whether the connection holds anything besides its buffers.
    pub fn has_state(&self) -> bool {
        self.state > 0
    }

    /// Returns whether the read buffer may grow to `capacity` now. The growth counts only after [`Self::set`].
    pub fn may_grow_to(&self, capacity: usize) -> bool {
        self.memory.waiting.is_empty() && self.memory.fits(self.growth(capacity))
    }

    /// Returns whether the connection has waited, so that its read buffer may grow to the length of its frame.
    pub fn has_promise(&self) -> bool {
        self.promised > 0
    }

    /// Waits in the queue until the read buffer may grow to `frame_len`, which is more than the small buffer and at
    /// most the largest frame. The promise holds until [`Self::set`] records that the read buffer is small again. The
    /// caller makes it small once the frame is complete, and until then grows it for this frame only.
    ///
    /// Cancel-safe, but the place in the queue is lost.
    pub async fn wait_to_grow_to(&mut self, frame_len: usize) {
        let memory = self.memory;
        memory.metrics.memory_waits.add(1);
        let growth = self.growth(frame_len);
        memory.waiting.wait_until(|| memory.fits(growth) || !memory.reserve_is_used.get()).await;
        if !memory.fits(growth) {
            memory.reserve_is_used.set(true);
            self.uses_reserve = true;
        }
        self.promised = memory.charge_for(frame_len);
        memory.promised.set(memory.promised.get() + 1);
        self.charge();
    }

    fn growth(&self, capacity: usize) -> usize {
        (self.state + self.memory.charge_for(capacity)).saturating_sub(self.charged)
    }

    #[cold]
    fn change(&mut self, input: usize, acks: usize) {
        let memory = self.memory;
        let gauge = &memory.metrics.buffer_bytes;
        gauge.add((input + acks) as u64);
        gauge.subtract((self.input + self.acks) as u64);
        (self.input, self.acks) = (input, acks);

        let mut gave_back = false;
        if self.has_promise() && input <= READ_BUFFER_MIN {
            self.promised = 0;
            memory.promised.set(memory.promised.get() - 1);
            if std::mem::take(&mut self.uses_reserve) {
                memory.reserve_is_used.set(false);
                gave_back = true;
            }
        }
        gave_back |= self.charge();
        // Acks count as well: a peer that does not read them holds more memory in acks than in the bytes that it sent.
        // A promise counts too: others wait for that memory, even if the buffer has not grown to it yet.
        let is_large = self.has_promise() || input + acks > 2 * READ_BUFFER_MIN;
        match self.large_key {
            None if is_large => {
                let large = Large { connection: self.connection, began: None };
                self.large_key = Some(memory.large.borrow_mut().insert(large));
            }
            Some(key) if !is_large => {
                memory.large.borrow_mut().remove(key);
                self.large_key = None;
            }
            _ => {}
        }
        if gave_back {
            memory.waiting.notify();
        }
    }

    /// Charges the connection for what it holds or may need. Returns whether that is less than before.
    fn charge(&mut self) -> bool {
        let memory = self.memory;
        let charged = self.state + memory.charge_for(self.input).max(self.input + self.acks).max(self.promised);
        let before = std::mem::replace(&mut self.charged, charged);
        memory.charged.set(memory.charged.get() + charged - before);
        charged < before
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        // Needed even if the connection holds no buffer, since it may hold a promise.
        self.change(0, 0);
        self.set_state(0);
    }
}

/// Returns how many acks one read into a buffer of `input` bytes may bring: one for each of the smallest frames.
pub fn acks_per_read_max(input: usize) -> usize {
    input / HEADER_LEN + 1
}

/// Returns the most acks that a connection with a read buffer of `input` bytes keeps room for: those of the read that
/// makes it wait for the sink, and those before it. A buffer larger than the busy one holds a single frame.
pub fn held_acks_max(input: usize) -> usize {
    2 * acks_per_read_max(input)
}

/// The time over which a peer's rate is measured.
pub const RATE_WINDOW: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};
    use std::time::Instant;

    use super::*;
    use crate::server::shard::deadline::Wait;

    const FRAME_LEN_MAX: usize = 100_000;
    const LIMIT: usize = 400_000;

    fn memory() -> Memory {
        let config = Options {
            frame_len_max: FRAME_LEN_MAX as u32,
            memory_max: Some(LIMIT + FRAME_LEN_MAX),
            shards: std::num::NonZeroUsize::MIN,
            ..Options::default()
        };
        Memory::new(&config, Arc::default())
    }

    fn share(memory: &Memory) -> Share<'_> {
        Share::new(memory, 0)
    }

    fn is_ready(future: &mut Pin<&mut impl Future<Output = ()>>) -> bool {
        future.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    /// Returns the capacity of a read buffer whose charge is the whole limit.
    fn capacity_of_all(memory: &Memory) -> usize {
        (0..LIMIT).rev().find(|capacity| memory.charge_for(*capacity) <= LIMIT).unwrap()
    }

    #[test]
    fn connections_continue_in_order_and_the_first_has_the_reserve() {
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
            assert!(!is_ready(&mut three_waits), "not before the second, although there is room");
            assert!(!holder.may_grow_to(2000), "and no other connection overtakes");
            assert!(is_ready(&mut two_waits) && is_ready(&mut three_waits));
        }
        assert!(one.uses_reserve && !two.uses_reserve && !three.uses_reserve);
        for share in [&mut one, &mut two, &mut three] {
            share.set(2000, 0);
            assert!(memory.is_short() && share.has_promise(), "its frame is incomplete");
            share.set(0, 14);
            assert!(!share.has_promise());
        }
        assert!(!memory.is_short() && !memory.reserve_is_used.get());
        assert!(holder.may_grow_to(2000));
    }

    #[test]
    fn the_reserve_passes_on_and_a_cancelled_wait_blocks_no_other() {
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
        assert!(memory.waiting.is_empty());
        assert_eq!(memory.metrics.memory_waits.get(), 3);
    }

    #[test]
    fn a_promise_covers_the_whole_frame() {
        let memory = memory();
        let (mut one, mut two) = (share(&memory), share(&memory));
        one.set(READ_BUFFER_MIN, 0);
        assert!(is_ready(&mut pin!(one.wait_to_grow_to(FRAME_LEN_MAX))), "there is room");
        assert!(!one.uses_reserve);
        one.set(2000, 0);
        assert_eq!(memory.charged.get(), memory.charge_for(FRAME_LEN_MAX), "although it holds little yet");
        two.set(2000, 0);
        assert!(!two.may_grow_to(FRAME_LEN_MAX));
        one.set(FRAME_LEN_MAX, 0);
        one.set(0, 14);
        assert!(two.may_grow_to(FRAME_LEN_MAX));
    }

    #[test]
    fn a_promise_that_was_never_used_is_returned() {
        let memory = memory();
        let mut holder = share(&memory);
        holder.set(capacity_of_all(&memory), 0);
        let (mut one, mut two) = (share(&memory), share(&memory));
        assert!(is_ready(&mut pin!(one.wait_to_grow_to(2000))) && one.uses_reserve);
        let mut two_waits = pin!(two.wait_to_grow_to(2000));
        assert!(!is_ready(&mut two_waits));
        drop(one);
        assert!(is_ready(&mut two_waits));
    }

    #[test]
    fn all_connections_continue_when_the_limit_is_lifted() {
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
    fn a_peer_is_too_slow_only_while_others_wait_and_only_for_what_its_connection_waits_for() {
        const NONE: Vec<usize> = Vec::new();
        let memory = memory();
        let mut holder = Share::new(&memory, 7);
        holder.set(capacity_of_all(&memory), 0);
        let start = Instant::now();
        let (frame, room) = (Wait::Frame { began: start }.kind(), Wait::Room.kind());
        let too_slow = |seconds: u64, kind, bytes| {
            let at = start + std::time::Duration::from_secs(seconds);
            memory.too_slow(100, |_| Some(Progress { at, kind, bytes }))
        };
        assert_eq!((too_slow(0, frame, 0), too_slow(60, frame, 0)), (NONE, NONE), "nobody waits");
        let (mut one, mut two) = (share(&memory), share(&memory));
        assert!(is_ready(&mut pin!(one.wait_to_grow_to(2000))));
        let mut two_waits = pin!(two.wait_to_grow_to(2000));
        assert!(!is_ready(&mut two_waits));
        assert_eq!((too_slow(100, frame, 0), too_slow(104, frame, 0)), (NONE, NONE), "not for long enough");
        assert_eq!(too_slow(105, frame, 500), NONE, "fast enough");
        assert_eq!(too_slow(110, frame, 999), vec![7]);
        assert_eq!((too_slow(114, room, 999), too_slow(118, frame, 999)), (NONE, NONE), "each wait begins anew");
        assert_eq!(memory.too_slow(100, |_| None), NONE);
        assert_eq!(too_slow(140, frame, 999), NONE, "it did not wait for its peer in between");
        assert_eq!(memory.too_slow(0, |_| panic!("0 is off")), NONE);
    }

    /// Others wait for the memory that a connection was promised, even while its buffer is still small.
    #[test]
    fn a_slow_peer_whose_connection_only_holds_a_promise_is_found() {
        let memory = memory();
        let mut all = Share::new(&memory, 1);
        all.set(capacity_of_all(&memory), 0);
        let mut holder = Share::new(&memory, 7);
        assert!(is_ready(&mut pin!(holder.wait_to_grow_to(2000))), "it has the reserve");
        holder.set(2 * READ_BUFFER_MIN, 0);
        let mut other = share(&memory);
        let mut waits = pin!(other.wait_to_grow_to(2000));
        assert!(!is_ready(&mut waits));
        let start = Instant::now();
        let kind = Wait::Frame { began: start }.kind();
        let too_slow = |seconds: u64| {
            let at = start + std::time::Duration::from_secs(seconds);
            memory.too_slow(100, |connection| (connection == 7).then_some(Progress { at, kind, bytes: 0 }))
        };
        assert_eq!((too_slow(0), too_slow(10)), (Vec::new(), vec![7]));
    }

    #[test]
    fn the_gauge_counts_what_is_held_and_all_memory_is_returned() {
        let memory = memory();
        let gauge = &memory.metrics.buffer_bytes;
        let (mut one, mut two) = (share(&memory), share(&memory));
        one.set(READ_BUFFER_MIN, 28);
        two.set(64 << 10, 0);
        assert_eq!(gauge.get(), (READ_BUFFER_MIN + 28 + (64 << 10)) as u64);
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
