//! The options of `ringpost serve` and `ringpost doctor`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};

use super::address::{self, ListenAddresses};
use super::submit::frame_len;
use super::usage::UsageError;
use super::values;
use crate::confine::Confine;
use crate::confine::user::UserSpec;
use crate::engine::{self, Choice};
use crate::invalid_option::InvalidOption;
use crate::journal;
use crate::journal::layout::Access;
use crate::journal::retention::Retention;
use crate::proto::AckCodes;
use crate::serve::{Options, Tls};
use crate::server::listen_options as listen;
use crate::server::options::usable_cpus;
use crate::server::tls_options::HANDSHAKES_MAX;
use crate::server::{JournalOptions, SinkOptions, TlsMode};
use crate::tls::credentials::{ClientAuth, Files, Version};

/// Options of `ringpost serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen on: IP:PORT, localhost:PORT, or :PORT for every IPv6 and IPv4 address (the
    /// address :: accepts only IPv6). May be repeated. Port 0 uses a free port
    /// [default: port 8888 of every IPv6 and IPv4 address, or of IPv4 alone where IPv6 is off]
    #[arg(long, value_name = "ADDR", value_delimiter = ',', env = "RINGPOST_LISTEN")]
    pub listen: Vec<ListenAddresses>,
    /// Serve TLS with the certificate in this PEM file, followed by those of the CAs between it and a root. The files
    /// of TLS are read again at SIGHUP, and within a minute after they have changed
    #[arg(long, value_name = "FILE", env = "RINGPOST_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the private key of --tls-cert. The user of --user must be able to read it
    #[arg(long, value_name = "FILE", env = "RINGPOST_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Whether connections without TLS are served too
    /// [default: require with --tls-cert]
    #[arg(long, value_enum, env = "RINGPOST_TLS")]
    pub tls: Option<TlsMode>,
    /// Oldest version of TLS to accept
    #[arg(long, value_enum, default_value_t = Version::Tls13, env = "RINGPOST_TLS_MIN")]
    pub tls_min: Version,
    /// PEM file of the CAs whose clients may connect. A client proves its identity with a certificate of one of them
    #[arg(long, value_name = "FILE", env = "RINGPOST_TLS_CLIENT_CA")]
    pub tls_client_ca: Option<PathBuf>,
    /// Whether a client must present a certificate
    /// [default: required with --tls-client-ca]
    #[arg(long, value_enum, env = "RINGPOST_TLS_CLIENT_AUTH")]
    pub tls_client_auth: Option<ClientAuth>,
    /// PEM file of certificate revocation lists, one of each CA that issues certificates of clients or of other CAs. A
    /// client whose status no list shows, or only an expired one, is refused
    #[arg(long, value_name = "FILE", env = "RINGPOST_TLS_CRL")]
    pub tls_crl: Option<PathBuf>,
    /// Time from the accept of a connection to the end of its TLS handshake; more than 0
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "10s",
        env = "RINGPOST_TLS_HANDSHAKE_TIMEOUT"
    )]
    pub tls_handshake_timeout: Duration,
    /// Most TLS handshakes at the same time on each shard. Further connections wait
    #[arg(long, value_name = "N", default_value_t = HANDSHAKES_MAX, env = "RINGPOST_TLS_HANDSHAKES_MAX")]
    pub tls_handshakes_max: usize,
    /// Kernel interface for sockets and files
    #[arg(long, value_enum, default_value_t = Choice::Auto, env = "RINGPOST_ENGINE")]
    pub engine: Choice,
    /// Shards to run: threads, each with its own event loop and listener
    /// [default: the number of CPUs that this process may use]
    #[arg(long, value_name = "N", env = "RINGPOST_WORKERS")]
    pub workers: Option<NonZeroUsize>,
    /// Pin each shard to a CPU of its own
    #[arg(long, env = "RINGPOST_PIN")]
    pub pin: bool,
    /// Serve each connection on the shard that has the fewest, whichever shard accepted it
    #[arg(
        long,
        value_name = "BOOL",
        default_value_t = true,
        action = clap::ArgAction::Set,
        env = "RINGPOST_BALANCE"
    )]
    pub balance: bool,
    /// Connections that the kernel queues for each listener (capped by net.core.somaxconn)
    #[arg(long, value_name = "N", default_value_t = listen::BACKLOG, env = "RINGPOST_BACKLOG")]
    pub backlog: u32,
    /// Largest frame to accept, its 13-byte header included; a larger frame is answered with result 1 and the
    /// connection is closed
    #[arg(long, value_name = "SIZE", default_value = "1MiB", env = "RINGPOST_MAX_FRAME")]
    pub max_frame: ByteSize,
    /// Destination of messages, which decides what an ack means
    #[arg(long, value_enum, default_value_t = Sink::Journal, env = "RINGPOST_SINK")]
    pub sink: Sink,
    /// Directory of the journal; created if it does not exist
    #[arg(long, value_name = "DIR", default_value = journal::DATA_DIR, env = "RINGPOST_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Size of a segment of the journal; each shard has one, and prepares the next one
    #[arg(long, value_name = "SIZE", default_value = "64MiB", env = "RINGPOST_SEGMENT_SIZE")]
    pub segment_size: ByteSize,
    /// Free space below which messages are acked with 1, until there is more again
    #[arg(long, value_name = "SIZE", default_value = "64MiB", env = "RINGPOST_MIN_FREE")]
    pub min_free: ByteSize,
    /// Commits that each shard writes to the journal at the same time
    #[arg(
        long,
        value_name = "N",
        default_value_t = journal::options::COMMITS_IN_FLIGHT,
        env = "RINGPOST_COMMITS_IN_FLIGHT"
    )]
    pub commits_in_flight: usize,
    /// Bytes of messages that each shard gathers and writes before it stops reading
    /// [default: 8MiB, or less to fit the memory limit of a control group]
    #[arg(long, value_name = "SIZE", env = "RINGPOST_JOURNAL_MEMORY")]
    pub journal_memory: Option<ByteSize>,
    /// How many bytes of messages to keep, 0 for all. The oldest segments are removed, never one that is being written
    /// to. Each shard also has the unused rest of its segment, and the next segment
    /// [default: all]
    #[arg(long, value_name = "SIZE", env = "RINGPOST_RETAIN_BYTES")]
    pub retain_bytes: Option<ByteSize>,
    /// How long to keep messages, 0 for ever. A segment is removed once its last message is older. Even on a quiet
    /// server, a shard starts a new segment after an eighth of this time, but at least 5s
    /// [default: for ever]
    #[arg(long, value_name = "TIME", value_parser = values::duration, env = "RINGPOST_RETAIN_AGE")]
    pub retain_age: Option<Duration>,
    /// Let the journal's group read it too: directories have mode 0750 and files 0640 instead of 0700 and 0600,
    /// whatever the umask. An existing data directory keeps its mode
    #[arg(long, env = "RINGPOST_ALLOW_GROUP_ACCESS")]
    pub allow_group_access: bool,
    /// Commands that acks bear: 0x81 and 0x82 (spec), or 0x80 and 0x81 (published) for clients built from the
    /// published reference sources
    #[arg(long, value_enum, default_value_t = AckCodes::Spec, env = "RINGPOST_ACK_CODES")]
    pub ack_codes: AckCodes,
    /// Most connections at the same time, 0 for no limit. A further one is accepted and closed immediately, and
    /// counted. The limit of open files, less the server's own files, applies in any case
    /// [default: what the limits of open files and of a control group's memory allow]
    #[arg(long, value_name = "N", env = "RINGPOST_MAX_CONNECTIONS")]
    pub max_connections: Option<usize>,
    /// Most connections at the same time from one address, 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0, env = "RINGPOST_MAX_CONNECTIONS_PER_IP")]
    pub max_connections_per_ip: usize,
    /// Memory for the buffers of all connections together, 0 for no limit. Each shard has an equal part, and keeps
    /// one largest frame of it in reserve. At the limit, a connection that needs more is not read until there is room
    /// [default: 512MiB, or less to fit the memory limit of a control group]
    #[arg(long, value_name = "SIZE", env = "RINGPOST_MAX_MEMORY")]
    pub max_memory: Option<ByteSize>,
    /// Longest time from the first byte of a frame to its last, 0 for no limit. Time in which the server does not
    /// read the connection does not count
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "30s",
        env = "RINGPOST_FRAME_TIMEOUT"
    )]
    pub frame_timeout: Duration,
    /// How long a connection may be silent between frames, 0 for no limit
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "0",
        env = "RINGPOST_IDLE_TIMEOUT"
    )]
    pub idle_timeout: Duration,
    /// How long acks may wait for a client that reads none of them, 0 for no limit
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "30s",
        env = "RINGPOST_WRITE_TIMEOUT"
    )]
    pub write_timeout: Duration,
    /// Least rate in bytes a second, over 5 s, of a client whose connection holds memory that others wait for, 0 for
    /// no limit. A slower connection is closed
    #[arg(long, value_name = "SIZE", default_value = "4KiB", env = "RINGPOST_MIN_RATE")]
    pub min_rate: ByteSize,
    /// How long a connection may be silent before the kernel probes its peer: 0 for never, else at least 1s
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "60s",
        env = "RINGPOST_TCP_KEEPALIVE"
    )]
    pub tcp_keepalive: Duration,
    /// How long a shard may give no sign of life before the process ends with exit code 3, 0 for never. /healthz
    /// reports the shard after 2 s
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "5s",
        env = "RINGPOST_STALL_TIMEOUT"
    )]
    pub stall_timeout: Duration,
    /// How long to keep serving after the first SIGTERM or SIGINT. Meanwhile /readyz answers with 503, so that load
    /// balancers send no new clients. Then the drain begins; a second signal begins it early
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "0",
        env = "RINGPOST_DRAIN_DELAY"
    )]
    pub drain_delay: Duration,
    /// Time from the start of the drain until connections that are still open are cut
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "8s",
        env = "RINGPOST_DRAIN_TIMEOUT"
    )]
    pub drain_timeout: Duration,
    /// How long a connection that the server closes is still read from, so that its last acks arrive
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "2s",
        env = "RINGPOST_LINGER_TIMEOUT"
    )]
    pub linger_timeout: Duration,
    /// Most bytes to read and discard in the time of --linger-timeout
    #[arg(long, value_name = "SIZE", default_value = "4MiB", env = "RINGPOST_LINGER_BYTES")]
    pub linger_bytes: ByteSize,
    /// Largest read buffer of a busy connection (one frame may need more); a quiet one has 256 bytes
    #[arg(long, value_name = "SIZE", default_value = "72KiB", env = "RINGPOST_READ_BUFFER")]
    pub read_buffer: ByteSize,
    /// Connections that a shard accepts from one listener before it serves other tasks
    #[arg(long, value_name = "N", default_value_t = listen::ACCEPTS_IN_A_ROW, env = "RINGPOST_ACCEPTS")]
    pub accepts: u32,
    /// Submission queue entries of each ring, a power of two
    #[arg(long, value_name = "N", default_value_t = engine::RING_ENTRIES, env = "RINGPOST_RING_ENTRIES")]
    pub ring_entries: u32,
    /// How long to retry while an address is in use
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "250ms",
        env = "RINGPOST_BIND_RETRY"
    )]
    pub bind_retry: Duration,
    /// Address of /metrics, /healthz and /readyz. Port 0 uses a free port, which the log shows
    /// [default: off]
    #[arg(long, value_name = "ADDR", value_parser = address::admin, env = "RINGPOST_ADMIN")]
    pub admin: Option<SocketAddr>,
    /// Confine the server by landlock: it can open no file but those in its data directory and a few in /proc and
    /// /sys, connect to nothing over TCP, and send no signal to other processes
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        default_value_t = Confine::Auto,
        default_missing_value = "on",
        env = "RINGPOST_CONFINE"
    )]
    pub confine: Confine,
    /// When started as root, permanently switch to this user before serving. Names are looked up in
    /// /etc/passwd and /etc/group. A data directory that does not exist is created for that user
    /// [default: keep the current user]
    #[arg(long, value_name = "NAME|UID[:GROUP|:GID]", env = "RINGPOST_USER")]
    pub user: Option<UserSpec>,
    /// Take over the sockets of the running server that answers on --control. The sockets stay open, and that server
    /// then drains and ends. Without --listen, this server listens where that one does. It is an error if no server is
    /// running
    #[arg(long, env = "RINGPOST_TAKEOVER")]
    pub takeover: bool,
    /// Unix socket on which the server can be taken over, by its user and root only
    /// [default: control.sock in the data directory, or no socket without a journal]
    #[arg(long, value_name = "PATH", env = "RINGPOST_CONTROL")]
    pub control: Option<PathBuf>,
    /// How long each side of a takeover waits for the next message of the other. The new server opens its journal in
    /// that time. On timeout the old server keeps serving and the new one exits
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "30s",
        env = "RINGPOST_TAKEOVER_TIMEOUT"
    )]
    pub takeover_timeout: Duration,
}

