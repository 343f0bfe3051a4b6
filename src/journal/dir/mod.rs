//! The data directory: who may write there, and what happens to the files of writers that have died.
//!
//! This module owns the locks and decides which writers are alive. It reads segments only to learn whether they were
//! used, and never changes data that a writer has written.

mod claim;
mod dead_writer;
mod lock_text;
mod locks;

#[cfg(test)]
mod tests;

#[cfg(feature = "sim")]
pub use claim::exit_simulated;
pub use claim::{ClaimError, SIGNS_WAIT, WriterDir, check, claim, claim_for, create, create_for, hold_until_exit};
pub use dead_writer::{RECLAIM_DELAY, reclaim};
pub use locks::{is_live, try_locks};

pub(super) use dead_writer::remove_writer;
pub(super) use lock_text::{copy_marks, is_copy};
pub(super) use locks::{Owned, has_lock, try_own};
