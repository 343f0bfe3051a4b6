//! A wall clock that is set again and again, for tests of code that relies on one. It exists only with the
//! cargo feature `test-hooks`, and has an effect only if an environment variable asks for it.
//!
//! `RINGPOST_TEST_CLOCK=SEED` sets the clock that the journal sees about every 50 ms: ahead or back by a second, an
//! hour, a day or ten years, to 1970, to 2100, or right again. The seed decides which.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

const VARIABLE: &str = "RINGPOST_TEST_CLOCK";

/// Returns the time that the clock shows when the true clock shows `nanos` since 1970.
pub fn shown(nanos: u64) -> u64 {
    static SEED: LazyLock<Option<(u64, Instant)>> =
        LazyLock::new(|| Some((std::env::var(VARIABLE).ok()?.parse().expect("a number"), Instant::now())));
    match *SEED {
        None => nanos,
        Some((seed, start)) => shown_after(seed, start.elapsed(), nanos),
    }
}

fn shown_after(seed: u64, elapsed: Duration, nanos: u64) -> u64 {
    const SECOND: i128 = 1_000_000_000;
    const DAY: i128 = 86_400 * SECOND;
    const YEAR: i128 = 365 * DAY;
    let step = elapsed.as_nanos() as u64 / STEP.as_nanos() as u64;
    // SplitMix64's mixing function, applied to this step of the seed.
    let mut mixed = (seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let nanos = i128::from(nanos);
    let by = [SECOND, 3600 * SECOND, DAY, 10 * YEAR][(mixed >> 8) as usize % 4];
    let shown = match mixed % 6 {
        0 | 1 => nanos,
        2 => nanos + by,
        3 => nanos - by,
        // The clock continues from there, and no two processes see the same time.
        4 => nanos % DAY,
        _ => 130 * YEAR + nanos % DAY,
    };
    shown as u64
}

/// How long the clock runs before it is set again.
const STEP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_set_ahead_and_back_and_right_again() {
        let now = 1_800_000_000_000_000_000;
        let shown: Vec<u64> = (0..200).map(|step| shown_after(7, STEP * step, now)).collect();
        assert!(shown.contains(&now) && shown.iter().any(|shown| *shown > 2 * now));
        assert!(shown.iter().any(|shown| *shown < Duration::from_secs(86_400).as_nanos() as u64));
        assert_eq!(shown[3], shown_after(7, STEP * 3, now));
        assert_ne!(shown, (0..200).map(|step| shown_after(8, STEP * step, now)).collect::<Vec<_>>());
    }
}