/// A value of `--sink`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sink {
    /// Write messages to the journal in --data-dir; an ack with 0 means that the message is on disk.
    Journal,
    /// Ack every message with 0 and discard it.
    Discard,
}

impl Serve {
    /// Returns the options of the server, validated.
    ///
    /// # Errors
    /// A value is refused. The error names its option.
    pub fn into_options(mut self) -> Result<Options, UsageError> {
        let mut options = Options { tls: self.tls_options()?, ..Options::default() };
        let server = &mut options.server;
        if !self.listen.is_empty() {
            server.listen.addresses = self.listen.into_iter().flat_map(|ListenAddresses(each)| each).collect();
        }
        server.listen.backlog = self.backlog;
        server.listen.bind_retry = self.bind_retry;
        server.listen.accepts_in_a_row = self.accepts;
        server.listen.tcp_keepalive = self.tcp_keepalive;
        server.engine.choice = self.engine;
        server.engine.ring_entries = self.ring_entries;
        server.sink = match self.sink {
            Sink::Discard => SinkOptions::Discard,
            Sink::Journal => {
                let mut journal = JournalOptions::new(self.data_dir);
                journal.access = if self.allow_group_access { Access::Group } else { Access::Owner };
                journal.retention =
                    Retention { bytes_max: self.retain_bytes.map(|size| size.as_u64()), age_max: self.retain_age };
                journal.segment_len = self.segment_size.as_u64();
                journal.min_free = self.min_free.as_u64();
                journal.commits_in_flight = self.commits_in_flight;
                journal.journal_memory = self.journal_memory.map(in_memory);
                SinkOptions::Journal(journal)
            }
        };
        server.shards = self.workers.unwrap_or_else(usable_cpus);
        server.pin = self.pin;
        server.balance = self.balance;
        server.frame_len_max = frame_len(self.max_frame)?;
        server.ack_codes = self.ack_codes;
        server.connections_max = self.max_connections;
        server.connections_per_ip_max = self.max_connections_per_ip;
        server.memory_max = self.max_memory.map(in_memory);
        server.read_buffer_max = in_memory(self.read_buffer);
        server.frame_timeout = self.frame_timeout;
        server.idle_timeout = self.idle_timeout;
        server.write_timeout = self.write_timeout;
        server.rate_min = self.min_rate.as_u64();
        server.linger_timeout = self.linger_timeout;
        server.linger_bytes_max = self.linger_bytes.as_u64();
        server.stall_timeout = self.stall_timeout;
        server.drain_timeout = self.drain_timeout;
        options.admin = self.admin;
        options.confine = self.confine;
        options.user = self.user;
        options.takeover.takeover = self.takeover;
        options.takeover.control = self.control;
        options.takeover.timeout = self.takeover_timeout;
        options.drain_delay = self.drain_delay;
        options.validate()?;
        Ok(options)
    }

