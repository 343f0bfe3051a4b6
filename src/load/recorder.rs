//! The measurements of one thread: latencies and counts, which are handed over once a second.
//!
//! Each thread records into its own histogram, so that threads share nothing while requests are in flight. At the end
//! of each interval of the [`Timeline`] it sends the histogram to the main thread and begins a new one.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::faults::Faults;
use super::plan::Timeline;

/// The clock of a run: nanoseconds since its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Starts a clock at 0.
    pub fn start() -> Self {
        Clock(Instant::now())
    }

    /// Returns the nanoseconds since the start.
    #[inline]
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// The measurements of one thread in one interval.
#[derive(Debug)]
pub struct Tick {
    /// The end of the interval: earlier than planned if the thread ended early.
    pub to: u64,
    /// The latencies of the requests that were acked in this interval, in nanoseconds.
    pub latencies: Histogram<u64>,
    pub acks: u64,
    /// The handshakes of TLS that were completed.
    pub handshakes: u64,
    /// The bytes of the requests that were sent.
    pub bytes: u64,
    /// The connections that are open at the end of the interval.
    pub connections: usize,
    /// Faults since the beginning of the run.
    pub faults: u64,
}

/// The measurements of a thread that are left when it ends.
#[derive(Debug)]
pub struct Remainder {
    /// The latencies of the requests that were acked after the last interval.
    pub latencies: Histogram<u64>,
    pub faults: Faults,
    /// Requests that were due in the measured time and never sent.
    pub unsent: u64,
    /// How often no source port was free for a new connection.
    pub port_waits: u64,
}

/// Records the measurements of one thread.
pub struct Recorder {
    timeline: Arc<Timeline>,
    /// The number of the current interval.
    interval: usize,
    latencies: Histogram<u64>,
    acks: u64,
    handshakes: u64,
    bytes: u64,
    ticks: Sender<Tick>,
}

impl Recorder {
    /// Returns a recorder that sends a tick for each interval.
    pub fn new(timeline: Arc<Timeline>, ticks: Sender<Tick>) -> Self {
        Recorder { timeline, interval: 0, latencies: new_histogram(), acks: 0, handshakes: 0, bytes: 0, ticks }
    }

    /// Records that `count` requests that began at `start` were acked at `now`, unless the warm-up was still running at
    /// that time. Acks after the measured time count: their requests began in it, and otherwise a server that stalls at
    /// the end would not be noticed.
    #[inline]
    pub fn latency(&mut self, start: u64, now: u64, count: u64) {
        if now >= self.timeline.begin {
            self.latencies.saturating_record_n(now.saturating_sub(start).max(1), count);
        }
    }

    /// Counts acks.
    #[inline]
    pub fn acked(&mut self, count: u64) {
        self.acks += count;
    }

    /// Counts a handshake of TLS.
    #[inline]
    pub fn handshake(&mut self) {
        self.handshakes += 1;
    }

    /// Counts bytes of requests.
    #[inline]
    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Returns the end of the current interval, or the largest time after the last interval.
    #[inline]
    pub fn next_tick(&self) -> u64 {
        self.timeline.intervals.get(self.interval).map_or(u64::MAX, |interval| interval.to)
    }

    /// Hands over every interval that has ended.
    pub fn tick(&mut self, now: u64, connections: usize, faults: u64) {
        while now >= self.next_tick() {
            self.hand_over(self.next_tick(), connections, faults);
        }
    }

    /// Ends the current interval.
    fn hand_over(&mut self, to: u64, connections: usize, faults: u64) {
        let latencies = std::mem::replace(&mut self.latencies, new_histogram());
        let (acks, bytes) = (std::mem::take(&mut self.acks), std::mem::take(&mut self.bytes));
        let handshakes = std::mem::take(&mut self.handshakes);
        self.interval += 1;
        // If the run was aborted, the receiver no longer exists, and the tick is not needed.
        let _ = self.ticks.send(Tick { to, latencies, acks, handshakes, bytes, connections, faults });
    }

    /// Ends the recording. A thread that ends early hands over the measurements of the current interval.
    pub fn finish(mut self, now: u64, faults: Faults, unsent: u64, port_waits: u64) -> Remainder {
        self.tick(now, 0, faults.total());
        if self.next_tick() != u64::MAX {
            self.hand_over(now, 0, faults.total());
        }
        Remainder { latencies: self.latencies, faults, unsent, port_waits }
    }
}

/// Returns a histogram for latencies from a nanosecond to an hour, with three significant digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_ack_after_the_warm_up_is_measured() {
        let timeline = Arc::new(Timeline::new(Duration::from_secs(1), Duration::from_secs(1)));
        let (ticks, received) = channel();
        let mut recorder = Recorder::new(Arc::clone(&timeline), ticks);
        recorder.latency(5, timeline.begin - 1, 1);
        recorder.tick(timeline.begin, 1, 0);
        recorder.latency(timeline.begin - 1, timeline.begin, 2);
        recorder.tick(timeline.end, 1, 0);
        recorder.latency(timeline.end - 1, timeline.end + 1_000_000, 1);
        let remainder = recorder.finish(timeline.end + 1, Faults::default(), 0, 0);
        let counts: Vec<u64> = received.try_iter().map(|tick| tick.latencies.len()).collect();
        assert_eq!(counts, [0, 2]);
        assert_eq!(remainder.latencies.len(), 1);
    }
}
