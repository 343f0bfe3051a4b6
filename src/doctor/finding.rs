//! A finding: the result of one check, its consequence for the server, and how to fix it.
//!
//! Owns the report and its JSON form. It must not know any check. Invariant: a finding that stops `serve` is a problem.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// There is no fault.
    Ok,
    /// The server runs, but worse than it could, or it will fail later.
    Advice,
    /// The server does not start, or accepts no message.
    Problem,
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, which is the same in every run.
    pub check: &'static str,
    /// The severity.
    pub level: Level,
    /// Whether `serve` does not start because of this fault.
    pub stops_serve: bool,
    /// The state of the host, as a sentence without a full stop.
    pub found: String,
    /// The consequence for the server, as a sentence without a full stop.
    pub means: String,
    /// Commands and settings that fix the fault or find its cause. The text after a `#` is a comment.
    pub fix: Vec<String>,
}

impl Finding {
    /// Creates a finding about something that is as it should be.
    pub fn ok(check: &'static str, found: impl Into<String>, means: impl Into<String>) -> Finding {
        let (found, means) = (found.into(), means.into());
        Finding { check, level: Level::Ok, stops_serve: false, found, means, fix: Vec::new() }
    }

    /// Creates a finding about a fault with which the server runs.
    pub fn advice(
        check: &'static str,
        found: impl Into<String>,
        means: impl Into<String>,
        fix: Vec<String>,
    ) -> Finding {
        Finding { level: Level::Advice, fix, ..Finding::ok(check, found, means) }
    }

    /// Creates a finding about a fault with which `serve` does not start.
    pub fn problem(
        check: &'static str,
        found: impl Into<String>,
        means: impl Into<String>,
        fix: Vec<String>,
    ) -> Finding {
        Finding { level: Level::Problem, stops_serve: true, fix, ..Finding::ok(check, found, means) }
    }
}

/// The results of all checks.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Ringpost's version.
    pub version: &'static str,
    /// Whether `serve` would start, as far as the checks show.
    pub serve_would_start: bool,
    /// The findings by subject.
    pub groups: Vec<Group>,
}

/// The findings about one subject.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The subject.
    pub name: &'static str,
    /// The findings, in the order of the checks.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Creates a report, and judges from the findings whether `serve` would start.
    pub fn new(groups: Vec<Group>) -> Report {
        let serve_would_start = !groups.iter().flat_map(|group| &group.findings).any(|finding| finding.stops_serve);
        Report { version: env!("CARGO_PKG_VERSION"), serve_would_start, groups }
    }

    /// Returns the number of findings of this level.
    pub fn count(&self, level: Level) -> usize {
        self.groups.iter().flat_map(|group| &group.findings).filter(|finding| finding.level == level).count()
    }
}
