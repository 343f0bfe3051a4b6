//! Ringpost accepts messages over TCP and acks each one. It runs one io_uring per core, or epoll on a host that does
//! not permit io_uring.
//!
//! A client opens a connection, optionally sends a CONN, and sends SUBMITs. The server answers each with one ack, in
//! order. The meaning of an ack depends on the server's sink: by default, it means that the message is on disk in the
//! [`journal`].
//!
//! # The library
//!
//! Each part can be used alone, with `default-features = false` and its cargo feature:
//!
//! | feature | module | what it has |
//! |---|---|---|
//! | (always) | [`proto`] | the wire protocol, without I/O |
//! | `client` | `client` | a client on tokio, for every system that tokio supports |
//! | `client-tls` | `client` | the same client, with TLS |
//! | `client-tls` | `client`, `tls` | the client, also with TLS |
//! | `journal` | `journal` | the writer, the reader and the retention of a journal |
//! | `server` | `server` | the server, to embed it |
//! | `bench` | | the load generator of the binary |
//! | `cli` (default) | | the binary `ringpost` with all of its commands |
//!
//! # The map
//!
//! ```text
//! main.rs          the binary: calls command
//! name_lookup.rs   the binary: how a static build looks host names up
//! command          parses the arguments, starts the log, runs one command, returns its exit code
//! cli/             the options of all commands; the only module that knows clap
//! serve/           the command that serves, from its first line to its exit code
//! submit/          the command that sends the lines of a file
//! load/            the command bench: a load generator with its own sockets and its own ring
//! inspect/         the commands that read a journal: cat, verify, stats, backup, check
//! doctor/          the command that checks whether this host can serve well
//! healthcheck      the command that asks a server for its health
//! ledger           the requests that a load run sent, and their acks, for `journal check`
//! server/          starts, drains and joins the shards
//!   thread/        a shard's thread: its accept loops, its journal, its end
//!   connection/    one connection: read, frames, session, sink, acks, write
//!   shard/         what the connections of one thread share: register, memory, deadlines
//!   listen/        listening sockets, and the limits of connections
//! sink/            the meaning of an ack: journal, discard
//! journal/         messages on disk: format, group commit, retention, reader; on any Storage
//! engine/          sockets and files, on a ring or on epoll; its users do not know which
//! ring/            the engine on io_uring; the only code that names tokio_uring
//! epoll/           the engine for hosts that do not permit io_uring
//! client/          a client for other programs, on ordinary tokio
//! proto/           the wire protocol: frames, packets, sessions; no I/O, no clock
//! tls/             TLS: records, certificates and keys; no sockets, no clock
//! takeover/        passes listening sockets from one server process to the next
//! confine/         gives up rights before the first thread starts: landlock, user
//! admin/           /metrics, /healthz, /readyz and a page, on a thread of their own
//! notify/          reports to the service manager: ready, alive, stopping
//! metrics/         counters of each shard, and their text for Prometheus
//! health           whether the server is healthy and ready
//! log              writes log lines to stderr on a thread of its own
//! signals          what each signal does to each command
//! output           writes to stdout and stderr
//! host/            what /proc and /sys report of this host
//! net              errors of binding an address
//! outbound         keepalive of TCP connections, and the error if no local port is free
//! readiness        waits until a socket is ready; both engines use it
//! blocking         threads for calls that block
//! clock/           the monotonic clock and the wall clock
//! fair_queue       tasks that wait for the same resource, in order
//! invalid_option   the error of an option whose value is rejected
//! sim/             the engine that simulates a host in memory; exists only with the cargo feature sim
//! worlds/          judges the server in simulated worlds; exists only with the cargo feature sim
//! testing/         faults on demand; exists only with the cargo feature test-hooks
//! internal         what tests, benchmarks and fuzz targets reach
//! docs             the pages in docs/, for rustdoc
//! ```
//!
//! # Layers
//!
//! A module may use only the modules to its right. A module with several rows may use those of all of them. A test
//! reads this table and all imports, and also rejects circles between files.
//!
//! <!-- layers -->
//!
//! | layer | may use |
//! |---|---|
//! | `proto` | |
//! | `invalid_option` | |
//! | `tls` | |
//! | `host` | |
//! | `net` | |
//! | `fair_queue` | |
//! | `blocking` | |
//! | `clock` | |
//! | `readiness` | |
//! | `health` | |
//! | `docs` | |
//! | `outbound` | `invalid_option` |
//! | `output` | |
//! | `log` | `output` |
//! | `signals` | `log` |
//! | `metrics` | `proto`, `tls` |
//! | `client` | `proto`, `invalid_option`, `outbound`, `tls` |
//! | `ring` | `host`, `readiness` |
//! | `epoll` | `blocking` |
//! | `journal` | `proto`, `fair_queue`, `clock` |
//! | `sim` | `journal`, `clock` |
//! | `engine` | `ring`, `epoll`, `sim`, `readiness`, `clock`, `invalid_option` |
//! | `sink` | `journal`, `proto` |
//! | `testing` | `engine`, `ring`, `sink`, `journal`, `proto` |
//! | `server::phase` | |
//! | `server::listen_options` | `outbound`, `invalid_option` |
//! | `server::journal_options` | `journal`, `proto`, `invalid_option` |
//! | `server::tls_options` | `tls`, `invalid_option` |
//! | `server::options` | `server::listen_options`, `server::journal_options`, `server::tls_options`, `engine` |
//! | `server::options` | `tls`, `proto`, `invalid_option` |
//! | `server::watchdog` | `health`, `metrics`, `clock` |
//! | `server::error` | `server::watchdog`, `engine`, `ring`, `journal`, `net`, `invalid_option` |
//! | `server::listen` | `server::options`, `server::listen_options`, `engine`, `sim`, `net`, `metrics`, `outbound` |
//! | `server::shard` | `server::listen`, `server::options`, `server::tls_options`, `engine`, `metrics`, `fair_queue` |
//! | `server::shard` | `tls`, `clock`, `proto` |
//! | `server::connection` | `server::shard`, `server::options`, `server::tls_options`, `engine`, `sink`, `tls` |
//! | `server::connection` | `clock`, `metrics`, `proto` |
//! | `server::thread` | `server::connection`, `server::shard`, `server::listen`, `server::options` |
//! | `server::thread` | `server::phase`, `server::error`, `engine`, `journal`, `sink` |
//! | `server::thread` | `blocking`, `clock`, `health`, `metrics`, `sim`, `testing` |
//! | `server` | `server::thread`, `server::shard`, `server::listen`, `server::options`, `server::listen_options` |
//! | `server` | `server::tls_options`, `server::phase`, `server::error`, `server::watchdog`, `server::journal_options`, `engine` |
//! | `server` | `journal`, `blocking`, `clock`, `health`, `metrics` |
//! | `takeover` | `host`, `invalid_option` |
//! | `confine` | `journal` |
//! | `admin` | `health`, `metrics`, `net`, `log` |
//! | `notify` | `health`, `metrics` |
//! | `ledger` | |
//! | `load` | `ledger`, `host`, `outbound`, `output`, `proto`, `signals`, `tls` |
//! | `inspect` | `journal`, `ledger`, `output`, `signals` |
//! | `submit` | `client`, `log`, `output`, `proto`, `signals` |
//! | `healthcheck` | `output` |
//! | `serve` | `server`, `server::options`, `server::tls_options`, `admin`, `notify`, `takeover`, `confine`, `journal`, `metrics` |
//! | `serve` | `tls`, `host`, `log`, `output`, `signals`, `proto`, `invalid_option`, `testing` |
//! | `doctor` | `serve`, `server`, `server::options`, `server::listen`, `confine`, `engine`, `ring` |
//! | `doctor` | `journal`, `net`, `tls`, `host`, `output` |
//! | `cli` | `serve`, `server`, `server::options`, `server::listen_options`, `server::tls_options`, `client` |
//! | `cli` | `inspect`, `load`, `submit`, `healthcheck` |
//! | `cli` | `tls`, `confine`, `engine`, `journal`, `log`, `output`, `proto`, `invalid_option` |
//! | `command` | `cli`, `serve`, `doctor`, `inspect`, `load`, `submit`, `healthcheck`, `log`, `signals` |
//! | `worlds` | `sim`, `clock`, `engine`, `journal`, `server`, `server::options`, `tls`, `metrics`, `proto` |
//! | `internal` | `server`, `server::options`, `ledger`, `notify`, `takeover` |
//!
//! <!-- end of layers -->
//!
//! # The path of one SUBMIT
//!
//! This is the path with the ring engine and the journal. With epoll, the same calls wait until the kernel reports a
//! socket ready, and other threads write the files.
//!
//! 1. `server/thread/accept_loop.rs`: a shard's accept loop waits until its listener has connections, and accepts them.
//!    It passes a connection to another shard if that one has fewer.
//! 2. `server/connection/mod.rs`: a task starts for the connection and registers it.
//! 3. `server/connection/conversation.rs`: the task lends its read buffer to a receive and sleeps until the kernel has
//!    appended bytes. If the client sends 16 KiB or more at a time, the task waits for readiness instead, and receives
//!    into a buffer that such connections share.
//! 4. `engine/socket.rs`, `ring/socket.rs` and `ring/ops.rs`: the receive becomes an op on the shard's ring.
//! 5. `server/connection/outbox.rs`: waits until the sink has room, then passes the received bytes on.
//! 6. `proto/session.rs` and `proto/frame.rs`: find each whole frame. The payload stays in the read buffer.
//! 7. `sink/journal.rs`: stages each SUBMIT while the buffer is borrowed, and returns the preliminary result of its
//!    ack. `proto/packet.rs` encodes the ack after those before it.
//! 8. `journal/appender.rs`, `journal/commit/writer_core.rs`: copy the payload into the commit that the shard is
//!    building. This is its only copy.
//! 9. `journal/commit/write.rs`: while fewer commits are in flight than permitted, the next one is sealed and written.
//!    The write is durable when it returns. Requests that arrive meanwhile go into the next commit. No timer is
//!    involved, so an idle disk starts immediately.
//! 10. `server/thread/storage.rs` and `engine/file.rs`: the write becomes an op on the shard's ring. The journal knows
//!     them only as its `Storage`, a trait, so that no module below imports one above.
//!
//! Meanwhile the connection continues with the next receive if its client sends without waiting for acks, up to a fixed
//! number of reads. Once the oldest staged requests have their outcome, their acks are settled, and all settled acks
//! leave in one send. While that send is in flight, the connection accepts nothing more: TCP holds back a client that
//! does not read its acks. A client that sends faster than the disk writes is held back in the same way, at the limit
//! of reads ahead or of the journal's memory.
//!
//! # Invariants
//!
//! * Every request gets one ack, in order and with its ID, or the connection closes. A request that the sink has not
//!   accepted is never acked with 0.
//! * With the journal, an ack with 0 means that the message can be read back intact, once, and in the order of its
//!   connection, even after a crash. The [`journal`] states this promise in full. After a failed write of a commit, for
//!   any reason but a full disk, that shard never acks with 0 again.
//! * Every message that a reader returns from a live journal is durable.
//! * Memory is bounded, by limits that have names.
//! * The fault of one connection (invalid bytes, a panic, slowness) affects no other connection.
//! * The fault of a shard (a stall, a panic) ends the process. Otherwise its listener would keep accepting connections
//!   that nobody serves.
//! * A takeover closes no listening socket. It refuses and resets no connection, and the old server keeps serving until
//!   its final message.
//! * A drain loses no acked message, and resets no client whose requests are unacked.
//! * Shards share nothing on the path of a request: no lock, no channel, no cache line.
//! * If the kernel refuses a call, the error says what was asked, what the kernel returned, and how to fix it.
//!
//! # Extending
//!
//! * A packet: [`proto::Kind`]. The compiler then reports what the session lacks.
//! * A sink: a file in `sink/`, a variant of the server's `SinkOptions`, and an arm in `server/thread/`.
//! * Another kind of storage for the journal: an implementation of `journal::Storage`. A field of its format: the
//!   tables in `journal/format.rs`, and a new version.
//! * An engine: a folder beside `ring` and `epoll`, and a variant of `engine::Engine`.
//! * A command that reads a journal: a file in `inspect/`, and a variant of `cli::JournalCommand`.
//! * A metric: an entry in the catalogue of `metrics`, one call, and a panel in `scripts/grafana-dashboard.json`
//!   (`scripts/check-dashboard` requires it).
//! * A figure of the page: a line in `src/admin/figures.js`, an element with that name as `data-figure`, and the same
//!   figure in `scripts/page_figures.py` (`scripts/check-page` requires it).
//! * A check of the host: a finding in a file of `doctor/`, and the fault that it finds in
//!   `tests/operations/doctor.rs`.
//! * A message of the takeover protocol: `takeover::Message`, and a new version.
//! * An option: a field with its default in the options of the module that uses it, and a field in `cli`.

