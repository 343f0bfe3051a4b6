//! `ringpost doctor`: looks at everything that `serve` needs of a host, with the same options, and says what
//! stands in the way, what it means, and what mends it.
//!
//! It tries rather than asks: it makes the rings, takes the addresses, writes to the data directory. It
//! changes nothing and leaves nothing behind. Settings are read through [`Host`], so that
//! tests can tell of hosts that they are not on. One file a subject; none knows another.

mod clock;
mod cpu;
mod data_dir;
mod disk;
mod finding;
mod kernel;
mod landlock;
mod limits;
mod mount;
mod net;
mod print;

use std::process::ExitCode;
use std::time::SystemTime;

pub use finding::{Group, Report};

use crate::engine::Engine;
use crate::host::{Host, raise_open_files};
use crate::output;
use crate::serve::Options;

/// Looks at all of it, and writes what was found to stdout. The exit code is 1 if `serve` would not start.
///
/// # Errors
/// Stdout can't be written.
pub fn run(config: &Options, json: bool) -> anyhow::Result<ExitCode> {
    let report = examine(config, &Host::this());
    let mut text = Vec::new();
    if json {
        serde_json::to_writer_pretty(&mut text, &report)?;
        text.push(b'\n');
    } else {
        print::print(&report, &mut text)?;
    }
    output::print(text)?;
    Ok(if report.serve_would_start { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Looks at all of it.
pub fn examine(config: &Options, host: &Host) -> Report {
    // A server does the same, so everything that is tried from here on has a server's limit.
    raise_open_files();
    let chosen = config.server.engine.choice.choose();
    let has_rings = match &chosen {
        Ok(chosen) => chosen.engine == Engine::Uring,
        Err(error) => !error.is_unavailable(),
    };
    let mut kernel = kernel::findings(host, config, &chosen);
    kernel.push(landlock::finding(config));
    Report::new(vec![
        Group { name: "kernel", findings: kernel },
        Group { name: "limits", findings: limits::findings(host, config, has_rings) },
        Group { name: "network", findings: net::findings(host, config) },
        Group { name: "cpus", findings: cpu::findings(host, config) },
        Group { name: "data directory", findings: data_dir::findings(host, config) },
        Group { name: "clock", findings: clock::findings(host, config, SystemTime::now()) },
    ])
}

/// What sets a setting of the kernel, until the host starts again.
fn sysctl(name: &str, value: impl std::fmt::Display) -> String {
    format!("sysctl -w {name}={value}  # as root; a line in /etc/sysctl.d keeps it")
}

/// Bytes in the unit that suits them.
fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}
