//! The command line: the commands, their options with their help, and the environment variables that set them.
//!
//! This is the only module that knows clap. It converts what a user typed into the options of the modules below, and
//! refusals of these modules into messages that name the options. It does nothing else.
//!
//! * [`arguments`]: the commands; [`serve`], [`submit`], [`bench`], [`journal`]: their options
//! * [`tls`]: the TLS options of a client
//! * [`address`], [`values`]: how values are written
//! * [`environment`]: variables in the place of options
//! * [`usage`]: errors in the words of the command line
//! * [`about`]: completions and man pages; [`version`]: the version

pub mod about;
mod address;
mod arguments;
mod bench;
mod environment;
mod journal;
mod serve;
mod submit;
mod tls;
mod usage;
mod values;
mod version;

pub use arguments::Command;
pub use environment::{name_variables, parse};
pub use usage::print_usage;
