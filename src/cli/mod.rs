//! What can be typed. Each option's help stands with it; `into_config` turns a command's options
//! into what [`crate::config`] needs. Every option can also be given as `RINGPOST_...` in the
//! environment.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{self, ConfigError, Listen, ServerConfig, SinkKind};
use crate::confine::Confine;
use crate::confine::user::UserSpec;
use crate::engine::Choice;
use crate::journal::dir::Access;
use crate::journal::options;
use crate::journal::retention::Retention;
use crate::load::Outputs;
use crate::load::plan::{self, Io, Mode, PayloadSizes, Plan, PlanError};
use crate::proto::AckCodes;
use crate::{client, healthcheck};

/// Takes messages in over TCP and acks each one, on one io_uring per core.
#[derive(Debug, Parser)]
#[command(name = "ringpost", version = about::VERSION, long_version = about::BUILD)]
#[command(max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogOptions,
}

const AFTER_HELP: &str = "\
Durations take units (500ms, 2s, 1m), sizes too (512, 64KiB, 1MiB). Each option is also an environment \
variable, named beside it. There an empty value counts as unset, a duration without a unit is in seconds, \
options that repeat accept commas, and flags accept 1/0, yes/no, on/off or true/false.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server, until SIGTERM or SIGINT.
    Serve(Serve),
    /// Look at this host and say what stands in the way of `serve` with these options, and what mends it.
    /// Exit code 1 if `serve` would not start. Changes nothing.
    Doctor(Doctor),
    /// Send each line of a file as one message and count the acks.
    Submit(Submit),
    /// Load a server, check every ack, and report rates and latencies.
    Bench(Bench),
    /// Read and check a journal, while a server runs or not.
    Journal {
        #[command(subcommand)]
        command: JournalCommand,
    },
    /// Ask a server's admin address whether it is well: exit code 0 if it is.
    Health(Health),
    /// Write completions for a shell to stdout.
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write the man page to stdout, or one page for each command into a directory.
    Man {
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
    },
}

pub use address::ListenAddresses;
pub use doctor::Doctor;
pub use environment::{name_variables, parse};
pub use journal::JournalCommand;
pub mod about;
mod address;
mod doctor;
mod environment;
mod journal;

/// How to log. Logs go to stderr.
#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// How log lines look
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "RINGPOST_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// The least severe lines that are logged
    #[arg(long, global = true, value_enum, default_value_t = LogLevel::Info, env = "RINGPOST_LOG_LEVEL")]
    pub log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Error,
    #[value(alias = "warning")]
    Warn,
    Info,
    Debug,
    Trace,
}

