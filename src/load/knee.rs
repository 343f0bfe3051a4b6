//! The search for the knee: the highest rate that a server sustains.
//!
//! The search doubles the rate until a rate is too high, then halves the gap between the highest good rate and the
//! lowest bad one until the gap is a twentieth. It knows nothing of how a rate is tried.

/// The state of a search.
#[derive(Debug, Clone, Copy)]
pub struct KneeSearch {
    /// The highest rate that was good, or 0 if no rate was.
    good: u64,
    /// The lowest rate that was bad.
    bad: Option<u64>,
    rate: u64,
    rate_max: u64,
}

impl KneeSearch {
    /// Returns a search that begins at `rate_first` and never exceeds `rate_max`.
    pub fn new(rate_first: u64, rate_max: u64) -> Self {
        assert!(rate_first > 0);
        KneeSearch { good: 0, bad: None, rate: rate_first.min(rate_max), rate_max }
    }

    /// Returns the rate to try now, in requests per second, or `None` when the knee is found.
    pub fn rate(&self) -> Option<u64> {
        let found = match self.bad {
            Some(bad) => bad <= 1 || bad - self.good <= self.good / GAP_PART || bad - self.good == 1,
            None => self.good == self.rate_max,
        };
        (!found).then_some(self.rate)
    }

    /// Records whether the current rate was good, and chooses the next one.
    pub fn judge(&mut self, good: bool) {
        if good {
            self.good = self.rate;
        } else {
            self.bad = Some(self.rate);
        }
        self.rate = match self.bad {
            Some(bad) => self.good.midpoint(bad),
            None => self.rate.saturating_mul(2).min(self.rate_max),
        };
    }

    /// Returns the highest good rate, if any rate was good.
    pub fn last_good(&self) -> Option<u64> {
        (self.good > 0).then_some(self.good)
    }
}

/// The search ends when the gap is at most the good rate divided by this.
const GAP_PART: u64 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn search(first: u64, knee: u64) -> (Option<u64>, usize) {
        let mut search = KneeSearch::new(first, 1_000_000_000);
        let mut steps = 0;
        while let Some(rate) = search.rate() {
            search.judge(rate <= knee);
            steps += 1;
            assert!(steps < 100, "the search does not end");
        }
        (search.last_good(), steps)
    }

    #[test]
    fn the_last_good_rate_is_at_most_a_twentieth_below_the_knee() {
        for knee in [1, 2, 19, 1_000, 1_001, 123_456, 10_000_000] {
            let (found, steps) = search(1_000, knee);
            let found = found.unwrap();
            assert!(found <= knee && knee - found <= found / 20 + 1, "{found} for {knee}");
            assert!(steps <= 25, "{steps} steps to {knee}");
        }
    }

    #[test]
    fn a_server_that_never_keeps_up_has_no_knee() {
        assert_eq!(search(1_000, 0).0, None);
    }

    #[test]
    fn a_server_that_always_keeps_up_ends_the_search_at_the_highest_rate() {
        assert_eq!(search(1_000, u64::MAX).0, Some(1_000_000_000));
    }
}
