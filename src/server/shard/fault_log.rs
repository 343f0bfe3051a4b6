//! How many lines a shard writes about its peers' faults.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Keeps a flood of faults from flooding the log.
#[derive(Default)]
pub struct FaultLog {
    second: Cell<Option<Instant>>,
    lines: Cell<u32>,
}

impl FaultLog {
    /// Whether a line may be written now.
    pub fn allow(&self, now: Instant) -> bool {
        if self.second.get().is_none_or(|start| now.duration_since(start) >= Duration::from_secs(1)) {
            self.second.set(Some(now));
            self.lines.set(0);
        }
        self.lines.set(self.lines.get() + 1);
        self.lines.get() <= FAULT_LINES_PER_SECOND
    }
}

/// Lines a second that one shard logs about its peers' faults. Further ones are counted.
const FAULT_LINES_PER_SECOND: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_faults_writes_a_bounded_number_of_lines_a_second() {
        let log = FaultLog::default();
        let start = Instant::now();
        let allowed = |millis| (0..1000).filter(|_| log.allow(start + Duration::from_millis(millis))).count();
        assert_eq!(allowed(0), FAULT_LINES_PER_SECOND as usize);
        assert_eq!(allowed(999), 0);
        assert_eq!(allowed(1000), FAULT_LINES_PER_SECOND as usize);
    }
}
