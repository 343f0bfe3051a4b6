//! Random numbers that a seed repeats.

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Returns true once in `times` calls on average; never if `times` is 0.
    pub fn one_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }

    /// Returns a number from `low` to `high`, both included. Each power of two is as likely as any other. `low` is at
    /// least 1.
    pub fn log_range(&mut self, low: u64, high: u64) -> u64 {
        let bits = |value: u64| u64::from(value.ilog2());
        let bit = bits(low) + self.below(bits(high) - bits(low) + 1);
        let (low, high) = (low.max(1 << bit), high.min((2 << bit) - 1));
        low + self.below(high - low + 1)
    }

    /// Returns one of `values`.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }

    pub fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}
