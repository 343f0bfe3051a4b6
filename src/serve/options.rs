//! The options of the `serve` command: those of the server, and of what runs beside it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::admin;
use crate::confine::Confine;
use crate::confine::user::{self, UserSpec};
use crate::invalid_option::{InvalidOption, check_timeouts};
use crate::server;
use crate::server::TlsMode;
use crate::server::options::{ReservedDescriptors, ThreadHook};
use crate::server::tls_options::validate_handshakes;
use crate::takeover::{self, CONTROL_SOCKET};
use crate::tls::credentials::{ClientAuth, Files};

/// The options of the `serve` command.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The options of the server itself.
    pub server: server::Options,
    /// How the server speaks TLS. It replaces the server's own option.
    pub tls: Option<Tls>,
    /// The address of `/metrics`, `/healthz` and `/readyz`, if they are served.
    pub admin: Option<SocketAddr>,
    /// Whether landlock keeps the process from files that it does not need.
    pub confine: Confine,
    /// The user to switch to when started as root. `None` keeps the current user.
    pub user: Option<UserSpec>,
    /// The options of takeovers. Without a control socket, one in the data directory is used, if there is a journal.
    pub takeover: takeover::Options,
    /// How long the server keeps serving, though not ready, before it drains.
    pub drain_delay: Duration,
}

/// TLS on the listeners, from files that the server reads again when they change.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate, and what it demands of its clients.
    pub files: Files,
    /// Whether connections without TLS are served too.
    pub mode: TlsMode,
    /// The time from the accept of a connection to the end of its handshake; more than zero.
    pub handshake_timeout: Duration,
    /// The most handshakes in flight on each shard.
    pub handshakes_max: usize,
}

impl Tls {
    /// Returns what the server demands of its clients, as one word.
    pub fn client_certificates(&self) -> &'static str {
        match (&self.files.client_ca, self.files.client_auth) {
            (None, _) => "none",
            (Some(_), ClientAuth::Required) => "required",
            (Some(_), ClientAuth::Optional) => "optional",
        }
    }

    /// Checks every option against the others.
    fn validate(&self) -> Result<(), InvalidOption> {
        if self.files.revocation_lists.is_some() && self.files.client_ca.is_none() {
            return Err(InvalidOption::new(
                "tls_crl",
                "",
                "the lists revoke certificates of clients, so name their CA with `tls_client_ca`",
            ));
        }
        validate_handshakes(self.handshake_timeout, self.handshakes_max)
    }
}

impl Options {
    /// Checks every option against the others.
    ///
    /// # Errors
    /// The first option whose value is refused.
    pub fn validate(&self) -> Result<(), InvalidOption> {
        self.server.validate()?;
        self.tls.as_ref().map_or(Ok(()), Tls::validate)?;
        check_timeouts([("drain_delay", self.drain_delay)])?;
        takeover::Options { control: self.control_path(), ..self.takeover.clone() }.validate()
    }

    /// Returns the path of the control socket, if there is to be one.
    pub fn control_path(&self) -> Option<PathBuf> {
        let in_data_dir = || Some(self.server.journal()?.data_dir.join(CONTROL_SOCKET));
        self.takeover.control.clone().or_else(in_data_dir)
    }

    /// Returns the options of the server in this process: it leaves descriptors for the rest of the process, and its
    /// threads give up the capabilities that `user` must not keep.
    pub fn server_in_process(&self) -> server::Options {
        let mut server = self.server.clone();
        server.reserved_descriptors = self.reserved_descriptors();
        let user = self.user.clone();
        server.on_thread_start = ThreadHook::new(move || user::drop_capabilities(user.as_ref()));
        server
    }

    fn reserved_descriptors(&self) -> ReservedDescriptors {
        let mut reserved = ReservedDescriptors::default();
        if self.admin.is_some() {
            reserved.count += DESCRIPTORS_OF_ADMIN + admin::CONNECTIONS_MAX as u64;
        }
        if self.tls.is_some() {
            reserved.count += DESCRIPTORS_OF_TLS;
        }
        if self.control_path().is_some() {
            reserved.count += DESCRIPTORS_OF_TAKEOVER;
            // A takeover copies each listening socket.
            reserved.per_listener = 1;
        }
        reserved
    }
}

/// The admin thread's runtime, and the files that a scrape reads.
const DESCRIPTORS_OF_ADMIN: u64 = 8;
/// One file of TLS is read at a time.
const DESCRIPTORS_OF_TLS: u64 = 1;
/// The connection of a server that takes over, and copies of the admin and control sockets.
const DESCRIPTORS_OF_TAKEOVER: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::options::SinkOptions;

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
        assert!(refused(|o| o.server.frame_len_max = 12).starts_with("frame_len_max 12"));
        assert!(refused(|o| o.drain_delay = Duration::MAX).starts_with("drain_delay"));
        assert!(refused(|o| o.takeover.timeout = Duration::ZERO).starts_with("takeover_timeout 0s"));
        let without_socket = |o: &mut Options| {
            o.takeover.takeover = true;
            o.server.sink = SinkOptions::Discard;
        };
        assert!(refused(without_socket).starts_with("takeover: without a journal"));
    }

    #[test]
    fn the_rest_of_the_process_keeps_its_descriptors() {
        let discard = server::Options::default().sink(SinkOptions::Discard);
        let alone = Options { server: discard, ..Options::default() };
        assert_eq!(alone.reserved_descriptors(), ReservedDescriptors::default());
        let admin = Options { admin: Some(([127, 0, 0, 1], 0).into()), ..alone };
        assert!(admin.reserved_descriptors().count > admin::CONNECTIONS_MAX as u64);
        assert_eq!(Options::default().reserved_descriptors().per_listener, 1);
    }
}