/// Options of `ringpost serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on: IP:PORT, localhost:PORT, or :PORT for every IPv6 and IPv4 address (the
    /// address :: accepts IPv6 only); may be given more than once; port 0 uses a free one
    /// [default: port 8888 of every IPv6 and IPv4 address, of IPv4 alone where IPv6 is off]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', env = "RINGPOST_LISTEN")]
    pub listen: Vec<ListenAddresses>,
    /// What the server runs on
    #[arg(long, value_enum, default_value_t = Choice::Auto, env = "RINGPOST_ENGINE")]
    pub engine: Choice,
    /// Threads, each with a listener, and a ring of its own
    /// [default: the CPUs that this process may use]
    #[arg(long, value_name = "N", env = "RINGPOST_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// Keep each worker on a CPU of its own
    #[arg(long, env = "RINGPOST_PIN")]
    pub pin: bool,
    /// Have each connection served by the worker that has the fewest, whichever accepted it
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        env = "RINGPOST_BALANCE"
    )]
    pub balance: bool,
    /// Connections that the kernel queues for each listener (capped by net.core.somaxconn)
    #[arg(long, value_name = "N", default_value_t = config::BACKLOG, env = "RINGPOST_BACKLOG")]
    pub backlog: u32,
    /// Largest frame taken, its 13-byte head included; a larger one is acked 1 and costs its connection
    #[arg(long, value_name = "SIZE", default_value = "1MiB", env = "RINGPOST_MAX_FRAME")]
    pub max_frame: ByteSize,
    /// Where messages go, and so what an ack means
    #[arg(long, value_enum, default_value_t = SinkKind::Journal, env = "RINGPOST_SINK")]
    pub sink: SinkKind,
    /// Directory of the journal; made if there is none
    #[arg(long, value_name = "DIR", default_value = options::DATA_DIR, env = "RINGPOST_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Size of a journal's segment; each worker has one and the next ready
    #[arg(long, value_name = "SIZE", default_value = "64MiB", env = "RINGPOST_SEGMENT_SIZE")]
    pub segment_size: ByteSize,
    /// Free space below which the journal acks messages with 1, until there is more again
    #[arg(long, value_name = "SIZE", default_value = "64MiB", env = "RINGPOST_MIN_FREE")]
    pub min_free: ByteSize,
    /// Commits of the journal that each worker writes at once
    #[arg(long, value_name = "N", default_value_t = options::COMMITS_IN_FLIGHT, env = "RINGPOST_COMMITS_IN_FLIGHT")]
    pub commits_in_flight: usize,
    /// Bytes that each worker gathers and writes before it reads no more
    /// [default: 8MiB, or less to fit the memory limit of a control group]
    #[arg(long, value_name = "SIZE", env = "RINGPOST_JOURNAL_MEMORY")]
    pub journal_memory: Option<ByteSize>,
    /// How many bytes of messages to keep, 0 for all: the oldest segments are removed, never one that is written to.
    /// Each worker also has the unused rest of its segment, and the next segment
    /// [default: all]
    #[arg(long, value_name = "SIZE", env = "RINGPOST_RETAIN_BYTES")]
    pub retain_bytes: Option<ByteSize>,
    /// How long to keep messages, 0 for ever: a segment is removed once its last message is older. Also on a quiet
    /// server, a worker starts a new segment after an eighth of this time, 5s or more
    /// [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, env = "RINGPOST_RETAIN_AGE")]
    pub retain_age: Option<Duration>,
    /// Let the journal's group read it too: directories 0750 and files 0640 instead of 0700 and 0600, whatever the
    /// umask. An existing data directory keeps its mode
    #[arg(long, env = "RINGPOST_ALLOW_GROUP_ACCESS")]
    pub allow_group_access: bool,
    /// Commands that acks bear: 0x81 and 0x82 (spec), or 0x80 and 0x81 for clients built from the
    /// published reference sources
    #[arg(long, value_enum, default_value_t = AckCodes::Spec, env = "RINGPOST_ACK_CODES")]
    pub ack_codes: AckCodes,
    /// Most connections at once, 0 for no limit; one more is accepted, closed and counted
    /// [default: as many as the limit of open files allows beside the server's own files, which is the most in any
    /// case, and as fit the memory limit of a control group]
    #[arg(long, value_name = "N", env = "RINGPOST_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Most connections at once from one address, 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0, env = "RINGPOST_MAX_CONNECTIONS_PER_IP")]
    pub max_connections_per_ip: usize,
    /// What the buffers of all connections may take together, 0 for no limit; each worker has an even part,
    /// one largest frame of it in reserve. At the limit a connection that needs more waits, unread
    /// [default: 512MiB, or less to fit the memory limit of a control group]
    #[arg(long, value_name = "SIZE", env = "RINGPOST_MAX_MEMORY")]
    pub max_memory: Option<ByteSize>,
    /// From the first byte of a frame to its last, 0 for no limit; time in which the server does not
    /// read the connection does not count
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s", env = "RINGPOST_FRAME_TIMEOUT")]
    pub frame_timeout: Duration,
    /// How long a connection may be silent between frames, 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0", env = "RINGPOST_IDLE_TIMEOUT")]
    pub idle_timeout: Duration,
    /// How long acks may wait for a client that reads none of them, 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s", env = "RINGPOST_WRITE_TIMEOUT")]
    pub write_timeout: Duration,
    /// Least rate in bytes a second, over 5 s, of a client whose connection holds memory that others wait for; a
    /// slower one is closed; 0 for no limit
    #[arg(long, value_name = "SIZE", default_value = "4KiB", env = "RINGPOST_MIN_RATE")]
    pub min_rate: ByteSize,
    /// How long a connection is silent before its peer is asked whether it is still there, 0 for never,
    /// else 1s or more
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s", env = "RINGPOST_TCP_KEEPALIVE")]
    pub tcp_keepalive: Duration,
    /// How long a worker may give no sign of life before the process ends itself with exit code 3, 0 for
    /// never; /healthz says it after 2 s
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5s", env = "RINGPOST_STALL_TIMEOUT")]
    pub stall_timeout: Duration,
    /// How long to keep serving after the first SIGTERM or SIGINT, with 503 from /readyz so that load balancers
    /// send no new clients; then the drain begins. A second signal begins it early
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "0", env = "RINGPOST_DRAIN_DELAY")]
    pub drain_delay: Duration,
    /// Time from the start of the drain until connections that are still open are cut
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "8s", env = "RINGPOST_DRAIN_TIMEOUT")]
    pub drain_timeout: Duration,
    /// How long a connection that the server closes is still read from, so that its last acks arrive
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2s", env = "RINGPOST_LINGER_TIMEOUT")]
    pub linger_timeout: Duration,
    /// How many bytes are read and thrown away in that time
    #[arg(long, value_name = "SIZE", default_value = "4MiB", env = "RINGPOST_LINGER_BYTES")]
    pub linger_bytes: ByteSize,
    /// Largest read buffer of a busy connection (one frame may need more); a quiet one has 256 bytes
    #[arg(long, value_name = "SIZE", default_value = "72KiB", env = "RINGPOST_READ_BUFFER")]
    pub read_buffer: ByteSize,
    /// Connections that a worker accepts from one listener before it turns to what else is ready
    #[arg(long, value_name = "N", default_value_t = config::ACCEPTS_IN_A_ROW, env = "RINGPOST_ACCEPTS")]
    pub accepts: u32,
    /// Submission queue entries of each ring, a power of two
    #[arg(long, value_name = "N", default_value_t = config::RING_ENTRIES, env = "RINGPOST_RING_ENTRIES")]
    pub ring_entries: u32,
    /// How long to ask again for an address that is taken
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "250ms", env = "RINGPOST_BIND_RETRY")]
    pub bind_retry: Duration,
    /// Address of /metrics, /healthz and /readyz; port 0 takes a free one; the log says which
    /// [default: off]
    #[arg(long, value_name = "ADDR", value_parser = address::admin, env = "RINGPOST_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// Keep the server, by landlock, from every file that it has no use for (all but its data directory), from
    /// TCP connections to others, and from signals to others
    #[arg(long, value_enum, num_args = 0..=1, default_value_t = Confine::Auto, default_missing_value = "on", env = "RINGPOST_CONFINE")]
    pub confine: Confine,
    /// Started as root, become this user for good before anything is served; names are looked up in
    /// /etc/passwd and /etc/group. A data directory that is not there is made for that user
    /// [default: stay who starts it]
    #[arg(long, value_name = "NAME|UID[:GROUP|:GID]", env = "RINGPOST_USER")]
    pub user: Option<UserSpec>,
    /// Take over from the running server that answers on --control: its sockets, never closed; then it
    /// drains and ends. Without --listen, whatever it listens on. An error if none runs
    #[arg(long, env = "RINGPOST_TAKEOVER")]
    pub takeover: bool,
    /// Unix socket on which a server can be taken over, for its user and root alone
    /// [default: control.sock in the data directory; none without a journal]
    #[arg(long, value_name = "PATH", env = "RINGPOST_CONTROL")]
    pub control: Option<PathBuf>,
    /// How long each side of a takeover waits for each word of the other; the new one opens its journal
    /// meanwhile. Who waited in vain goes on as if nothing had happened
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s", env = "RINGPOST_TAKEOVER_TIMEOUT")]
    pub takeover_timeout: Duration,
}

