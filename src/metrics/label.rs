//! What counters are told apart by. A label has few values, all known here: a peer can't add one.

use std::io;

use crate::proto::{AckResult, Kind, Reason};

/// The values that a metric's label may have.
pub trait Label: Copy + 'static {
    /// The label's own name.
    const NAME: &'static str;
    /// All values, in the order of [`Self::index`].
    const ALL: &'static [Self];
    /// The name of this value. It is part of what dashboards are built on: never change one.
    fn name(self) -> &'static str;
    /// The place of this value in [`Self::ALL`].
    fn index(self) -> usize;
}

/// For a metric without a label.
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
    /// Why a connection has ended.
    CloseReason as "reason" {
        /// The client closed, and was answered in full.
        ClientClosed = "client_closed",
        /// [`Reason::LengthTooSmall`].
        LengthTooSmall = "length_too_small",
        /// [`Reason::UnknownCommand`].
        UnknownCommand = "unknown_command",
        /// [`Reason::AckFromClient`].
        AckFromClient = "ack_from_client",
        /// [`Reason::FrameTooLarge`].
        FrameTooLarge = "frame_too_large",
        /// [`Reason::Truncated`].
        Truncated = "truncated_frame",
        /// The client reset it, or it failed otherwise.
        Reset = "reset",
        /// The server drained, and the connection with it.
        Drained = "drained",
        /// It still held on at the deadline of the drain.
        Cut = "cut",
        /// Its task panicked: a fault of ours, or of the sink.
        Panicked = "panicked",
        /// Nothing came from it for too long.
        IdleTimeout = "idle_timeout",
        /// It did not finish a frame in time.
        FrameTimeout = "frame_timeout",
        /// It did not read its acks in time.
        WriteTimeout = "write_timeout",
        /// The peer was slower than the least rate while others waited for the memory that its connection held.
        TooSlow = "too_slow",
        /// Its host does not answer any more.
        Keepalive = "keepalive",
        /// There were as many connections as there may be.
        ConnectionLimit = "connection_limit",
        /// There were as many from its address as there may be.
        ConnectionLimitPerIp = "connection_limit_per_ip",
        /// There was no descriptor for it but the reserve.
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
        /// The client was gone before it was accepted.
        Econnaborted = "ECONNABORTED",
        /// Anything else; the log says what.
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
        assert_eq!(names.len(), L::ALL.len(), "no two values of {} share a name", L::NAME);
    }

    #[test]
    fn values_are_numbered_as_listed_and_named_apart() {
        check::<Unlabelled>();
        check::<CloseReason>();
        check::<AcceptError>();
        check::<Kind>();
        check::<AckResult>();
        check::<Reason>();
    }

    #[test]
    fn a_violation_and_the_end_that_it_causes_have_one_name() {
        for reason in Reason::ALL {
            assert_eq!(CloseReason::from(reason).name(), reason.name());
        }
    }
}
