//! Labels, which distinguish the counters of one metric.
//!
//! Owns the labels' values and their names. It must not know who counts. Invariant: all values are known at compile
//! time, so a client can't add a series. Values that the protocol defines come from `proto`.

use std::io;

use crate::proto::{AckResult, Kind, Reason};
use crate::tls::FaultReason;

/// A label of a metric, with all its values.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// All values, in the order of [`Self::index`].
    const ALL: &'static [Self];
    /// Returns this value's name. Dashboards depend on it, so it never changes.
    fn name(self) -> &'static str;
    /// Returns the index of this value in [`Self::ALL`].
    fn index(self) -> usize;
}

/// The label of a metric that has no label.
#[derive(Debug, Clone, Copy)]
pub struct Unlabelled;

impl Label for Unlabelled {
    const NAME: &'static str = "";
    const ALL: &'static [Self] = &[Unlabelled];

    fn name(self) -> &'static str {
        ""
    }

    fn index(self) -> usize {
        0
    }
}

macro_rules! label {
    ($(#[doc = $doc:literal])+ $label:ident as $name:literal {
        $($(#[doc = $value_doc:literal])+ $value:ident = $value_name:literal,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $label {
            $($(#[doc = $value_doc])+ $value,)+
        }

        impl Label for $label {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$($label::$value,)+];

            fn name(self) -> &'static str {
                match self {
                    $($label::$value => $value_name,)+
                }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// Why a connection was closed.
    CloseReason as "reason" {
        /// The client closed the connection after it was answered in full.
        ClientClosed = "client_closed",
        /// The client violated the protocol: [`Reason::LengthTooSmall`].
        LengthTooSmall = "length_too_small",
        /// The client violated the protocol: [`Reason::UnknownCommand`].
        UnknownCommand = "unknown_command",
        /// The client violated the protocol: [`Reason::AckFromClient`].
        AckFromClient = "ack_from_client",
        /// The client violated the protocol: [`Reason::FrameTooLarge`].
        FrameTooLarge = "frame_too_large",
        /// The client violated the protocol: [`Reason::Truncated`].
        Truncated = "truncated_frame",
        /// The client reset the connection, or the connection failed.
        Reset = "reset",
        /// The server drained the connection.
        Drained = "drained",
        /// The connection was still open at the drain's deadline.
        Cut = "cut",
        /// The connection's task panicked, because of a bug in the server or the sink.
        Panicked = "panicked",
        /// The client sent nothing for too long.
        IdleTimeout = "idle_timeout",
        /// The client did not complete a frame in time.
        FrameTimeout = "frame_timeout",
        /// The client did not read its acks in time.
        WriteTimeout = "write_timeout",
        /// The TLS handshake took too long.
        HandshakeTimeout = "handshake_timeout",
        /// TLS failed, in the handshake or later: see `ringpost_tls_failures_total`.
        TlsFailed = "tls_failed",
        /// The client was slower than the minimum rate while other connections waited for memory.
        TooSlow = "too_slow",
        /// The client's host no longer answers.
        Keepalive = "keepalive",
        /// The limit of connections was reached.
        ConnectionLimit = "connection_limit",
        /// The limit of connections from one address was reached.
        ConnectionLimitPerIp = "connection_limit_per_ip",
        /// There was no free descriptor except the reserve.
        OutOfDescriptors = "out_of_descriptors",
    }
}

impl From<Reason> for CloseReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::LengthTooSmall => CloseReason::LengthTooSmall,
            Reason::UnknownCommand => CloseReason::UnknownCommand,
            Reason::AckFromClient => CloseReason::AckFromClient,
            Reason::FrameTooLarge => CloseReason::FrameTooLarge,
            Reason::Truncated => CloseReason::Truncated,
        }
    }
}

label! {
    /// A version of TLS.
    TlsVersion as "version" {
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
}

label! {
    /// Whether changed TLS files are used.
    ReloadResult as "result" {
        /// New connections use them.
        Success = "success",
        /// Something is wrong with them.
        Failure = "failure",
    }
}

label! {
    /// Why an accept failed.
    AcceptError as "errno" {
        /// The process is out of descriptors.
        Emfile = "EMFILE",
        /// The host is out of descriptors.
        Enfile = "ENFILE",
        /// The kernel is out of socket memory.
        Enobufs = "ENOBUFS",
        /// The kernel is out of memory.
        Enomem = "ENOMEM",
        /// The client closed the connection before it was accepted.
        Econnaborted = "ECONNABORTED",
        /// Any other error. The log has its text.
        Other = "other",
    }
}

impl From<&io::Error> for AcceptError {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE) => AcceptError::Emfile,
            Some(libc::ENFILE) => AcceptError::Enfile,
            Some(libc::ENOBUFS) => AcceptError::Enobufs,
            Some(libc::ENOMEM) => AcceptError::Enomem,
            Some(libc::ECONNABORTED) => AcceptError::Econnaborted,
            _ => AcceptError::Other,
        }
    }
}

impl Label for Kind {
    const NAME: &'static str = "kind";
    const ALL: &'static [Self] = &[Kind::Conn, Kind::Submit];

    fn name(self) -> &'static str {
        match self {
            Kind::Conn => "conn",
            Kind::Submit => "submit",
        }
    }

    fn index(self) -> usize {
        match self {
            Kind::Conn => 0,
            Kind::Submit => 1,
        }
    }
}

impl Label for AckResult {
    const NAME: &'static str = "result";
    const ALL: &'static [Self] = &[AckResult::Success, AckResult::Failure];

    fn name(self) -> &'static str {
        match self {
            AckResult::Success => "success",
            AckResult::Failure => "failure",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for FaultReason {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &FaultReason::ALL;

    fn name(self) -> &'static str {
        FaultReason::name(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for Reason {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &Reason::ALL;

    fn name(self) -> &'static str {
        Reason::name(self)
    }

    fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<L: Label + std::fmt::Debug>() {
        for (index, value) in L::ALL.iter().enumerate() {
            assert_eq!(value.index(), index, "{value:?}");
        }
        let mut names: Vec<_> = L::ALL.iter().map(|value| value.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), L::ALL.len(), "two values of {} have the same name", L::NAME);
    }

    #[test]
    fn values_have_distinct_names_and_the_index_of_their_order() {
        check::<Unlabelled>();
        check::<CloseReason>();
        check::<AcceptError>();
        check::<TlsVersion>();
        check::<FaultReason>();
        check::<Kind>();
        check::<AckResult>();
        check::<Reason>();
    }

    #[test]
    fn a_violation_and_the_close_reason_that_it_causes_have_the_same_name() {
        for reason in Reason::ALL {
            assert_eq!(CloseReason::from(reason).name(), reason.name());
        }
    }
}
