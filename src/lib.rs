//! Ringpost takes messages in over TCP and acks each one, on one io_uring per core.
//!
//! A client opens a connection, may say CONN, and sends SUBMITs; each is answered by one ack, in
//! order. What an ack means is the operator's choice of a [`sink`]. The library has the protocol,
//! the server and a [`client`]; the binary of the same name runs them.
//!
//! # The map
//!
//! ```text
//! main.rs          parse, log, dispatch, exit code
//!   cli            what can be typed
//!   config         what is needed: every limit, its unit, its default
//!   serve, submit  the commands; bench is in load/, journal in inspect/
//!   server/        start, drain, join
//!     listener     one SO_REUSEPORT group an address, closed to strangers
//!     admission    how many connections there may be
//!     thread       a shard's thread, from its start to its last word
//!     shard        one thread = one ring: from the first accept to the end of the drain
//!       accepts    the accept loops, and what they do when an accept fails
//!       register   the connections of the shard: their deadlines, the sweep, the drain's end
//!       fault_log  how many lines there are about peers' faults
//!     connection   the loop: read -> frames -> session -> sink -> acks -> write
//!     memory       what all buffers of a shard may take; who waits at the limit
//!     read_buffer  small while quiet, large while busy
//!     deadline     what a connection waits for, and until when
//!     outbox       what a connection owes: acks, until the sink has settled them and they are sent
//!     reserve      a descriptor kept back, to turn clients away with
//!     watchdog     notices a shard that has stalled
//!   sink/          what takes messages: journal, discard; faulty, for tests of the dev profile alone
//!   journal/       messages on disk: the format, group commit over any storage, the reader
//!   inspect/       the commands that read a journal: cat, verify, stats, check
//!   ledger         what a load run sent and what was acked, for inspect's check
//!   ring/          the server's rings: the only code that names tokio_uring
//!   metrics/       what is counted, by shard; as text for Prometheus
//!   health         whether the server is well, and ready
//!   admin          /metrics, /healthz, /readyz, on a thread of their own
//!   client/        for programs that send: ordinary tokio, no io_uring
//!   load/          the load generator, with sockets and a ring of its own; checks every ack
//!   proto/         the wire: frame, packet, session. No I/O, no clock, no runtime
//! ```
//!
//! Arrows point one way: `server` uses `ring`, `proto`, `sink`, `metrics`, `health`; `admin` uses
//! `metrics` and `health`; `client` and `load` use `proto`; `journal` uses `proto` for the request's ID alone; `inspect` uses
//! `journal` and `ledger`, `load` uses `ledger`; `proto` uses none of them.
//!
//! # The path of one SUBMIT
//!
//! 1. An accept loop of a shard (`server/shard/accepts.rs`) has an accept in flight on the shard's
//!    ring; it completes, and a task is spawned for the connection (`server/connection.rs`).
//! 2. The task lends its read buffer to a receive ([`ring::Socket::receive`]) and sleeps until the
//!    kernel has appended bytes to it.
//! 3. [`proto::Session::receive`] walks over every whole frame in the buffer
//!    ([`proto::FrameReader::next`]); the payload stays where it is.
//! 4. [`sink::Sink::stage`] takes each SUBMIT while the buffer is borrowed, and says what its ack
//!    will say; the ack is encoded behind those before it ([`proto::Acks`]).
//! 5. [`sink::Sink::settle`] returns when every staged SUBMIT has its outcome.
//! 6. All acks leave in one send ([`ring::Socket::send_all`]). Only then comes the next receive: no
//!    queue stands between, and a client that does not read its acks is held back by TCP.
//!
//! # What holds always
//!
//! * One ack for every request, in order, with its ID; or the connection closes. Never an ack for
//!   what the sink did not take.
//! * Memory is bounded, by limits that have a name in [`config`].
//! * One connection's fault (bad bytes, a panic, slowness) costs no other connection anything.
//! * A shard's fault (a stall, a panic) ends the process: its listener would go on to draw connections.
//! * A drain loses no acked message and resets no client that is owed an ack.
//! * Shards share nothing on the path of a request: no lock, no channel, no cache line.
//! * What the kernel refuses is said in words: what was asked, what came back, what to do.
//!
//! # Where to add
//!
//! * A packet: [`proto::Kind`]; the compiler leads on to the session.
//! * A sink: a file in [`sink`], a variant of [`config::SinkKind`], an arm in `server/thread.rs`.
//! * A metric: an entry in the catalogue of [`metrics`], and one call at its site.
//! * An option: a field in [`cli`], and a field with its default in [`config`].

#![deny(unsafe_code)]

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod health;
pub mod inspect;
pub mod journal;
pub mod ledger;
pub mod load;
pub mod metrics;
pub mod proto;
pub mod ring;
pub mod serve;
pub mod server;
pub mod sink;
pub mod submit;

/// So that the README's example is compiled by the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
