//! What a server or a command needs to know: every limit with its unit and its default, validated
//! once. It does not know how an option is typed ([`crate::cli`]) or what is done with it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::client::WINDOW_MAX;
use crate::confine::Confine;
use crate::confine::user::UserSpec;
use crate::engine::Choice;
use crate::journal::dir::Access;
use crate::journal::id::SHARDS_MAX;
use crate::journal::options::*;
use crate::journal::retention::Retention;
use crate::journal::{BLOCK_LEN, WriterOptions};
use crate::outbound::{KEEPALIVE, KEEPALIVE_MAX, KEEPALIVE_MIN};
use crate::proto::{AckCodes, FRAME_LEN_MAX, HEADER_LEN};
use crate::server::{READ_BUFFER_MIN, SWEEP_INTERVAL};
use crate::takeover::{self, CONTROL_SOCKET};

/// The port that is served where none is named.
pub const PORT: u16 = 8888;
/// Connections that the kernel queues for one listener; it caps this at `net.core.somaxconn`.
pub const BACKLOG: u32 = 4096;
/// Connections that a shard accepts from one listener before it turns to what else is ready. One a turn
/// would be few: of 1,000 connections that came at once the last then waited 0.7 s.
pub const ACCEPTS_IN_A_ROW: u32 = 64;
/// Submission queue entries of a shard's ring, a power of two.
pub const RING_ENTRIES: u32 = 1024;
/// Bytes of a busy connection's read buffer: 64 KiB of payloads, and their heads. One frame may need more: it
/// grows to fit that frame.
pub const READ_BUFFER_MAX: usize = 72 << 10;
/// Bytes that the buffers of all connections may take, the reserve of one largest frame a shard included.
pub const MEMORY_MAX: usize = 512 << 20;
/// From SIGTERM to the cutting of what still holds on. `docker stop` kills after 10 s.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a connection that the server closes is read from, so that its last acks arrive.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// How many bytes are thrown away in that time.
pub const LINGER_BYTES_MAX: u64 = 4 << 20;
/// From the first byte of a frame to its last, in the time that the server reads the connection.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(30);
/// How long acks may wait for a client that reads none of them.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The least rate, in bytes a second, at which a peer must send or read while its connection holds memory that others
/// wait for.
pub const RATE_MIN: u64 = 4 << 10;
/// The longest that any other wait may be told to last, 24 days: what TCP_USER_TIMEOUT holds, in
/// milliseconds. A clock has no place for every sum of a time and a duration either.
pub const TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);
/// How long before the process ends itself: a listener that nobody serves still draws connections.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest such time. A shard shows itself in each sweep, and a busy host may run it late.
pub const STALL_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// How long a taken address is asked for again: the listeners of a server that was killed live on
/// for up to 12 ms, until the kernel has torn down its rings.
pub const BIND_RETRY: Duration = Duration::from_millis(250);

const _: () = assert!(READ_BUFFER_MIN <= READ_BUFFER_MAX);
const _: () = assert!(RING_ENTRIES.is_power_of_two());
const _: () = assert!(STALL_TIMEOUT_MIN.as_millis() >= 2 * SWEEP_INTERVAL.as_millis());

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// `[::]:8888` for both families, `0.0.0.0:8888` where IPv6 is off.
    Default,
    /// This port of every IPv6 and IPv4 address, or only of IPv4 addresses if IPv6 is off.
    Every(u16),
    /// Exactly this one; an IPv6 address takes no IPv4.
    Address(SocketAddr),
}

impl Listen {
    /// The addresses to try, in order, and whether each is to take both families.
    pub fn candidates(self) -> Vec<(SocketAddr, bool)> {
        match self {
            Listen::Default => Listen::Every(PORT).candidates(),
            Listen::Every(port) => {
                vec![((Ipv6Addr::UNSPECIFIED, port).into(), true), ((Ipv4Addr::UNSPECIFIED, port).into(), false)]
            }
            Listen::Address(address) => vec![(address, false)],
        }
    }
}

/// What takes the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SinkKind {
    /// Acks a message with 0 once it is on disk, in the journal under --data-dir.
    Journal,
    /// Acks every message with 0 and throws it away.
    Discard,
}

