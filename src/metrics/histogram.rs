//! Histograms in which each bucket's bound is twice the previous one.
//!
//! Owns the buckets. It must not know what is measured. Invariant: only the thread that owns a histogram changes it.
//!
//! One send answers all requests that one receive completed, so these requests share one latency. A batch costs two
//! readings of the clock and one addition, however many requests it has.

use std::time::Duration;

use super::counter::Counter;

/// A histogram of times in nanoseconds, from 1 µs to 8.4 s.
pub type Latency = Histogram<1000, 25>;

/// A histogram of sizes in bytes, from 4 KiB to 8 MiB.
pub type Sizes = Histogram<4096, 13>;

/// A histogram with `N` buckets. The first bucket's bound is `UNIT`, and each further bound is twice the previous one.
/// The last bucket has no bound.
#[derive(Debug)]
pub struct Histogram<const UNIT: u64, const N: usize> {
    buckets: [Counter; N],
    sum: Counter,
}

impl<const UNIT: u64, const N: usize> Default for Histogram<UNIT, N> {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl<const UNIT: u64, const N: usize> Histogram<UNIT, N> {
    /// Counts `value` `count` times. Only the thread that owns the histogram may call this.
    #[inline]
    pub fn add(&self, value: u64, count: u64) {
        self.buckets[Self::bucket(value)].add(count);
        self.sum.add(value.saturating_mul(count));
    }

    /// Adds another histogram to this one.
    pub(super) fn add_all(&self, other: &Self) {
        for (sum, counter) in self.buckets.iter().zip(&other.buckets) {
            sum.add(counter.get());
        }
        self.sum.add(other.sum.get());
    }

    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(Counter::get).sum()
    }

    /// Returns the sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum.get()
    }

    /// Returns each bound, with the number of values that do not exceed it.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut count = 0;
        self.buckets[..N - 1].iter().enumerate().map(move |(index, counter)| {
            count += counter.get();
            (UNIT << index, count)
        })
    }

    /// Returns the first bucket whose bound is at least `value`.
    #[inline]
    fn bucket(value: u64) -> usize {
        let whole_units_below = value.saturating_sub(1) / UNIT;
        ((u64::BITS - whole_units_below.leading_zeros()) as usize).min(N - 1)
    }
}

impl Latency {
    /// Counts `requests` that all waited for `waited`. Only the thread that owns the histogram may call this.
    #[inline]
    pub fn record(&self, waited: Duration, requests: u64) {
        self.add(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX), requests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_a_larger_value_to_the_next() {
        assert_eq!(Latency::bucket(0), 0);
        for index in 0..24 {
            let bound = 1000 << index;
            assert_eq!(Latency::bucket(bound), index);
            assert_eq!(Latency::bucket(bound + 1), index + 1);
        }
        assert_eq!(Latency::bucket(u64::MAX), 24);
        assert_eq!((Sizes::bucket(4096), Sizes::bucket(8 << 20), Sizes::bucket((8 << 20) + 1)), (0, 11, 12));
    }

    #[test]
    fn counts_are_cumulative_and_the_sum_counts_every_request() {
        let latency = Latency::default();
        latency.record(Duration::from_micros(1), 2);
        latency.record(Duration::from_micros(3), 10);
        latency.record(Duration::from_secs(60), 1);
        let cumulative: Vec<_> = latency.cumulative().collect();
        assert_eq!(cumulative[..4], [(1000, 2), (2000, 2), (4000, 12), (8000, 12)]);
        assert_eq!(cumulative.last().unwrap(), &(8_388_608_000, 12));
        assert_eq!((latency.count(), latency.sum()), (13, 60_000_032_000));
    }
}
