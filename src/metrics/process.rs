//! Figures that Linux keeps about this process.
//!
//! Owns the process's open files in `/proc`. It must not know how the figures are shown. Invariant: the files are
//! opened once, so that the figures are available even when descriptors have run out. Reading them costs the same
//! however many files are open.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::fs::{Dir, fstat};

/// The process's files in `/proc`. Figures of a file that can't be opened are omitted.
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

    /// Returns the resident memory in bytes.
    pub fn resident_bytes(&self) -> Option<u64> {
        let mut bytes = [0; STATUS_LEN_MAX];
        let len = self.status.as_ref()?.read_at(&mut bytes, 0).ok()?;
        let status = String::from_utf8_lossy(&bytes[..len]);
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib * 1024)
    }

    /// Returns the number of open descriptors.
    pub fn open_descriptors(&self) -> Option<u64> {
        let mut descriptors = self.descriptors.as_ref()?.lock().ok()?;
        descriptors.count()
    }
}

impl Descriptors {
    fn count(&mut self) -> Option<u64> {
        // Since 6.2 the size of the directory is the number of its entries.
        match fstat(self.dir.fd().ok()?).ok()?.st_size {
            0 => self.count_rarely(),
            count => u64::try_from(count).ok(),
        }
    }

    fn count_rarely(&mut self) -> Option<u64> {
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

/// How long a count of open files is reused on kernels that do not count them (before 6.2).
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

/// Bytes of `/proc/self/status` that are read. The VmRSS line is in the first kilobyte.
const STATUS_LEN_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> u64 {
        // One of the entries is the directory that is being read.
        std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1
    }

    #[test]
    fn figures_agree_with_proc() {
        let files = ProcessFiles::open();
        assert!(files.resident_bytes().unwrap() > 1 << 20);
        // Other tests run at the same time, and open and close files.
        let by = Instant::now() + Duration::from_secs(10);
        while files.open_descriptors().unwrap().abs_diff(listed()) > 0 {
            assert!(Instant::now() < by, "{:?} instead of {}", files.open_descriptors(), listed());
        }
    }

    #[test]
    fn open_files_are_rarely_counted_on_an_older_kernel() {
        let files = ProcessFiles::open();
        let mut descriptors = files.descriptors.as_ref().unwrap().lock().unwrap();
        let before = descriptors.count_rarely().unwrap();
        assert!(before > 3 && before.abs_diff(listed()) < 50, "{before}");
        let _more: Vec<_> = (0..200).map(|_| File::open("/dev/null").unwrap()).collect();
        assert_eq!(descriptors.count_rarely(), Some(before), "the files were counted again");
        descriptors.counted = None;
        assert!(descriptors.count_rarely().unwrap() >= before + 100);
    }
}