    /// Returns the options of TLS, if a certificate is given.
    fn tls_options(&mut self) -> Result<Option<Tls>, InvalidOption> {
        let needs = |field, rule: &str| Err(InvalidOption::new(field, "", rule));
        let (certificate, key) = match (self.tls_cert.take(), self.tls_key.take()) {
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return needs("tls_cert", "name the file of its private key with `tls_key`"),
            (None, Some(_)) => return needs("tls_key", "name the file of its certificate with `tls_cert`"),
            (None, None) => {
                let given = [
                    ("tls", self.tls.is_some()),
                    ("tls_client_ca", self.tls_client_ca.is_some()),
                    ("tls_client_auth", self.tls_client_auth.is_some()),
                    ("tls_crl", self.tls_crl.is_some()),
                ];
                return match given.into_iter().find(|(_, is_given)| *is_given) {
                    Some((field, _)) => {
                        needs(field, "TLS needs a certificate: name its files with `tls_cert` and `tls_key`")
                    }
                    None => Ok(None),
                };
            }
        };
        if self.tls_client_auth.is_some() && self.tls_client_ca.is_none() {
            return needs("tls_client_auth", "name the CAs of the clients with `tls_client_ca`");
        }
        let mut files = Files::new(certificate, key);
        files.version_min = self.tls_min;
        files.client_ca = self.tls_client_ca.take();
        files.client_auth = self.tls_client_auth.unwrap_or_default();
        files.revocation_lists = self.tls_crl.take();
        Ok(Some(Tls {
            files,
            mode: self.tls.unwrap_or_default(),
            handshake_timeout: self.tls_handshake_timeout,
            handshakes_max: self.tls_handshakes_max,
        }))
    }
}