/// What `serve` needs.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub listen: Vec<Listen>,
    /// What the shards run on.
    pub engine: Choice,
    /// Shards: threads, each with one listener an address.
    pub workers: NonZeroUsize,
    /// Whether each shard stays on a CPU of its own.
    pub pin: bool,
    /// Whether connections go to the shard that has the fewest.
    pub balance: bool,
    pub backlog: u32,
    pub frame_len_max: u32,
    pub ack_codes: AckCodes,
    pub sink: SinkKind,
    /// Where the journal is kept.
    pub data_dir: PathBuf,
    /// Bytes of a segment of it.
    pub segment_len: u64,
    /// Free bytes of its file system below which it takes no more.
    pub min_free: u64,
    /// Commits that a shard writes at once.
    pub commits_in_flight: usize,
    /// Bytes that a shard gathers and writes before it accepts no more. `None` means [`BYTES_MAX`], or what a
    /// memory limit allows.
    pub journal_memory: Option<usize>,
    /// What of it is kept.
    pub retention: Retention,
    /// The users who may read the journal besides the server's own.
    pub journal_access: Access,
    /// Most connections at once, 0 for no limit; none: what the limit of open files leaves.
    pub connections_max: Option<usize>,
    /// The same from one address, 0 for no limit.
    pub connections_per_ip_max: usize,
    /// Bytes for the buffers of all connections, divided evenly among the shards; 0 for no limit. `None` means
    /// [`MEMORY_MAX`], or what a memory limit allows.
    pub memory_max: Option<usize>,
    /// These three timeouts, and the keepalive: zero is off.
    pub frame_timeout: Duration,
    pub idle_timeout: Duration,
    pub write_timeout: Duration,
    /// The least rate, in bytes a second, of a peer whose connection holds memory that others wait for; 0 is off.
    pub rate_min: u64,
    pub tcp_keepalive: Duration,
    /// Zero is off.
    pub stall_timeout: Duration,
    /// How long the server keeps serving, though not ready, before it drains.
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
    pub linger_timeout: Duration,
    pub linger_bytes_max: u64,
    pub accepts_in_a_row: u32,
    pub ring_entries: u32,
    pub read_buffer_max: usize,
    pub bind_retry: Duration,
    /// Where `/metrics`, `/healthz` and `/readyz` are served, if anywhere.
    pub admin: Option<SocketAddr>,
    /// Whether landlock keeps it from other files.
    pub confine: Confine,
    /// Whom root becomes; none: nobody else.
    pub user: Option<UserSpec>,
    /// Whether to take over from a running server.
    pub takeover: bool,
    /// Where it is asked, and where this one can be; none: in the data directory, if there is a journal.
    pub control: Option<PathBuf>,
    /// How long each side of a takeover waits for each word of the other.
    pub takeover_timeout: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            listen: vec![Listen::Default],
            engine: Choice::Auto,
            workers: default_workers(),
            pin: false,
            balance: true,
            backlog: BACKLOG,
            frame_len_max: FRAME_LEN_MAX,
            ack_codes: AckCodes::Spec,
            sink: SinkKind::Journal,
            data_dir: DATA_DIR.into(),
            segment_len: SEGMENT_LEN,
            min_free: MIN_FREE,
            commits_in_flight: COMMITS_IN_FLIGHT,
            journal_memory: None,
            retention: Retention::default(),
            journal_access: Access::default(),
            connections_max: None,
            connections_per_ip_max: 0,
            memory_max: None,
            frame_timeout: FRAME_TIMEOUT,
            idle_timeout: Duration::ZERO,
            write_timeout: WRITE_TIMEOUT,
            rate_min: RATE_MIN,
            tcp_keepalive: KEEPALIVE,
            stall_timeout: STALL_TIMEOUT,
            drain_delay: Duration::ZERO,
            drain_timeout: DRAIN_TIMEOUT,
            linger_timeout: LINGER_TIMEOUT,
            linger_bytes_max: LINGER_BYTES_MAX,
            accepts_in_a_row: ACCEPTS_IN_A_ROW,
            ring_entries: RING_ENTRIES,
            read_buffer_max: READ_BUFFER_MAX,
            bind_retry: BIND_RETRY,
            admin: None,
            confine: Confine::Auto,
            user: None,
            takeover: false,
            control: None,
            takeover_timeout: takeover::TIMEOUT,
        }
    }
}

