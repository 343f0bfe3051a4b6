//! The options of a server, their defaults, and the checks of each against the others.
//!
//! This module knows nothing of what is done with the options, nor of how they are set.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::journal_options::JournalOptions;
use super::listen_options::{Listen, ListenOptions};
use super::tls_options::TlsOptions;
use crate::engine;
use crate::invalid_option::{InvalidOption, check_timeouts};
use crate::proto::{ACK_LEN, AckCodes, FRAME_LEN_MAX, HEADER_LEN};
use crate::tls::session::{HANDSHAKE_LEN_MAX, RECORD_LEN_MAX};

/// The destination of messages.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SinkOptions {
    /// To a journal on disk. A message is acked with 0 once it is durable.
    Journal(JournalOptions),
    /// Nowhere. Every message is acked with 0 and discarded.
    Discard,
}

/// The options of a server.
///
/// [`Options::default`] listens on port 8888 of every address and writes a journal in `./ringpost-data`.
/// [`Server::prepare`](super::Server::prepare) checks all options.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The addresses that the server listens on, and how it accepts from them.
    pub listen: ListenOptions,
    /// The engine that the shards run on.
    pub engine: engine::Options,
    /// How the server speaks TLS. `None` serves connections without TLS only.
    pub tls: Option<TlsOptions>,
    /// The destination of messages, which decides what an ack means.
    pub sink: SinkOptions,
    /// The number of shards: threads, each with its own event loop and listeners.
    pub shards: NonZeroUsize,
    /// Whether each shard stays on a CPU of its own.
    pub pin: bool,
    /// Whether each connection is served by the shard that has the fewest, whichever accepted it.
    pub balance: bool,
    /// Bytes of the largest frame, its 13-byte header included.
    pub frame_len_max: u32,
    /// The commands that acks bear.
    pub ack_codes: AckCodes,
    /// The most open connections; 0 for no limit. `None` allows as many as the limit of open files.
    pub connections_max: Option<usize>,
    /// The most open connections from one address; 0 for no limit.
    pub connections_per_ip_max: usize,
    /// Bytes for the buffers of all connections, divided evenly among the shards; 0 for no limit. `None` is 512 MiB,
    /// or the least that is permitted, if that is more.
    pub memory_max: Option<usize>,
    /// Bytes of a busy connection's read buffer. One frame may need more: the buffer grows to fit that frame.
    pub read_buffer_max: usize,
    /// The time from the first byte of a frame to its last, without the time in which the server does not read the
    /// connection; zero for no limit.
    pub frame_timeout: Duration,
    /// How long a connection may be silent between frames; zero for no limit.
    pub idle_timeout: Duration,
    /// How long acks may wait for a client that reads none of them; zero for no limit.
    pub write_timeout: Duration,
    /// The least rate, in bytes a second, at which a peer must send or read while its connection holds memory that
    /// others wait for; 0 for no limit.
    pub rate_min: u64,
    /// How long a connection that the server closes is still read from, so that its last acks arrive.
    pub linger_timeout: Duration,
    /// Bytes that are read and discarded in that time.
    pub linger_bytes_max: u64,
    /// How long a shard may give no sign of life before the server ends with an error; zero for never.
    pub stall_timeout: Duration,
    /// The time from the start of a drain until connections that are still open are cut.
    pub drain_timeout: Duration,
    /// Descriptors that the rest of the process may open while the server runs.
    pub reserved_descriptors: ReservedDescriptors,
    /// Called by each shard's thread before it does anything else.
    pub on_thread_start: ThreadHook,
}

/// Descriptors that connections never get, since the rest of the process may need them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReservedDescriptors {
    /// Descriptors in any case.
    pub count: u64,
    /// Descriptors for each listener.
    pub per_listener: u64,
}

/// A function that each shard's thread calls first. The default does nothing.
#[derive(Clone, Default)]
pub struct ThreadHook(Option<Arc<dyn Fn() + Send + Sync>>);

impl ThreadHook {
    /// Returns a hook that calls `function`.
    pub fn new(function: impl Fn() + Send + Sync + 'static) -> Self {
        ThreadHook(Some(Arc::new(function)))
    }

    /// Calls the function.
    pub fn call(&self) {
        if let Some(function) = &self.0 {
            function();
        }
    }
}

