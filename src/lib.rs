//! Ringpost takes messages in over TCP and acks each one, on one io_uring per core; where a host refuses
//! io_uring, on epoll.
//!
//! A client opens a connection, may say CONN, and sends SUBMITs; each is answered by one ack, in
//! order. What an ack means is the operator's choice of a [`sink`]; by default, that the message is in
//! the [`journal`], on disk. The library has the protocol, the server, the journal and a [`client`]; the
//! binary of the same name runs them.
//!
//! # The map
//!
//! ```text
//! main.rs          calls command
//! command          parse, log, dispatch, exit code
//!   cli            what can be typed; cli/about: version, completions, man pages
//!   serve/         from the first line to the exit code; startup: alone, or in place of another server;
//!                  memory: defaults that fit the memory limit of a control group
//!   submit         and the other commands; bench is in load/, journal in inspect/, doctor in doctor/
//!   server/        start, drain, join
//!     listener     one SO_REUSEPORT group an address, closed to strangers
//!     admission    how many connections there may be, and how many each shard has
//!     thread       a shard's thread, from its start to its last word
//!     shard        one thread, one engine: from the first accept to the end of the drain
//!       accepts    the accept loops, what they do when an accept fails, and who serves what they accept
//!       register   the connections of the shard: their deadlines, the sweep, the drain's end
//!       fault_log  how many lines there are about peers' faults
//!       journal    the shard's writer: opened before it accepts, watched, closed after the drain
//!     connection   the loop: read -> frames -> session -> sink -> acks -> write
//!     memory       what all buffers of a shard may take; who waits at the limit
//!     read_buffer  small while quiet, large while busy
//!     common_buffer  what connections read to, one after the other, that receive much at once
//!     deadline     what a connection waits for, and until when
//!     outbox       what a connection owes: acks, until the sink has settled them and they are sent
//!     gate         how many acks leave in one turn of the ring
//!     queue        tasks that wait for the same thing, first come, first served
//!     read_ahead   whether a connection is read while its acks wait for the sink
//!     reserve      a descriptor kept back, to turn clients away with
//!     watchdog     notices a shard that has stalled
//!   sink/          what takes messages: journal, discard
//!   journal/       messages on disk: the format, group commit over any storage, the reader, retention
//!   inspect/       the commands that read a journal: cat, verify, stats, backup, check
//!   ledger         what a load run sent and what was acked, for inspect's check
//!   blocking       threads for calls that block; one of them always exists
//!   engine/        what a shard runs on: a runtime, sockets, files; who uses them does not know which it has
//!     choice       --engine: which one, and why
//!   ring/          the engine for which Ringpost is made: the only code that names tokio_uring
//!   epoll/         the engine of hosts that refuse io_uring
//!   takeover/      listening sockets from one process to the next: the protocol, a supervisor's sockets
//!     control_socket  the old server's side: who may ask, what is offered, until when it serves
//!     predecessor  the new server's side
//!   host           what the host says of itself in /proc and /sys; cgroup: limits of control groups
//!   metrics/       what is counted, by shard; as text for Prometheus
//!   health         whether the server is well, and ready
//!   confine/       what serve gives up before its first thread: by landlock, all files but its own; root (user)
//!   admin          /metrics, /healthz, /readyz, on a thread of their own; at / a page that draws them
//!   healthcheck    the command that asks them, for containers that have no other program
//!   notify         what systemd is told: ready, alive, stopping, and how it goes
//!   log            writes log lines to stderr on its own thread; counts lines that can't be written
//!   output         writes to stdout and stderr that return their errors
//!   signals        what each signal does to each command
//!   testing/       faults on demand, only with the cargo feature test-hooks
//! name_lookup.rs   (binary) how the static binary looks host names up
//!   outbound       keepalive of outgoing connections, and what it means when no local port is free
//!   client/        for programs that send: ordinary tokio, no io_uring
//!   doctor/        what on this host stands in the way of serve: a file a subject, from findings to text
//!   load/          the load generator, with sockets and a ring of its own; checks every ack
//!   proto/         the wire: frame, packet, session. No I/O, no clock, no runtime
//! ```
//!
//! Arrows point one way: `server` uses `engine`, `proto`, `sink`, `journal`, `metrics`, `health`; `engine`
//! uses `ring` and `epoll`, which know nothing of each other; `notify` uses `metrics` and `health`; `sink`
//! uses `journal`, `engine` and `proto`; `journal` uses `proto` for the request's ID alone, and no ring: it
//! drives any [`journal::Storage`]; `ring` uses `host`; `serve` joins `server`, `admin` and `takeover`,
//! which moves sockets and knows none of the two; `admin` uses `metrics`, `health` and what `engine` says
//! of itself; `client` and `load` use `proto`; `inspect` uses `journal` and `ledger`, `load` uses `ledger`;
//! `confine` knows of the `journal`'s directory; `doctor` tries what `engine`, `ring` and
//! `journal` would do, and reads `host`; `proto` uses none of them.
//!
//! # The path of one SUBMIT
//!
//! (On a ring. On epoll the same calls wait until the kernel calls a socket ready, and files are written by
//! other threads.)
//!
//! 1. An accept loop of a shard (`server/shard/accepts.rs`) waits on the shard's ring until its listener has
//!    connections, and accepts them. If another shard has fewer, one is handed to that. A task is spawned
//!    for it (`server/connection.rs`).
//! 2. The task lends its read buffer to a receive ([`engine::Socket::receive`]) and sleeps until the
//!    kernel has appended bytes to it. Where its client sends much at once, it sleeps until there is something,
//!    and reads to a buffer that it shares with others of its kind (`server/common_buffer.rs`).
//! 3. What came goes through the connection's outbox (`server/outbox.rs`), once the sink has room
//!    ([`sink::Sink::ready`]): [`proto::Session::receive`] walks over every whole frame in the buffer
//!    ([`proto::FrameReader::next`]); the payload stays where it is.
//! 4. [`sink::Sink::stage`] takes each SUBMIT while the buffer is borrowed, and says what its ack
//!    will say; the ack is encoded behind those before it ([`proto::Acks`]). `discard` owes nothing
//!    then. `journal` has copied the payload into the commit that its shard is gathering
//!    ([`journal::Appender::stage`]).
//! 5. While fewer commits are being written than may be, the one that was gathered is sealed and leaves
//!    in one write on the shard's ring, which lasts when it returns ([`sink::EngineStorage`]). What arrives
//!    meanwhile gathers for the next. No timer is in this: an idle disk begins at once.
//! 6. Meanwhile the connection goes on with the next receive, if its client sends before it has its acks, at
//!    most `READS_AHEAD` reads ahead.
//!    [`sink::Sink::settle`] returns when the oldest staged SUBMITs have their outcome: their commit is
//!    on disk, and every earlier one of that writer.
//! 7. All acks that are settled leave in one send ([`engine::Socket::send_all`]), which goes to the kernel with
//!    those of all other connections when the thread parks; a send that is the only one in its turn goes
//!    immediately (`ring/socket.rs`). While it runs nothing
//!    more is taken: a client that does not read its acks is held back by TCP. So is one that sends faster
//!    than the disk writes: at the limit of reads ahead, or of the journal's bytes, nothing is received.
//!
//! # What holds always
//!
//! * One ack for every request, in order, with its ID; or the connection closes. Never an ack for
//!   what the sink did not take.
//! * With `journal`, an ack with 0 means that the message can be read back, intact, once and in its
//!   connection's order, after a crash: the promise is stated in [`journal`]. After an error of a commit's
//!   write, other than a full disk, nothing is ever acked with 0 by that shard again.
//! * What a journal's reader shows of a live writer is durable.
//! * Memory is bounded, by limits that have a name.
//! * One connection's fault (bad bytes, a panic, slowness) costs no other connection anything.
//! * A shard's fault (a stall, a panic) ends the process: its listener would go on to draw connections.
//! * A takeover closes no listening socket: nobody is refused or reset by one, and before its last word the old
//!   server serves on.
//! * A drain loses no acked message and resets no client that is owed an ack.
//! * Shards share nothing on the path of a request: no lock, no channel, no cache line.
//! * What the kernel refuses is said in words: what was asked, what came back, what to do.
//!
//! # Where to add
//!
//! * A packet: [`proto::Kind`]; the compiler leads on to the session.
//! * A sink: a file in [`sink`], a variant of [`server::SinkOptions`], an arm in `server/thread.rs`.
//! * A disk of another kind below the journal: a [`journal::Storage`]. A field of its format: the tables in
//!   [`journal`] and `journal/format.rs`, and a new version.
//! * An engine: a folder beside [`ring`] and [`epoll`], a variant of [`engine::Engine`]; the compiler leads on.
//! * A command that reads a journal: a file in `inspect/`, a variant of [`cli::JournalCommand`].
//! * A metric: an entry in the catalogue of [`metrics`], one call at its site, and a panel of
//!   `scripts/grafana-dashboard.json` (`scripts/check-dashboard` asks for it).
//! * A figure of the page: a line in `src/admin/figures.js`, an element that names it as `data-figure`, and the
//!   same figure in `scripts/page_figures.py` (`scripts/check-page` asks for it).
//! * A check of the host: a finding in a file of [`doctor`], and the fault that it finds in
//!   `tests/operations/doctor.rs`.
//! * A word of the takeover's protocol: [`takeover::Message`], and a new version.
//! * An option: a field with its default in the options of its module, and a field in [`cli`].