impl Serve {
    /// The server's configuration, validated.
    ///
    /// # Errors
    /// An option's value can't be; the error names it and says what can.
    pub fn into_config(self) -> Result<ServerConfig, ConfigError> {
        let listen = if self.listen.is_empty() {
            vec![Listen::Default]
        } else {
            self.listen.into_iter().flat_map(|ListenAddresses(addresses)| addresses).collect()
        };
        let max_frame = self.max_frame.as_u64();
        let config = ServerConfig {
            listen,
            engine: self.engine,
            workers: self.workers.unwrap_or_else(config::default_workers),
            pin: self.pin,
            balance: self.balance,
            backlog: self.backlog,
            frame_len_max: u32::try_from(max_frame).map_err(|_| ConfigError::FrameLenMax { asked: max_frame })?,
            ack_codes: self.ack_codes,
            sink: self.sink,
            data_dir: self.data_dir,
            segment_len: self.segment_size.as_u64(),
            min_free: self.min_free.as_u64(),
            commits_in_flight: self.commits_in_flight,
            journal_memory: self.journal_memory.map(|size| usize::try_from(size.as_u64()).unwrap_or(usize::MAX)),
            journal_access: if self.allow_group_access { Access::Group } else { Access::Owner },
            retention: Retention { bytes_max: self.retain_bytes.map(|size| size.as_u64()), age_max: self.retain_age },
            connections_max: self.max_connections,
            connections_per_ip_max: self.max_connections_per_ip,
            memory_max: self.max_memory.map(|size| usize::try_from(size.as_u64()).unwrap_or(usize::MAX)),
            frame_timeout: self.frame_timeout,
            idle_timeout: self.idle_timeout,
            write_timeout: self.write_timeout,
            rate_min: self.min_rate.as_u64(),
            tcp_keepalive: self.tcp_keepalive,
            stall_timeout: self.stall_timeout,
            drain_delay: self.drain_delay,
            drain_timeout: self.drain_timeout,
            linger_timeout: self.linger_timeout,
            linger_bytes_max: self.linger_bytes.as_u64(),
            accepts_in_a_row: self.accepts,
            ring_entries: self.ring_entries,
            read_buffer_max: usize::try_from(self.read_buffer.as_u64()).unwrap_or(usize::MAX),
            bind_retry: self.bind_retry,
            admin: self.admin,
            confine: self.confine,
            user: self.user,
            takeover: self.takeover,
            control: self.control,
            takeover_timeout: self.takeover_timeout,
        };
        config.validate()?;
        Ok(config)
    }
}