impl fmt::Debug for ThreadHook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0.is_some() { "ThreadHook(..)" } else { "ThreadHook(none)" })
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            listen: ListenOptions::default(),
            engine: engine::Options::default(),
            tls: None,
            sink: SinkOptions::Journal(JournalOptions::default()),
            shards: usable_cpus(),
            pin: false,
            balance: true,
            frame_len_max: FRAME_LEN_MAX,
            ack_codes: AckCodes::Spec,
            connections_max: None,
            connections_per_ip_max: 0,
            memory_max: None,
            read_buffer_max: READ_BUFFER_MAX,
            frame_timeout: FRAME_TIMEOUT,
            idle_timeout: Duration::ZERO,
            write_timeout: WRITE_TIMEOUT,
            rate_min: RATE_MIN,
            linger_timeout: LINGER_TIMEOUT,
            linger_bytes_max: LINGER_BYTES_MAX,
            stall_timeout: STALL_TIMEOUT,
            drain_timeout: DRAIN_TIMEOUT,
            reserved_descriptors: ReservedDescriptors::default(),
            on_thread_start: ThreadHook::default(),
        }
    }
}

impl Options {
    /// Sets the addresses to listen on.
    pub fn listen(mut self, addresses: impl IntoIterator<Item = Listen>) -> Self {
        self.listen.addresses = addresses.into_iter().collect();
        self
    }

    /// Makes the server speak TLS.
    pub fn tls(mut self, tls: TlsOptions) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets where messages go.
    pub fn sink(mut self, sink: SinkOptions) -> Self {
        self.sink = sink;
        self
    }

    /// Sets the number of shards.
    pub fn shards(mut self, shards: NonZeroUsize) -> Self {
        self.shards = shards;
        self
    }

    /// Sets the bytes of the largest frame, its 13-byte header included.
    pub fn frame_len_max(mut self, frame_len_max: u32) -> Self {
        self.frame_len_max = frame_len_max;
        self
    }

    /// Sets the most open connections; 0 for no limit.
    pub fn connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = Some(connections_max);
        self
    }

    /// Sets the bytes for the buffers of all connections; 0 for no limit.
    pub fn memory_max(mut self, memory_max: usize) -> Self {
        self.memory_max = Some(memory_max);
        self
    }

    /// Sets the time from the start of a drain until connections that are still open are cut.
    pub fn drain_timeout(mut self, drain_timeout: Duration) -> Self {
        self.drain_timeout = drain_timeout;
        self
    }

    /// Returns the options of the journal, if messages go to one.
    pub fn journal(&self) -> Option<&JournalOptions> {
        match &self.sink {
            SinkOptions::Journal(journal) => Some(journal),
            SinkOptions::Discard => None,
        }
    }

    /// Returns the options of the journal for a change, if messages go to one.
    pub fn journal_mut(&mut self) -> Option<&mut JournalOptions> {
        match &mut self.sink {
            SinkOptions::Journal(journal) => Some(journal),
            SinkOptions::Discard => None,
        }
    }

    /// Checks every option against the others.
    ///
    /// # Errors
    /// The first option whose value is refused.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        if (self.frame_len_max as usize) < HEADER_LEN {
            return Err(frame_len_refused(self.frame_len_max.into()));
        }
        self.listen.validate()?;
        self.engine.validate()?;
        self.tls.as_ref().map_or(Ok(()), TlsOptions::validate)?;
        if !(READ_BUFFER_MIN..=READ_BUFFER_LIMIT).contains(&self.read_buffer_max) {
            let rule = format!("must be from {READ_BUFFER_MIN} bytes to 1 GiB");
            return Err(InvalidOption::new("read_buffer_max", self.read_buffer_max, rule));
        }
        let min = self.memory_min();
        if let Some(memory_max) = self.memory_limit().filter(|memory_max| *memory_max < min) {
            let rule = format!(
                "{} shards need at least {min} bytes: two largest frames or read buffers each; 0 is no limit",
                self.shards
            );
            return Err(InvalidOption::new("memory_max", memory_max, rule));
        }
        if !self.stall_timeout.is_zero() && self.stall_timeout < STALL_TIMEOUT_MIN {
            let rule = format!("must be 0 for never, or at least {STALL_TIMEOUT_MIN:?}");
            return Err(InvalidOption::new("stall_timeout", format_args!("{:?}", self.stall_timeout), rule));
        }
        check_timeouts([
            ("frame_timeout", self.frame_timeout),
            ("idle_timeout", self.idle_timeout),
            ("write_timeout", self.write_timeout),
            ("stall_timeout", self.stall_timeout),
            ("drain_timeout", self.drain_timeout),
            ("linger_timeout", self.linger_timeout),
        ])?;
        self.journal().map_or(Ok(()), |journal| journal.validate(self.shards.get(), self.frame_len_max))
    }

    /// Returns the bytes for the buffers of one shard's connections; `None` without a limit.
    pub fn memory_max_per_shard(&self) -> Option<usize> {
        self.memory_limit().map(|bytes| bytes / self.shards)
    }

    /// Returns the bytes for the buffers of all connections; `None` without a limit.
    pub fn memory_limit(&self) -> Option<usize> {
        let bytes = self.memory_max.unwrap_or_else(|| MEMORY_MAX.max(self.memory_min()));
        (bytes > 0).then_some(bytes)
    }

    /// Returns the most bytes that a connection's read buffer needs for one frame. With TLS, a part of a record may
    /// follow a part of a frame or of a handshake message.
    pub fn input_len_max(&self) -> usize {
        let frame_len_max = self.frame_len_max as usize;
        if self.tls.is_some() { frame_len_max.max(HANDSHAKE_LEN_MAX) + RECORD_LEN_MAX } else { frame_len_max }
    }

    /// Returns the smallest limit of memory that is permitted. A shard keeps room for one frame of the largest size in
    /// reserve, and needs as much for all other frames.
    pub fn memory_min(&self) -> usize {
        let of_shard = self.input_len_max().max(self.read_buffer_max).saturating_mul(2);
        of_shard.saturating_mul(self.shards.get())
    }
}

