//! What one thread measures: latencies and counts, handed over once a second.
//!
//! A thread records into a histogram of its own, so that nothing is shared while requests run; at
//! the end of each interval of the [`Timeline`] it sends that histogram off and begins a new one.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use hdrhistogram::Histogram;

use super::faults::Faults;
use super::plan::Timeline;

/// The run's clock: nanoseconds since its beginning.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Clock(Instant::now())
    }

    #[inline]
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// What one thread did in one interval.
#[derive(Debug)]
pub struct Tick {
    /// When the interval ended: earlier than planned if the thread ended early.
    pub to: u64,
    /// Nanoseconds, of requests that were acked in this interval.
    pub latencies: Histogram<u64>,
    pub acks: u64,
    /// Bytes of requests that were sent.
    pub bytes: u64,
    /// Connections that are open now.
    pub connections: usize,
    /// Faults since the beginning of the run.
    pub faults: u64,
}

/// What a thread hands over when it is done.
#[derive(Debug)]
pub struct Remainder {
    /// Of requests that were acked behind the end of the last interval.
    pub latencies: Histogram<u64>,
    pub faults: Faults,
    /// Requests that were due in the measured time and never sent.
    pub unsent: u64,
    /// How often no source port was free for a new connection.
    pub port_waits: u64,
}

/// Measures for one thread.
pub struct Recorder {
    timeline: Arc<Timeline>,
    /// The interval that runs.
    interval: usize,
    latencies: Histogram<u64>,
    acks: u64,
    bytes: u64,
    ticks: Sender<Tick>,
}

impl Recorder {
    pub fn new(timeline: Arc<Timeline>, ticks: Sender<Tick>) -> Self {
        Recorder { timeline, interval: 0, latencies: new_histogram(), acks: 0, bytes: 0, ticks }
    }

    /// `count` requests that began at `start` were acked at `now`. It counts unless the warm-up was
    /// still on then; also when the measured time is over, for such a request began in it, and a
    /// server that stalls at the end would go unseen.
    #[inline]
    pub fn latency(&mut self, start: u64, now: u64, count: u64) {
        if now >= self.timeline.begin {
            self.latencies.saturating_record_n(now.saturating_sub(start).max(1), count);
        }
    }

    #[inline]
    pub fn acked(&mut self, count: u64) {
        self.acks += count;
    }

    #[inline]
    pub fn sent(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// When the running interval ends; the end of time behind the last one.
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
        self.interval += 1;
        // If the run was given up, nobody listens any longer, and the tick is not needed.
        let _ = self.ticks.send(Tick { to, latencies, acks, bytes, connections, faults });
    }

    /// Ends the recording. A thread that ends before its time hands over what it has of the
    /// interval that runs.
    pub fn finish(mut self, now: u64, faults: Faults, unsent: u64, port_waits: u64) -> Remainder {
        self.tick(now, 0, faults.total());
        if self.next_tick() != u64::MAX {
            self.hand_over(now, 0, faults.total());
        }
        Remainder { latencies: self.latencies, faults, unsent, port_waits }
    }
}

/// From a nanosecond to an hour, with three significant digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3).expect("the bounds are in order")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_acked_since_the_warm_up_is_measured() {
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
