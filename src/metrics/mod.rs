//! The server's metrics: one catalogue, one set of counters per shard, and their sums as text.
//!
//! Owns what is counted and how it is shown. It must not know a shard, an engine or the admin address: facts that are
//! not counted are passed in. It uses `proto` only for the values of labels, such as the kind of a request. Invariant:
//! only a shard changes its counters, and any thread may read them.
//!
//! * [`catalogue`]: the metrics, and a shard's counters
//! * [`counter`], [`histogram`]: single numbers, latencies and sizes
//! * [`label`]: the labels that distinguish counters of one metric
//! * [`tls_files`]: figures about the certificate and its files
//! * [`exposition`]: all metrics as text, with Linux's figures about the process ([`process`])

mod catalogue;
mod counter;
pub mod exposition;
mod histogram;
mod label;
pub mod process;
mod tls_files;

pub use catalogue::ShardMetrics;
pub use label::{CloseReason, Label, ReloadResult, TlsVersion};
pub use tls_files::TlsFileFigures;
