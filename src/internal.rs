//! Items that this package's own tests, benchmarks and fuzz targets use. They are no part of the public API and may
//! change in any release.

pub use crate::ledger::{Ledger, LedgerPen, LedgerResult, Stamp};
pub use crate::notify::WATCHDOG_MIN;
pub use crate::server::CUT_GRACE;
pub use crate::server::options::{DRAIN_TIMEOUT, STALL_TIMEOUT};
pub use crate::takeover::{Channel as TakeoverChannel, Predecessor};
