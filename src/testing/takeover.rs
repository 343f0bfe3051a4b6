//! A new server that dies during a takeover, at the [`Step`] that `RINGPOST_TEST_TAKEOVER_DIES` names.

/// How far the new server has come.
#[derive(Debug, Clone, Copy)]
pub enum Step {
    /// The new server has received the sockets.
    Offered,
    /// The new server has its shards and writers.
    Prepared,
    /// The new server has bound the sockets that it needs beside the received ones.
    Bound,
    /// The new server may accept, but has not begun to.
    Going,
}

/// Aborts the process if the variable names this step.
pub fn die_if_wanted(here: Step) {
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == format!("{here:?}")) {
        std::process::abort();
    }
}

const VARIABLE: &str = "RINGPOST_TEST_TAKEOVER_DIES";
