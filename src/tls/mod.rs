//! TLS: records between a connection's bytes and its frames, and certificates and keys.
//!
//! The cryptography is rustls with aws-lc-rs. This module owns how it is used: which versions, no resumption, no early
//! data. It knows neither sockets nor clocks: its users receive and send the bytes.
//!
//! * [`session`]: the record layer of one connection
//! * [`fault`]: why a handshake or a connection failed
//! * [`credentials`]: a server's certificate and key, and its demands on clients
//! * [`certificate`]: the facts of a certificate, and the identity that it gives to a client
//! * [`files`]: certificates, keys and revocation lists in PEM files
//! * `key_verifier`: accepts certificates without a CA
//! * [`provider`]: the cryptography
//! * [`client`]: the CAs that a client trusts, and the certificate that it presents

pub mod certificate;
#[cfg(any(feature = "bench", feature = "client-tls"))]
pub mod client;
pub mod credentials;
pub mod fault;
pub mod files;
mod key_verifier;
pub mod provider;
pub mod session;

pub use fault::{Fault, FaultReason};