#![deny(unsafe_code)]

pub mod proto;

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
mod invalid_option;
#[cfg(feature = "client")]
mod outbound;

#[cfg(feature = "journal")]
pub mod journal;

#[cfg(feature = "cli")]
mod admin;
#[cfg(feature = "cli")]
mod blocking;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod command;
#[cfg(feature = "cli")]
mod confine;
#[cfg(feature = "cli")]
mod doctor;
#[cfg(feature = "cli")]
mod engine;
#[cfg(feature = "cli")]
mod epoll;
#[cfg(feature = "cli")]
mod fair_queue;
#[cfg(feature = "cli")]
mod health;
#[cfg(feature = "cli")]
mod healthcheck;
#[cfg(feature = "cli")]
mod host;
#[cfg(feature = "cli")]
mod inspect;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod internal;
#[cfg(feature = "cli")]
mod ledger;
#[cfg(feature = "cli")]
mod load;
#[cfg(feature = "cli")]
mod log;
#[cfg(feature = "cli")]
mod metrics;
#[cfg(feature = "cli")]
mod net;
#[cfg(feature = "cli")]
mod notify;
#[cfg(feature = "cli")]
mod output;
#[cfg(feature = "cli")]
mod readiness;
// Unit tests that can't run on every host follow the same rule as integration tests.
#[cfg(test)]
#[allow(dead_code, reason = "unit tests need few of these requirements")]
#[path = "../tests/common/requirement.rs"]
mod requirement;
#[cfg(feature = "cli")]
mod ring;
#[cfg(feature = "cli")]
mod serve;
#[cfg(feature = "cli")]
pub mod server;
#[cfg(feature = "cli")]
mod signals;
#[cfg(feature = "cli")]
mod sink;
#[cfg(feature = "cli")]
mod submit;
#[cfg(feature = "cli")]
mod takeover;
#[cfg(all(feature = "test-hooks", feature = "cli"))]
mod testing;

#[cfg(any(doc, doctest))]
pub mod docs;