#![deny(unsafe_code)]
#![warn(missing_docs)]
// Without the binary, some items of the inner modules have no user.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

pub mod proto;

#[cfg(feature = "cli")]
mod admin;
#[cfg(feature = "server")]
mod blocking;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "journal")]
mod clock;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod command;
#[cfg(feature = "cli")]
mod confine;
#[cfg(feature = "cli")]
mod doctor;
#[cfg(feature = "server")]
mod engine;
#[cfg(feature = "server")]
mod epoll;
#[cfg(feature = "journal")]
mod fair_queue;
#[cfg(feature = "server")]
mod health;
#[cfg(feature = "cli")]
mod healthcheck;
#[cfg(any(feature = "bench", feature = "server"))]
mod host;
#[cfg(feature = "cli")]
mod inspect;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod internal;
#[cfg(any(feature = "bench", feature = "client", feature = "server"))]
mod invalid_option;
#[cfg(feature = "journal")]
pub mod journal;
#[cfg(feature = "bench")]
mod ledger;
#[cfg(feature = "bench")]
mod load;
#[cfg(any(feature = "bench", feature = "server"))]
mod log;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod net;
#[cfg(feature = "cli")]
mod notify;
#[cfg(any(feature = "bench", feature = "client", feature = "server"))]
mod outbound;
#[cfg(any(feature = "bench", feature = "server"))]
mod output;
#[cfg(feature = "server")]
mod readiness;
#[cfg(feature = "server")]
mod ring;
#[cfg(feature = "cli")]
mod serve;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "bench")]
mod signals;
#[cfg(feature = "sim")]
mod sim;
#[cfg(feature = "server")]
mod sink;
#[cfg(feature = "cli")]
mod submit;
#[cfg(feature = "cli")]
mod takeover;
#[cfg(all(feature = "test-hooks", feature = "server"))]
mod testing;
#[cfg(any(feature = "server", feature = "bench", feature = "client-tls"))]
pub mod tls;

#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod worlds;

// Unit tests that can't run on every host follow the same rule as integration tests.
#[cfg(test)]
#[allow(dead_code, reason = "unit tests need few of these requirements")]
#[path = "../tests/common/requirement.rs"]
mod requirement;

#[cfg(all(test, feature = "client-tls"))]
#[allow(dead_code, reason = "unit tests need no text of a path")]
#[path = "../tests/common/authority.rs"]
mod authority;

#[cfg(any(doc, doctest))]
pub mod docs;
