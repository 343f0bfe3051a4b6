//! The process's limits (setrlimit(2)) of open files and file sizes.

use rustix::process::{Resource, getrlimit};
use tracing::{info, warn};

use crate::host;
use crate::server::Options;

/// Raises the soft limit of open files to the hard one, since each connection needs a descriptor. Logs the result.
pub fn raise_open_files() {
    let limit = host::raise_open_files();
    if let Some(error) = limit.refused {
        warn!(%error, before = ?limit.before, max = ?limit.max, "can't raise the limit of open files");
    }
    info!(limit = limit.now.map_or("none".into(), |limit| limit.to_string()), "open files are limited");
}

/// Returns the length of the journal's segments and the limit of file sizes in bytes, if the limit is too small for a
/// segment.
pub fn file_len_too_small(options: &Options) -> Option<(u64, u64)> {
    let segment_len = options.journal()?.segment_len;
    let limit = getrlimit(Resource::Fsize).current?;
    (limit < segment_len).then_some((segment_len, limit))
}
