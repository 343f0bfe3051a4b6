//! The TLS options of the commands that connect to a server.

use std::path::PathBuf;

use clap::Args;

use crate::client::TlsOptions;

/// TLS options of a client.
///
/// Their variables differ from those of `serve`, so that one environment can have both: a server's certificate is
/// rarely one that its clients present.
#[derive(Debug, Args)]
pub struct ClientTls {
    /// Connect with TLS and check the server's certificate
    #[arg(long, env = "RINGPOST_CLIENT_TLS")]
    pub tls: bool,
    /// Trust the CAs in this PEM file, or a self-signed certificate of the server [default: the CAs of this system]
    #[arg(long, value_name = "FILE", requires = "tls", env = "RINGPOST_CLIENT_TLS_CA")]
    pub tls_ca: Option<PathBuf>,
    /// Present the certificate in this PEM file, followed by those of its intermediate CAs, to a server that asks for
    /// one
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_key"], env = "RINGPOST_CLIENT_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of --tls-cert, as a PEM file
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_cert"], env = "RINGPOST_CLIENT_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Name or IP address to expect in the server's certificate [default: the host in --addr]
    #[arg(long, value_name = "NAME", requires = "tls", env = "RINGPOST_CLIENT_TLS_SERVER_NAME")]
    pub tls_server_name: Option<String>,
    /// Accept any certificate. The server may then be anybody, so this is only for tests
    #[arg(long, requires = "tls", conflicts_with = "tls_ca", env = "RINGPOST_CLIENT_TLS_INSECURE")]
    pub tls_insecure: bool,
}

impl ClientTls {
    /// Returns the options of a connection, or `None` if it is plain.
    pub fn into_options(self) -> Option<TlsOptions> {
        if !self.tls {
            return None;
        }
        let mut options = TlsOptions::default().insecure(self.tls_insecure);
        if let Some(file) = self.tls_ca {
            options = options.ca(file);
        }
        if let Some((certificate, key)) = self.tls_cert.zip(self.tls_key) {
            options = options.certificate(certificate, key);
        }
        if let Some(name) = self.tls_server_name {
            options = options.server_name(name);
        }
        Some(options)
    }
}