/// Options of `ringpost doctor`, which are those of `serve`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Write the findings as JSON
    #[arg(long, env = "RINGPOST_DOCTOR_JSON")]
    pub json: bool,
    /// The options of the server that is to run on this host.
    #[command(flatten)]
    pub serve: Serve,
}

/// Returns a size in bytes, or the largest size of memory if it is larger.
fn in_memory(size: ByteSize) -> usize {
    usize::try_from(size.as_u64()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::arguments::{Cli, Command};
    use crate::server::tls_options::HANDSHAKE_TIMEOUT;

    fn options(words: &[&str]) -> Result<Options, UsageError> {
        let words = ["ringpost", "serve"].iter().chain(words);
        let Command::Serve(serve) = Cli::parse_from(words).command else { panic!("serve") };
        serve.into_options()
    }

    #[test]
    fn typed_defaults_are_those_of_the_modules() {
        assert_eq!(format!("{:?}", options(&[]).unwrap()), format!("{:?}", Options::default()));
    }

    #[test]
    fn a_refused_value_is_named_with_its_option() {
        let refused = |words: &[&str]| options(words).unwrap_err().to_string();
        assert!(refused(&["--max-frame", "12"]).starts_with("--max-frame 12: "));
        assert!(refused(&["--max-frame", "5GiB"]).starts_with("--max-frame 5368709120: "));
        assert!(refused(&["--max-frame", "2GiB"]).ends_with("or set --sink to discard"));
        assert!(refused(&["--ring-entries", "1000"]).starts_with("--ring-entries 1000: "));
        assert!(refused(&["--accepts", "0"]).starts_with("--accepts 0: "));
        assert!(refused(&["--read-buffer", "1"]).starts_with("--read-buffer 1: "));
        assert!(
            refused(&["--workers", "2", "--max-memory", "1MiB"]).starts_with("--max-memory 1048576: 2 shards need")
        );
        assert!(refused(&["--segment-size", "4KiB"]).ends_with("with this --max-frame"));
        assert!(refused(&["--sink", "discard", "--takeover"]).starts_with("--takeover: "));
        assert!(refused(&["--takeover-timeout", "0"]).starts_with("--takeover-timeout 0s: "));
    }

    #[test]
    fn options_of_tls_need_a_certificate_and_its_key() {
        let refused = |words: &str| options(&words.split(' ').collect::<Vec<_>>()).unwrap_err().to_string();
        assert_eq!(refused("--tls-cert a"), "--tls-cert: name the file of its private key with --tls-key");
        assert_eq!(refused("--tls-key b"), "--tls-key: name the file of its certificate with --tls-cert");
        for alone in ["--tls require", "--tls-client-ca c", "--tls-client-auth optional", "--tls-crl c"] {
            let error = refused(alone);
            let option = alone.split(' ').next().unwrap();
            assert!(error.starts_with(&format!("{option}: TLS needs a certificate")), "{error}");
        }
        let pair = "--tls-cert a --tls-key b";
        assert!(refused(&format!("{pair} --tls-client-auth optional")).starts_with("--tls-client-auth: name the CAs"));
        assert!(refused(&format!("{pair} --tls-crl c")).starts_with("--tls-crl: the lists revoke certificates"));
        assert!(refused(&format!("{pair} --tls-handshakes-max 0")).starts_with("--tls-handshakes-max 0: must be"));
        assert!(refused(&format!("{pair} --tls-handshake-timeout 0")).contains("more than 0"));
        assert!(refused(&format!("{pair} --tls-handshake-timeout 60days")).starts_with("--tls-handshake-timeout"));
    }

    #[test]
    fn tls_is_required_once_there_is_a_certificate() {
        let tls = |words: &str| options(&words.split(' ').collect::<Vec<_>>()).unwrap().tls.unwrap();
        let plain = tls("--tls-cert a --tls-key b");
        assert_eq!((plain.mode, plain.client_certificates()), (TlsMode::Require, "none"));
        assert_eq!((plain.handshake_timeout, plain.handshakes_max), (HANDSHAKE_TIMEOUT, HANDSHAKES_MAX));
        assert_eq!(plain.files, Files::new("a", "b"));
        let all = tls("--tls-cert a --tls-key b --tls allow --tls-min 1.2 --tls-client-ca c --tls-crl d");
        assert_eq!((all.mode, all.client_certificates()), (TlsMode::Allow, "required"));
        assert_eq!(all.files.version_min, Version::Tls12);
        assert_eq!(all.files.paths().count(), 4);
    }
}