/// Options of `ringpost submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// Server to send to, as HOST:PORT
    #[arg(long, value_name = "ADDR", value_parser = address::server, default_value = "localhost:8888", env = "RINGPOST_ADDR")]
    pub addr: String,
    /// File whose lines are sent; standard input where none is named
    pub file: Option<PathBuf>,
    /// Requests on their way at once
    #[arg(long, value_name = "N", default_value_t = client::WINDOW, env = "RINGPOST_WINDOW")]
    pub window: usize,
    /// How long to wait for the connection; 0 leaves it to the kernel
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5s", env = "RINGPOST_CONNECT_TIMEOUT")]
    pub connect_timeout: Duration,
    /// How long neither an ack may come nor a byte be written before the run ends; 0 waits for ever
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "30s", env = "RINGPOST_TIMEOUT")]
    pub timeout: Duration,
    /// How long the connection may be silent before the kernel probes the server's host, 0 for never, else 1s or
    /// more; without an answer the run ends half of that time later
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "60s", env = "RINGPOST_TCP_KEEPALIVE")]
    pub tcp_keepalive: Duration,
    /// Largest frame sent, its 13-byte head included; a longer line ends the run (the server's own
    /// --max-frame holds too)
    #[arg(long, value_name = "SIZE", default_value = "1MiB", env = "RINGPOST_MAX_FRAME")]
    pub max_frame: ByteSize,
    /// Commands that the server's acks bear
    #[arg(long, value_enum, default_value_t = AckCodes::Spec, env = "RINGPOST_ACK_CODES")]
    pub ack_codes: AckCodes,
}