/// Returns the error of a limit of frames that is refused.
pub fn frame_len_refused(frame_len_max: u64) -> InvalidOption {
    let rule = format!("must be from {HEADER_LEN} to {} bytes, the frame's header included", u32::MAX);
    InvalidOption::new("frame_len_max", frame_len_max, rule)
}

/// Returns the number of CPUs that this process may use, given its affinity and the quota of its control group.
pub fn usable_cpus() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Bytes of a quiet connection's read buffer, and the least that a busy one may have.
pub const READ_BUFFER_MIN: usize = 256;
/// The default of [`Options::read_buffer_max`]: 64 KiB of payloads and their headers.
pub const READ_BUFFER_MAX: usize = 72 << 10;
/// The largest [`Options::read_buffer_max`].
const READ_BUFFER_LIMIT: usize = 1 << 30;
/// The default of [`Options::memory_max`], the reserve of one largest frame per shard included.
pub const MEMORY_MAX: usize = 512 << 20;
/// The default of [`Options::frame_timeout`].
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// The default of [`Options::write_timeout`].
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The default of [`Options::rate_min`].
const RATE_MIN: u64 = 4 << 10;
/// The default of [`Options::linger_timeout`].
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// The default of [`Options::linger_bytes_max`].
const LINGER_BYTES_MAX: u64 = 4 << 20;
/// The default of [`Options::drain_timeout`]. `docker stop` kills after 10 s.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// The default of [`Options::stall_timeout`]. The listener of a shard that serves nothing still draws connections.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest [`Options::stall_timeout`]. A shard gives a sign of life in each sweep, and a busy host may run it
/// late.
pub const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(1);

const _: () = assert!(READ_BUFFER_MIN >= HEADER_LEN && READ_BUFFER_MIN >= ACK_LEN);
const _: () = assert!(READ_BUFFER_MIN <= READ_BUFFER_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Options::default().validate().unwrap();
    }

    #[test]
    fn a_refused_value_is_named_with_its_field() {
        let refused = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        assert!(refused(|o| o.frame_len_max = 12).starts_with("frame_len_max 12: must be from 13"));
        assert!(refused(|o| o.engine.ring_entries = 1000).starts_with("ring_entries 1000"));
        assert!(refused(|o| o.listen.accepts_in_a_row = 0).starts_with("accepts_in_a_row 0"));
        assert!(refused(|o| o.listen.backlog = 0).starts_with("backlog 0"));
        assert!(refused(|o| o.read_buffer_max = 1).starts_with("read_buffer_max 1"));
        assert!(refused(|o| o.memory_max = Some(1 << 20)).starts_with("memory_max 1048576"));
        assert!(refused(|o| o.stall_timeout = Duration::from_millis(500)).starts_with("stall_timeout 500ms"));
        assert!(refused(|o| o.listen.tcp_keepalive = Duration::from_millis(500)).contains("from 1s to 32767 s"));
        assert!(refused(|o| o.listen.tcp_keepalive = Duration::from_secs(32768)).starts_with("tcp_keepalive 32768s"));
        assert!(refused(|o| o.write_timeout = Duration::from_secs(30 * 86_400)).starts_with("write_timeout 2592000s"));
        assert!(refused(|o| o.idle_timeout = Duration::MAX).contains("at most 24 days"));
        assert!(refused(|o| o.listen.addresses.clear()).starts_with("addresses: must name"));
        assert!(refused(|o| o.journal_mut().unwrap().segment_len = 4096).starts_with("segment_len 4096"));
        assert!(refused(|o| o.journal_mut().unwrap().commits_in_flight = 65).contains("from 1 to 64"));
        assert!(refused(|o| o.frame_len_max = (1 << 30) + 1).contains("at most 1 GiB"));
    }

    #[test]
    fn a_sink_without_a_journal_needs_no_valid_journal() {
        let options = Options { frame_len_max: (1 << 30) + 1, ..Options::default() };
        options.sink(SinkOptions::Discard).validate().unwrap();
    }
}
