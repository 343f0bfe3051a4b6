//! The limits of a journal's size and age.
//!
//! They are plain values. This module knows no files.

use std::time::Duration;

/// How much of a journal is kept. Nothing is removed if both limits are off, which is the default.
///
/// [`Enforcer`](super::Enforcer) applies the limits. A [`Storage`](crate::journal::Storage) that recycles expired
/// segments uses [`Retention::recycle`].
///
/// ```no_run
/// use std::time::Duration;
/// use ringpost::journal::moment::Moment;
/// use ringpost::journal::retention::{Enforcer, Retention};
///
/// let retention = Retention::default().bytes_max(Some(10 << 30)).age_max(Some(Duration::from_secs(7 * 86_400)));
/// let mut enforcer = Enforcer::new(retention, "/var/lib/journal".into());
/// // From time to time:
/// let removed = enforcer.enforce(Moment::now())?;
/// println!("{} segments were removed", removed.segments);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// The maximum size in bytes of all segments that were written to. The segment that is being written to counts
    /// only as far as it is written. Segments that are only prepared don't count. `None` or 0 means no limit.
    pub bytes_max: Option<u64>,
    /// The maximum age of a segment's last message. `None` or 0 means no limit.
    pub age_max: Option<Duration>,
}

impl Retention {
    /// Sets the maximum size of all segments in bytes.
    pub fn bytes_max(mut self, bytes_max: Option<u64>) -> Self {
        self.bytes_max = bytes_max;
        self
    }

    /// Sets the maximum age of a segment's last message.
    pub fn age_max(mut self, age_max: Option<Duration>) -> Self {
        self.age_max = age_max;
        self
    }

    /// Returns whether there is no limit.
    pub fn is_off(&self) -> bool {
        self.bytes_limit().is_none() && self.age_limit().is_none()
    }

    /// Returns the maximum size in bytes, if there is one.
    pub fn bytes_limit(&self) -> Option<u64> {
        self.bytes_max.filter(|bytes_max| *bytes_max > 0)
    }

    /// Returns the maximum age, if there is one.
    pub fn age_limit(&self) -> Option<Duration> {
        self.age_max.filter(|age_max| !age_max.is_zero())
    }

    /// Returns how long a writer may write to one segment, so that its messages are removed in time: for
    /// [`WriterOptions::roll_age`](crate::journal::WriterOptions::roll_age).
    pub fn roll_age(&self) -> Option<Duration> {
        self.age_limit().map(|age_max| (age_max / ROLLS_PER_AGE).max(INTERVAL))
    }
}

/// How many segments a writer leaves half empty within `--retain-age`. This bounds how late messages are removed.
const ROLLS_PER_AGE: u32 = 8;
/// How often a server looks for segments to remove.
pub const INTERVAL: Duration = Duration::from_secs(5);