/// A setting that can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("--max-frame {asked}: a frame has at least {HEADER_LEN} bytes, and at most 4294967295")]
    FrameLenMax { asked: u64 },
    #[error("--ring-entries {asked}: the kernel takes powers of two from 1 to 32768")]
    RingEntries { asked: u32 },
    #[error("--accepts {asked}: at least 1")]
    AcceptsInARow { asked: u32 },
    #[error("--backlog {asked}: from 1 to 2147483647")]
    Backlog { asked: u32 },
    #[error("--read-buffer {asked}: from {READ_BUFFER_MIN} bytes to 1 GiB")]
    ReadBufferMax { asked: u64 },
    #[error(
        "--max-memory {asked}: {workers} workers need at least {min} bytes, two largest frames or read buffers each; \
         0 is no limit"
    )]
    MemoryMax { asked: usize, workers: usize, min: usize },
    #[error("--stall-timeout {asked:?}: 0 for never, or from {STALL_TIMEOUT_MIN:?}")]
    StallTimeout { asked: Duration },
    #[error("--segment-size {asked}: a multiple of 4096 bytes, at least {min} with this --max-frame")]
    SegmentLen { asked: u64, min: u64 },
    #[error("--max-frame {asked}: a journal takes frames of up to 1 GiB; take less, or --sink discard")]
    FrameTooLargeForJournal { asked: u32 },
    #[error("--commits-in-flight {asked}: from 1 to {COMMITS_IN_FLIGHT_MAX}")]
    CommitsInFlight { asked: usize },
    #[error("--journal-memory {asked}: at least {READ_BUFFER_MAX} bytes")]
    JournalMemory { asked: usize },
    #[error("--workers {asked}: a journal has at most {SHARDS_MAX} writers a start; take less, or --sink discard")]
    TooManyWriters { asked: usize },
    #[error(
        "--tcp-keepalive {asked:?}: 0 for never, or from {KEEPALIVE_MIN:?} to {} s",
        KEEPALIVE_MAX.as_secs()
    )]
    TcpKeepalive { asked: Duration },
    #[error("{option} {asked:?}: at most {} days", TIMEOUT_MAX.as_secs() / 86_400)]
    Timeout { option: &'static str, asked: Duration },
    #[error(
        "--takeover: without a journal there is no {CONTROL_SOCKET} in its directory to ask on; name the running \
         server's socket with --control"
    )]
    NoControl,
    #[error("--takeover-timeout 0s: how long to wait for the other server, more than 0")]
    NoTakeoverTimeout,
    #[error("no address to listen on: name one with --listen")]
    NoAddress,
    #[error("--window {asked}: from 1 to {WINDOW_MAX} requests")]
    Window { asked: usize },
}

impl ServerConfig {
    /// What each shard's writer of the journal needs.
    pub fn writer_options(&self) -> WriterOptions {
        let frame = WriterOptions::commit_len_for(self.frame_len_max as usize - HEADER_LEN);
        WriterOptions {
            segment_len: self.segment_len,
            commit_len_max: frame.max(COMMIT_LEN_MAX),
            commits_in_flight: self.commits_in_flight,
            bytes_max: self.journal_memory(),
            min_free: self.min_free,
            space_interval: SPACE_INTERVAL,
            roll_age: self.retention.roll_age(),
        }
    }