/// Options of `ringpost health`.
#[derive(Debug, Args)]
pub struct Health {
    /// The admin address of the server
    #[arg(long, value_name = "ADDR", value_parser = address::admin_of_server, default_value_t = healthcheck::ADMIN_ADDRESS, env = "RINGPOST_ADMIN")]
    pub admin: SocketAddr,
    /// Ask whether it takes new connections (/readyz), not only whether it is well (/healthz)
    #[arg(long, env = "RINGPOST_READY")]
    pub ready: bool,
    /// How long the answer may take
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "2s", env = "RINGPOST_HEALTH_TIMEOUT")]
    pub timeout: Duration,
}

/// Options of `ringpost bench`. Without --rate, --churn, --idle or --find-knee each connection sends
/// its next request when its window has room (a closed loop).
#[derive(Debug, Args)]
pub struct Bench {
    /// Server to load, as HOST:PORT
    #[arg(long, value_name = "ADDR", value_parser = address::server, default_value = "localhost:8888", env = "RINGPOST_ADDR")]
    pub addr: String,
    /// Connections, over all threads; with --churn, those that are open at a time
    #[arg(long, value_name = "N", default_value_t = plan::CONNECTIONS, env = "RINGPOST_CONNECTIONS")]
    pub connections: usize,
    /// Requests on their way at once on each connection; one with --churn and --idle
    #[arg(long, value_name = "N", default_value_t = plan::WINDOW, env = "RINGPOST_WINDOW")]
    pub window: usize,
    /// Requests due each second, over all connections, whatever the server does (an open loop).
    /// Latency counts from when a request was due. With --find-knee, the first rate that is tried
    #[arg(long, value_name = "N", env = "RINGPOST_RATE")]
    pub rate: Option<u64>,
    /// Connect, send one request, await its ack, close, and again; latency counts from the connect
    #[arg(long, conflicts_with_all = ["rate", "idle", "find_knee"], env = "RINGPOST_CHURN")]
    pub churn: bool,
    /// Open so many connections with one request each, hold them for --duration, and ask each again
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "find_knee"], env = "RINGPOST_IDLE")]
    pub idle: Option<usize>,
    /// Raise the rate until p99 passes --slo or the rate is not met, --duration at each, and name
    /// the last good one
    #[arg(long, env = "RINGPOST_FIND_KNEE")]
    pub find_knee: bool,
    /// The p99 latency that --find-knee allows
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5ms", env = "RINGPOST_SLO")]
    pub slo: Duration,
    /// Bytes of each payload: one size, or a range that sizes are drawn from (16..16384)
    #[arg(long, value_name = "SIZE", default_value = "32", env = "RINGPOST_PAYLOAD")]
    pub payload: PayloadSizes,
    /// How long to measure
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "10s", env = "RINGPOST_DURATION")]
    pub duration: Duration,
    /// How long to load the server before that; acks are checked, latencies don't count
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "1s", env = "RINGPOST_WARMUP")]
    pub warmup: Duration,
    /// Threads that share the connections
    #[arg(long, value_name = "N", default_value_t = 1, env = "RINGPOST_THREADS")]
    pub threads: usize,
    /// How long to wait for missing acks at the end; with --idle, how long to wait for each ack
    #[arg(long, value_name = "TIME", value_parser = parse_duration, default_value = "5s", env = "RINGPOST_ACK_TIMEOUT")]
    pub ack_timeout: Duration,
    /// Commands that the server's acks bear
    #[arg(long, value_enum, default_value_t = AckCodes::Spec, env = "RINGPOST_ACK_CODES")]
    pub ack_codes: AckCodes,
    /// How the connections of a closed or an open loop are driven
    #[arg(long, value_enum, default_value_t = Io::Auto, env = "RINGPOST_IO")]
    pub io: Io,
    /// The server's process on this host: reports its CPU time per request and its memory
    #[arg(long, value_name = "PID", env = "RINGPOST_PID")]
    pub pid: Option<u32>,
    /// Begin each payload with run, connection and send number (24 bytes), and keep here what was sent and
    /// what was acked, for `journal check`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["idle", "find_knee"], env = "RINGPOST_LEDGER")]
    pub ledger: Option<PathBuf>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE", env = "RINGPOST_JSON")]
    pub json: Option<PathBuf>,
    /// Write the time series as CSV, a line a second
    #[arg(long, value_name = "FILE", env = "RINGPOST_CSV")]
    pub csv: Option<PathBuf>,
    /// Write the report as one page with its charts, that needs nothing else
    #[arg(long, value_name = "FILE", env = "RINGPOST_HTML")]
    pub html: Option<PathBuf>,
}

