//! CPU time and memory of the server and of this process, as the kernel accounts for them.

use std::fs;
use std::io;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use super::plan::NANOS_PER_SECOND;

/// The CPU time of a process so far, in nanoseconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuTime {
    /// User time from `/proc/PID/stat`, which counts in ticks of 10 ms.
    pub user: u64,
    /// System time from `/proc/PID/stat`.
    pub system: u64,
    /// The scheduler's exact count over the threads that exist now. `None` if it can't be read.
    pub scheduled: Option<u64>,
}

impl CpuTime {
    /// Returns the CPU time that process `pid` has used.
    ///
    /// # Errors
    /// There is no such process, or `/proc` can't be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (user, system) = parse_stat(&stat).ok_or_else(|| io::Error::other("its stat file can't be parsed"))?;
        let nanos_per_tick = NANOS_PER_SECOND / rustix::param::clock_ticks_per_second().max(1);
        let scheduled = scheduled(pid).ok();
        Ok(CpuTime { user: user * nanos_per_tick, system: system * nanos_per_tick, scheduled })
    }

    /// Returns the CPU time that was used since `earlier`.
    pub fn since(self, earlier: CpuTime) -> CpuTime {
        CpuTime {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            scheduled: self.scheduled.zip(earlier.scheduled).map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

/// Returns the CPU time of this process so far, in nanoseconds.
pub fn own_cpu_time() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * NANOS_PER_SECOND + time.tv_nsec as u64
}

/// A process's resident memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    pub resident: u64,
    /// The part that is anonymous: neither files nor shared memory.
    pub anonymous: u64,
}

impl Memory {
    /// Returns the current memory of process `pid`.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kibibytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
            kibibytes.unwrap_or(0) * 1024
        };
        Ok(Memory { resident: bytes("VmRSS:"), anonymous: bytes("RssAnon:") })
    }
}

/// Parses user and system ticks. The process's name precedes them in brackets, and may itself contain spaces and
/// brackets.
fn parse_stat(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Returns the scheduler's count of CPU time, over all threads of a process.
fn scheduled(pid: u32) -> io::Result<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        total += schedstat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 90 0 0 0 21 43 0 0 20 0 1 0 99 1 1";
        assert_eq!(parse_stat(stat), Some((21, 43)));
        assert_eq!(parse_stat("7 (a"), None);
    }

    #[test]
    fn this_process_has_cpu_time_and_memory() {
        let pid = std::process::id();
        let (before, own_before) = (CpuTime::of(pid).unwrap(), own_cpu_time());
        // This does not go by the wall clock, since other processes may use the CPU meanwhile.
        let begin = std::time::Instant::now();
        while own_cpu_time() - own_before < 30_000_000 {
            assert!(begin.elapsed().as_secs() < 30, "{}", own_cpu_time() - own_before);
        }
        let used = CpuTime::of(pid).unwrap().since(before);
        assert!(used.scheduled.is_none_or(|nanos| nanos >= 10_000_000), "{used:?}");
        assert!(Memory::of(pid).unwrap().resident > 100_000);
        assert!(CpuTime::of(u32::MAX).is_err());
    }
}
