//! The options of `ringpost submit` and `ringpost health`: the commands that talk to a running server.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::tls::ClientTls;
use super::usage::UsageError;
use super::{address, values};
use crate::invalid_option::InvalidOption;
use crate::proto::AckCodes;
use crate::server::options::frame_len_refused;
use crate::{client, healthcheck, submit};

/// Options of `ringpost submit`.
#[derive(Debug, Args)]
pub struct Submit {
    /// Server to send to, as HOST:PORT
    #[arg(
        long,
        value_name = "ADDR",
        value_parser = address::server,
        default_value = "localhost:8888",
        env = "RINGPOST_ADDR"
    )]
    pub addr: String,
    /// File whose lines are sent [default: standard input]
    pub file: Option<PathBuf>,
    /// Requests in flight
    #[arg(long, value_name = "N", default_value_t = client::WINDOW, env = "RINGPOST_WINDOW")]
    pub window: usize,
    /// How long to wait for the connection; 0 leaves the limit to the kernel
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "5s",
        env = "RINGPOST_CONNECT_TIMEOUT"
    )]
    pub connect_timeout: Duration,
    /// How long the run may make no progress (no ack arrives and no byte is written) before it ends; 0 for no limit
    #[arg(long, value_name = "TIME", value_parser = values::duration, default_value = "30s", env = "RINGPOST_TIMEOUT")]
    pub timeout: Duration,
    /// How long the connection may be silent before the kernel probes the server's host: 0 for never, else at least
    /// 1s. Without an answer the run ends half of that time later
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "60s",
        env = "RINGPOST_TCP_KEEPALIVE"
    )]
    pub tcp_keepalive: Duration,
    /// Largest frame to send, its 13-byte header included; a longer line ends the run. The --max-frame of the server
    /// applies too
    #[arg(long, value_name = "SIZE", default_value = "1MiB", env = "RINGPOST_MAX_FRAME")]
    pub max_frame: ByteSize,
    /// Commands that the server's acks bear
    #[arg(long, value_enum, default_value_t = AckCodes::Spec, env = "RINGPOST_ACK_CODES")]
    pub ack_codes: AckCodes,
    /// How to encrypt the connection.
    #[command(flatten)]
    pub tls: ClientTls,
}

impl Submit {
    /// Returns the options of the command, validated.
    ///
    /// # Errors
    /// A value is refused. The error names its option.
    pub fn into_options(self) -> Result<submit::Options, UsageError> {
        let client = client::Options::default()
            .connect_timeout(self.connect_timeout)
            .keepalive(self.tcp_keepalive)
            .window(self.window)
            .ack_codes(self.ack_codes)
            .frame_len_max(frame_len(self.max_frame)?);
        client.validate()?;
        let tls = self.tls.into_options();
        Ok(submit::Options { addr: self.addr, file: self.file, timeout: self.timeout, client, tls })
    }
}

/// Options of `ringpost health`.
#[derive(Debug, Args)]
pub struct Health {
    /// Admin address of the server
    #[arg(
        long,
        value_name = "ADDR",
        value_parser = address::admin_of_server,
        default_value_t = healthcheck::ADMIN_ADDRESS,
        env = "RINGPOST_ADMIN"
    )]
    pub admin: SocketAddr,
    /// Ask whether the server accepts new connections (/readyz), not only whether it is healthy (/healthz)
    #[arg(long, env = "RINGPOST_READY")]
    pub ready: bool,
    /// How long the answer may take
    #[arg(
        long,
        value_name = "TIME",
        value_parser = values::duration,
        default_value = "2s",
        env = "RINGPOST_HEALTH_TIMEOUT"
    )]
    pub timeout: Duration,
}

impl Health {
    /// Returns the options of the command.
    pub fn into_options(self) -> healthcheck::Options {
        healthcheck::Options { admin: self.admin, ready: self.ready, timeout: self.timeout }
    }
}

/// Returns `--max-frame` in bytes.
///
/// # Errors
/// The length does not fit a frame's header.
pub fn frame_len(max_frame: ByteSize) -> Result<u32, InvalidOption> {
    u32::try_from(max_frame.as_u64()).map_err(|_| frame_len_refused(max_frame.as_u64()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::arguments::{Cli, Command};

    #[test]
    fn typed_defaults_are_those_of_the_client() {
        let Command::Submit(submit) = Cli::parse_from(["ringpost", "submit"]).command else { panic!("submit") };
        let options = submit.into_options().unwrap();
        assert_eq!(format!("{:?}", options.client), format!("{:?}", client::Options::default()));
    }
}
