//! Why the TLS of a connection failed: a reason to count, and words for the log.

use std::fmt;

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

/// Why the TLS of a connection failed.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The reason, to count.
    pub reason: FaultReason,
    /// The error of rustls, if there is one.
    pub error: Option<Error>,
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultReason {
    /// The peer did not speak TLS.
    NotTls,
    /// No version of TLS is permitted by both ends.
    Version,
    /// The ends share no cipher suite, no key exchange or no signature scheme.
    Cipher,
    /// The peer asked for other application protocols only (ALPN).
    Protocol,
    /// The peer's certificate is missing or was refused.
    Certificate,
    /// The peer refused with an alert.
    Alert,
    /// A record could not be decrypted, or is malformed.
    Record,
    /// The peer broke the rules of TLS in another way.
    Misbehaved,
    /// A message of the handshake is too large.
    HandshakeTooLarge,
    /// The peer ended the connection during the handshake.
    Ended,
    /// The handshake took too long.
    Timeout,
    /// This end failed.
    Internal,
}

impl Fault {
    /// Returns the fault that an error of rustls reports.
    pub fn of(error: &Error) -> Self {
        Fault { reason: FaultReason::of(error), error: Some(error.clone()) }
    }
}

impl From<FaultReason> for Fault {
    fn from(reason: FaultReason) -> Self {
        Fault { reason, error: None }
    }
}

impl FaultReason {
    /// All reasons.
    pub const ALL: [FaultReason; 12] = [
        FaultReason::NotTls,
        FaultReason::Version,
        FaultReason::Cipher,
        FaultReason::Protocol,
        FaultReason::Certificate,
        FaultReason::Alert,
        FaultReason::Record,
        FaultReason::Misbehaved,
        FaultReason::HandshakeTooLarge,
        FaultReason::Ended,
        FaultReason::Timeout,
        FaultReason::Internal,
    ];

    /// Returns the reason's name. Dashboards depend on it, so it never changes.
    pub fn name(self) -> &'static str {
        match self {
            FaultReason::NotTls => "not_tls",
            FaultReason::Version => "version",
            FaultReason::Cipher => "cipher",
            FaultReason::Protocol => "protocol",
            FaultReason::Certificate => "certificate",
            FaultReason::Alert => "alert",
            FaultReason::Record => "record",
            FaultReason::Misbehaved => "misbehaved",
            FaultReason::HandshakeTooLarge => "handshake_too_large",
            FaultReason::Ended => "ended",
            FaultReason::Timeout => "timeout",
            FaultReason::Internal => "internal",
        }
    }

    fn of(error: &Error) -> Self {
        use PeerIncompatible::*;
        match error {
            Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
                FaultReason::NotTls
            }
            Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge) => FaultReason::HandshakeTooLarge,
            Error::InvalidMessage(InvalidMessage::MessageTooLarge) => FaultReason::Record,
            Error::DecryptError | Error::PeerSentOversizedRecord => FaultReason::Record,
            Error::PeerIncompatible(
                SupportedVersionsExtensionRequired
                | ServerTlsVersionIsDisabledByOurConfig
                | ServerDoesNotSupportTls12Or13
                | Tls12NotOffered
                | Tls12NotOfferedOrEnabled
                | Tls13RequiredForQuic
                // Only TLS 1.1 and older do without it.
                | SignatureAlgorithmsExtensionRequired,
            ) => FaultReason::Version,
            Error::PeerIncompatible(_) => FaultReason::Cipher,
            Error::NoApplicationProtocol => FaultReason::Protocol,
            Error::NoCertificatesPresented
            | Error::InvalidCertificate(_)
            | Error::InvalidCertRevocationList(_)
            | Error::UnsupportedNameType => FaultReason::Certificate,
            Error::AlertReceived(_) => FaultReason::Alert,
            Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_) => FaultReason::Misbehaved,
            _ => FaultReason::Internal,
        }
    }

    fn description(self) -> &'static str {
        match self {
            FaultReason::NotTls => "the peer does not speak TLS",
            FaultReason::Version => "no version of TLS is permitted by both ends",
            FaultReason::Cipher => "the ends share no cipher suite, key exchange or signature scheme",
            FaultReason::Protocol => "the peer asks for another application protocol (ALPN)",
            FaultReason::Certificate => "the peer's certificate is missing or was refused",
            FaultReason::Alert => "the peer refused",
            FaultReason::Record => "a TLS record could not be read",
            FaultReason::Misbehaved => "the peer broke the rules of TLS",
            FaultReason::HandshakeTooLarge => "a message of the TLS handshake is too large",
            FaultReason::Ended => "the peer ended the connection during the TLS handshake",
            FaultReason::Timeout => "the TLS handshake took too long",
            FaultReason::Internal => "this end of TLS failed",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.reason.description())?;
        match &self.error {
            // rustls' own words for an unknown CA name neither the cause nor the fix.
            Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                out.write_str(": no trusted CA has signed it")
            }
            Some(Error::AlertReceived(AlertDescription::UnknownCA)) => {
                out.write_str(": it does not trust the CA that has signed the certificate (unknown_ca)")
            }
            Some(error) => write!(out, ": {error}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Fault {}