impl Bench {
    /// What to do and where to write it, validated.
    ///
    /// # Errors
    /// An option's value can't be; the error names it and says what can.
    pub fn into_plan(self) -> Result<(Plan, Outputs), PlanError> {
        let mode = match (self.rate, self.idle) {
            (rate, _) if self.find_knee => {
                Mode::Knee { rate_first: rate.unwrap_or(plan::KNEE_RATE_FIRST), slo: self.slo }
            }
            (Some(rate), _) => Mode::Open { rate },
            (_, Some(connections)) => Mode::Idle { connections },
            _ if self.churn => Mode::Churn,
            _ => Mode::Closed,
        };
        let plan = Plan {
            addr: self.addr,
            mode,
            connections: self.connections,
            window: self.window,
            payload: self.payload,
            duration: self.duration,
            warmup: self.warmup,
            threads: self.threads,
            ack_timeout: self.ack_timeout,
            ack_codes: self.ack_codes,
            io: self.io,
            pid: self.pid,
            ledger: self.ledger,
        };
        plan.validate()?;
        Ok((plan, Outputs { json: self.json, csv: self.csv, html: self.html }))
    }
}

impl ValueEnum for AckCodes {
    fn value_variants<'a>() -> &'a [Self] {
        &[AckCodes::Spec, AckCodes::Published]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            AckCodes::Spec => "spec",
            AckCodes::Published => "published",
        }))
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a number and a unit: 500ms, 2s, 1m"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::{outbound, submit};

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn typed_defaults_are_those_of_the_configuration() {
        let Command::Serve(serve) = Cli::parse_from(["ringpost", "serve"]).command else { panic!("serve") };
        let config = serve.into_config().unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", ServerConfig::default()));
        let Command::Submit(submit) = Cli::parse_from(["ringpost", "submit"]).command else { panic!("submit") };
        assert_eq!(submit.connect_timeout, client::CONNECT_TIMEOUT);
        assert_eq!(submit.timeout, submit::TIMEOUT);
        assert_eq!(submit.tcp_keepalive, outbound::KEEPALIVE);
        assert_eq!(submit.max_frame.as_u64(), u64::from(crate::proto::FRAME_LEN_MAX));
    }

    #[test]
    fn durations_take_units_and_zero() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        assert!(parse_duration("5").unwrap_err().contains("500ms"));
    }
}
