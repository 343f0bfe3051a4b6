//! Figures that Linux keeps about this process, for its metrics.
//!
//! Its files in `/proc` are opened once, so that the figures are available even when descriptors have run out. Reading
//! the figures costs the same however many files are open.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, fstat};

/// How long a count of open files is reused on kernels that do not count them (before 6.2).
const COUNT_INTERVAL: Duration = Duration::from_secs(15);
/// Bytes of `/proc/self/status` that are read; its VmRSS line comes in the first kilobyte.
const STATUS_LEN_MAX: usize = 4096;

/// The process's files in `/proc`. Figures from a file that can't be opened are left out.
#[derive(Default)]
pub struct ProcessFiles {
    status: Option<File>,
    descriptors: Option<Mutex<Descriptors>>,
}

struct Descriptors {
    dir: Dir,
    counted: Option<(Instant, u64)>,
}

impl ProcessFiles {
    /// Opens the files.
    pub fn open() -> Self {
        let dir = File::open("/proc/self/fd").ok().and_then(|dir| Dir::new(dir).ok());
        ProcessFiles {
            status: File::open("/proc/self/status").ok(),
            descriptors: dir.map(|dir| Mutex::new(Descriptors { dir, counted: None })),
        }
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        let mut bytes = [0; STATUS_LEN_MAX];
        let len = self.status.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let status = String::from_utf8_lossy(&bytes[..len]);
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Open descriptors.
    pub fn open_descriptors(&self) -> Option<u64> {
        let mut descriptors = self.descriptors.as_ref()?.lock().ok()?;
        descriptors.count()
    }
}

impl Descriptors {
    fn count(&mut self) -> Option<u64> {
        // Since 6.2 the size of the directory is the number of its entries.
        match fstat(self.dir.fd().ok()?).ok()?.st_size {
            0 => self.count_seldom(),
            count => u64::try_from(count).ok(),
        }
    }

    fn count_seldom(&mut self) -> Option<u64> {
        if let Some((at, count)) = self.counted
            && at.elapsed() < COUNT_INTERVAL
        {
            return Some(count);
        }
        self.dir.rewind();
        let mut count = 0;
        while let Some(entry) = self.dir.read() {
            count += u64::from(!entry.ok()?.file_name().to_bytes().starts_with(b"."));
        }
        self.counted = Some((Instant::now(), count));
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> u64 {
        // One of the entries is the directory that is being read.
        std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1
    }

    #[test]
    fn the_figures_are_those_of_proc() {
        let files = ProcessFiles::open();
        assert!(files.resident_bytes().unwrap() > 1 << 20);
        // Other tests run at the same time, and open and close files.
        let by = Instant::now() + Duration::from_secs(10);
        while files.open_descriptors().unwrap().abs_diff(listed()) > 0 {
            assert!(Instant::now() < by, "{:?} and not {}", files.open_descriptors(), listed());
        }
    }

    #[test]
    fn an_older_kernels_files_are_counted_seldom() {
        let files = ProcessFiles::open();
        let mut descriptors = files.descriptors.as_ref().unwrap().lock().unwrap();
        let before = descriptors.count_seldom().unwrap();
        assert!(before > 3 && before.abs_diff(listed()) < 50, "{before}");
        let _more: Vec<_> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        assert_eq!(descriptors.count_seldom(), Some(before), "not listed again");
        descriptors.counted = None;
        assert!(descriptors.count_seldom().unwrap() >= before + 100);
    }
}