    /// Checks every setting against the others.
    ///
    /// # Errors
    /// The first one that can't be, with what can.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if (self.frame_len_max as usize) < HEADER_LEN {
            return Err(ConfigError::FrameLenMax { asked: self.frame_len_max.into() });
        }
        if !self.ring_entries.is_power_of_two() || self.ring_entries > 1 << 15 {
            return Err(ConfigError::RingEntries { asked: self.ring_entries });
        }
        if self.accepts_in_a_row == 0 {
            return Err(ConfigError::AcceptsInARow { asked: self.accepts_in_a_row });
        }
        if self.backlog == 0 || i32::try_from(self.backlog).is_err() {
            return Err(ConfigError::Backlog { asked: self.backlog });
        }
        if !(READ_BUFFER_MIN..=1 << 30).contains(&self.read_buffer_max) {
            return Err(ConfigError::ReadBufferMax { asked: self.read_buffer_max as u64 });
        }
        let min = self.memory_min();
        if let Some(asked) = self.memory_max().filter(|asked| *asked < min) {
            return Err(ConfigError::MemoryMax { asked, workers: self.workers.get(), min });
        }
        if !self.stall_timeout.is_zero() && self.stall_timeout < STALL_TIMEOUT_MIN {
            return Err(ConfigError::StallTimeout { asked: self.stall_timeout });
        }
        check_keepalive(self.tcp_keepalive)?;
        let timeouts = [
            ("--frame-timeout", self.frame_timeout),
            ("--idle-timeout", self.idle_timeout),
            ("--write-timeout", self.write_timeout),
            ("--stall-timeout", self.stall_timeout),
            ("--drain-delay", self.drain_delay),
            ("--drain-timeout", self.drain_timeout),
            ("--linger-timeout", self.linger_timeout),
            ("--bind-retry", self.bind_retry),
            ("--takeover-timeout", self.takeover_timeout),
        ];
        if let Some(&(option, asked)) = timeouts.iter().find(|(_, asked)| *asked > TIMEOUT_MAX) {
            return Err(ConfigError::Timeout { option, asked });
        }
        if self.takeover_timeout.is_zero() {
            return Err(ConfigError::NoTakeoverTimeout);
        }
        if self.takeover && self.control_path().is_none() {
            return Err(ConfigError::NoControl);
        }
        if self.listen.is_empty() {
            return Err(ConfigError::NoAddress);
        }
        match self.sink {
            SinkKind::Journal => self.validate_journal(),
            SinkKind::Discard => Ok(()),
        }
    }

    fn validate_journal(&self) -> Result<(), ConfigError> {
        if self.frame_len_max > 1 << 30 {
            return Err(ConfigError::FrameTooLargeForJournal { asked: self.frame_len_max });
        }
        let options = self.writer_options();
        let min = options.segment_len_min();
        if options.segment_len < min || !options.segment_len.is_multiple_of(BLOCK_LEN as u64) {
            return Err(ConfigError::SegmentLen { asked: self.segment_len, min });
        }
        if !(1..=COMMITS_IN_FLIGHT_MAX).contains(&self.commits_in_flight) {
            return Err(ConfigError::CommitsInFlight { asked: self.commits_in_flight });
        }
        if self.journal_memory() < READ_BUFFER_MAX {
            return Err(ConfigError::JournalMemory { asked: self.journal_memory() });
        }
        if self.workers.get() > SHARDS_MAX {
            return Err(ConfigError::TooManyWriters { asked: self.workers.get() });
        }
        Ok(())
    }

    /// Where the control socket is, if there is to be one.
    pub fn control_path(&self) -> Option<PathBuf> {
        let in_data_dir = (self.sink == SinkKind::Journal).then(|| self.data_dir.join(CONTROL_SOCKET));
        self.control.clone().or(in_data_dir)
    }

    /// Bytes for the buffers of one shard's connections, unless that is without a limit.
    pub fn memory_max_per_shard(&self) -> Option<usize> {
        self.memory_max().map(|bytes| bytes / self.workers)
    }

    /// Bytes for the buffers of all connections; `None` without a limit.
    pub fn memory_max(&self) -> Option<usize> {
        let bytes = self.memory_max.unwrap_or_else(|| MEMORY_MAX.max(self.memory_min()));
        (bytes > 0).then_some(bytes)
    }

    /// The smallest limit that is of use: a shard keeps room for one frame of the largest size in reserve, and needs as
    /// much for all other frames.
    pub fn memory_min(&self) -> usize {
        let of_shard = (self.frame_len_max as usize).max(self.read_buffer_max).saturating_mul(2);
        of_shard.saturating_mul(self.workers.get())
    }

    /// Bytes that a shard's journal gathers and writes before it accepts no more.
    pub fn journal_memory(&self) -> usize {
        self.journal_memory.unwrap_or(BYTES_MAX)
    }
}

/// Checks the keepalive of the server or of a client. Zero is off.
///
/// # Errors
/// Linux does not accept it.
pub fn check_keepalive(asked: Duration) -> Result<(), ConfigError> {
    if asked.is_zero() || (KEEPALIVE_MIN..=KEEPALIVE_MAX).contains(&asked) {
        return Ok(());
    }
    Err(ConfigError::TcpKeepalive { asked })
}

/// The CPUs that this process may use: affinity and cgroup quota counted.
pub fn default_workers() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        ServerConfig::default().validate().unwrap();
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_option() {
        let refused = |change: fn(&mut ServerConfig)| {
            let mut config = ServerConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(refused(|c| c.frame_len_max = 12).starts_with("--max-frame 12"));
        assert!(refused(|c| c.ring_entries = 1000).starts_with("--ring-entries 1000"));
        assert!(refused(|c| c.accepts_in_a_row = 0).starts_with("--accepts 0"));
        assert!(refused(|c| c.backlog = 0).starts_with("--backlog 0"));
        assert!(refused(|c| c.read_buffer_max = 1).starts_with("--read-buffer 1"));
        assert!(refused(|c| c.memory_max = Some(1 << 20)).starts_with("--max-memory 1048576"));
        assert!(refused(|c| c.stall_timeout = Duration::from_millis(500)).starts_with("--stall-timeout 500ms"));
        assert!(refused(|c| c.tcp_keepalive = Duration::from_millis(500)).contains("from 1s to 32767 s"));
        assert!(refused(|c| c.tcp_keepalive = Duration::from_secs(32768)).starts_with("--tcp-keepalive 32768s"));
        assert!(
            refused(|c| c.write_timeout = Duration::from_secs(30 * 86_400)).starts_with("--write-timeout 2592000s")
        );
        assert!(refused(|c| c.idle_timeout = Duration::MAX).contains("at most 24 days"));
        assert!(refused(|c| c.listen.clear()).contains("--listen"));
    }
}
