//! `ringpost doctor`: checks everything that `serve` needs from a host, with the same options. It reports each fault,
//! its consequence, and how to fix it.
//!
//! Owns the checks, one file per subject, and the report. It must not know how a server runs. Checks try rather than
//! ask: they create the rings, bind the addresses, and write to the data directory. Invariant: a run changes nothing
//! and leaves no file behind. Settings are read through [`Host`], so that tests can describe other hosts.

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
mod text;
mod tls;

use std::process::ExitCode;
use std::time::SystemTime;

use rustls::pki_types::UnixTime;

pub use finding::{Group, Report};

use crate::engine::Engine;
use crate::host::{Host, raise_open_files};
use crate::output;
use crate::serve::Options;

/// Runs all checks and writes the report to stdout. Returns exit code 1 if `serve` would not start.
///
/// # Errors
/// Returns an error if stdout can't be written.
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

/// Runs all checks.
pub fn examine(config: &Options, host: &Host) -> Report {
    // A server does the same, so every check from here on has a server's limit.
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
        Group { name: "tls", findings: tls::findings(config, UnixTime::now()) },
        Group { name: "clock", findings: clock::findings(host, config, SystemTime::now()) },
    ])
}
