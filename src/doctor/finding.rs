//! A finding: one thing that was looked at, what it means, and what to do about it.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// The server runs, but worse than it could, or with a surprise to come.
    Advice,
    /// The server does not start, or takes no message.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a few words; the same in every run.
    pub check: &'static str,
    pub level: Level,
    /// Whether `serve` would not start for it.
    pub stops_serve: bool,
    /// What was found.
    pub found: String,
    /// What that means for the server: a sentence.
    pub means: String,
    /// Commands and settings that mend it, each of them by itself; what follows a `#` says where.
    pub mend: Vec<String>,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>, means: impl Into<String>) -> Finding {
        let (found, means) = (found.into(), means.into());
        Finding { check, level: Level::Ok, stops_serve: false, found, means, mend: Vec::new() }
    }

    /// Nothing that keeps the server from running.
    pub fn advice(
        check: &'static str,
        found: impl Into<String>,
        means: impl Into<String>,
        mend: Vec<String>,
    ) -> Finding {
        Finding { level: Level::Advice, mend, ..Finding::ok(check, found, means) }
    }

    /// What `serve` would not start for.
    pub fn problem(
        check: &'static str,
        found: impl Into<String>,
        means: impl Into<String>,
        mend: Vec<String>,
    ) -> Finding {
        Finding { level: Level::Problem, stops_serve: true, mend, ..Finding::ok(check, found, means) }
    }
}

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub version: &'static str,
    /// Whether `serve` would start, as far as this can tell.
    pub serve_would_start: bool,
    pub groups: Vec<Group>,
}

/// What was found about one subject.
#[derive(Debug, Serialize)]
pub struct Group {
    pub name: &'static str,
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn new(groups: Vec<Group>) -> Report {
        let serve_would_start = !groups.iter().flat_map(|group| &group.findings).any(|finding| finding.stops_serve);
        Report { version: env!("CARGO_PKG_VERSION"), serve_would_start, groups }
    }

    /// How many findings are of this level.
    pub fn count(&self, level: Level) -> usize {
        self.groups.iter().flat_map(|group| &group.findings).filter(|finding| finding.level == level).count()
    }
}
