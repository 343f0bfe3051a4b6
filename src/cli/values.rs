//! How values of options are written: durations, and the names of what can be chosen.

use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::confine::Confine;
use crate::engine::Choice;
use crate::load::plan::Io;
use crate::proto::AckCodes;
use crate::server::TlsMode;
use crate::tls::credentials::{ClientAuth, Version};

/// Parses a duration with its unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write a number and a unit: 500ms, 2s, 1m"))
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

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        &[Choice::Auto, Choice::Uring, Choice::Epoll]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Choice::Auto => {
                PossibleValue::new("auto").help("io_uring, or epoll where the host lacks or refuses io_uring")
            }
            Choice::Uring => PossibleValue::new("uring").help("io_uring; without it the server does not start"),
            Choice::Epoll => PossibleValue::new("epoll").help("epoll"),
        })
    }
}

impl ValueEnum for Confine {
    fn value_variants<'a>() -> &'a [Self] {
        &[Confine::Auto, Confine::On, Confine::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Confine::Auto => {
                PossibleValue::new("auto").help("Confine the server if the kernel can; otherwise the log says why not")
            }
            Confine::On => PossibleValue::new("on")
                .help("Confine the server; where the kernel can't, it does not start")
                .aliases(["true", "yes", "1"]),
            Confine::Off => PossibleValue::new("off")
                .help("Leave the server every file that its user may open")
                .aliases(["false", "no", "0"]),
        })
    }
}

impl ValueEnum for Io {
    fn value_variants<'a>() -> &'a [Self] {
        &[Io::Auto, Io::Uring, Io::Epoll]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Io::Auto => PossibleValue::new("auto").help("io_uring if it is available, else epoll"),
            Io::Uring => PossibleValue::new("uring").help("io_uring: costs less CPU time per request"),
            Io::Epoll => PossibleValue::new("epoll").help("epoll: works on every host"),
        })
    }
}

impl ValueEnum for TlsMode {
    fn value_variants<'a>() -> &'a [Self] {
        &[TlsMode::Require, TlsMode::Allow]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            TlsMode::Require => PossibleValue::new("require").help("Every connection must speak TLS"),
            TlsMode::Allow => {
                PossibleValue::new("allow").help("Connections without TLS are served too; the first byte decides")
            }
        })
    }
}

impl ValueEnum for ClientAuth {
    fn value_variants<'a>() -> &'a [Self] {
        &[ClientAuth::Required, ClientAuth::Optional]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            ClientAuth::Required => PossibleValue::new("required").help("A client without a certificate is refused"),
            ClientAuth::Optional => {
                PossibleValue::new("optional").help("A client may present a certificate; an invalid one is refused")
            }
        })
    }
}

impl ValueEnum for Version {
    fn value_variants<'a>() -> &'a [Self] {
        &[Version::Tls13, Version::Tls12]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Version::Tls13 => "1.3",
            Version::Tls12 => "1.2",
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_or_are_zero() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert!(duration("5").unwrap_err().contains("500ms"));
    }
}
