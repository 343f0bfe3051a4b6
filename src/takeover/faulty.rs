//! A process that dies in the middle of a takeover, for the tests of what follows from that: in the dev
//! profile alone, and only where `RINGPOST_TEST_TAKEOVER_DIES` names a [`Step`].

/// How far the new process has come.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// It has the sockets.
    Offered,
    /// It has its rings and writers.
    Prepared,
    /// It has bound the sockets that it needs beside those.
    Bound,
    /// It may accept, and does not yet.
    Going,
}

/// Ends the process at once, if that was asked for.
pub fn die_if_wanted(here: Step) {
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == format!("{here:?}")) {
        std::process::abort();
    }
}

const VARIABLE: &str = "RINGPOST_TEST_TAKEOVER_DIES";
