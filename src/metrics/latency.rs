//! How long requests waited for their acks: a histogram whose buckets double, from 1 µs to 8.4 s.
//!
//! The requests that one receive completes are answered by one send, so they share one latency:
//! a batch costs one clock call at each end and one addition, however many requests it has.

use std::time::Duration;

use super::Counter;

/// Buckets with an upper bound: 1 µs, 2 µs, 4 µs, and so on. One more holds what is above the last.
const BOUNDED: usize = 24;

/// The histogram of one shard.
#[derive(Debug, Default)]
pub struct Latency {
    buckets: [Counter; BOUNDED + 1],
    nanos_sum: Counter,
}

impl Latency {
    /// Counts `requests` that all waited for `waited`. Only the shard that owns it may call it.
    #[inline]
    pub fn record(&self, waited: Duration, requests: u64) {
        let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)].add(requests);
        self.nanos_sum.add(nanos.saturating_mul(requests));
    }

    /// Adds another histogram to this one.
    pub(super) fn add_all(&self, other: &Latency) {
        for (sum, counter) in self.buckets.iter().zip(&other.buckets) {
            sum.add(counter.get());
        }
        self.nanos_sum.add(other.nanos_sum.get());
    }

    /// Requests counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// The sum of all latencies, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.nanos_sum.get() as f64 / 1e9
    }

    /// Each bound in seconds, with the count of requests that waited no longer.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut count = 0;
        self.buckets[..BOUNDED].iter().enumerate().map(move |(index, counter)| {
            count += counter.get();
            (bound_micros(index) as f64 / 1e6, count)
        })
    }
}

/// The first bucket whose bound is not below `nanos`.
#[inline]
fn bucket(nanos: u64) -> usize {
    let whole_micros_below = nanos.saturating_sub(1) / 1000;
    ((u64::BITS - whole_micros_below.leading_zeros()) as usize).min(BOUNDED)
}

fn bound_micros(index: usize) -> u64 {
    1 << index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_above_it_to_the_next() {
        assert_eq!(bucket(0), 0);
        for index in 0..BOUNDED {
            let bound = bound_micros(index) * 1000;
            assert_eq!(bucket(bound), index);
            assert_eq!(bucket(bound + 1), index + 1);
        }
        assert_eq!(bucket(u64::MAX), BOUNDED);
    }

    #[test]
    fn counts_are_cumulative_and_the_sum_counts_every_request() {
        let latency = Latency::default();
        latency.record(Duration::from_micros(1), 2);
        latency.record(Duration::from_micros(3), 10);
        latency.record(Duration::from_secs(60), 1);
        let cumulative: Vec<_> = latency.cumulative().collect();
        assert_eq!(cumulative[..4], [(0.000001, 2), (0.000002, 2), (0.000004, 12), (0.000008, 12)]);
        assert_eq!(cumulative.last().unwrap(), &(8.388608, 12));
        assert_eq!(latency.count(), 13);
        assert!((latency.sum_seconds() - 60.000032).abs() < 1e-9);
    }
}
