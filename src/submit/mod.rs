//! The `ringpost submit` command: each line of a file becomes one SUBMIT, pipelined.
//!
//! A thread reads the input in chunks, because a read of standard input blocks. A bounded channel passes the chunks to
//! the one task that splits them into lines, sends them and waits for acks. This module does not know how options are
//! typed. Invariant: memory is bounded by a few chunks, the longest line and the window.

mod input;

use std::collections::VecDeque;
use std::future::pending;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::select;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use self::input::{Chunks, Input, LineTooLong, Lines};
use crate::client::{self, Client, ConnectError, Error, Ticket, TlsOptions, TlsOptionsError, Unacked};
use crate::log::complain;
use crate::output::print;
use crate::proto::{AckResult, HEADER_LEN};
use crate::signals;

/// The options of a run.
#[derive(Debug)]
pub struct Options {
    /// The server, as HOST:PORT.
    pub addr: String,
    /// The file whose lines are sent, or standard input if there is none.
    pub file: Option<PathBuf>,
    /// The limit on the time without progress. Zero is no limit.
    pub timeout: Duration,
    /// The options of the connection, without TLS.
    pub client: client::Options,
    /// The options of TLS, or `None` if the connection is plain.
    pub tls: Option<TlsOptions>,
}

/// Runs the command and prints its summary, which is always the last line on stdout.
///
/// # Errors
/// The summary can't be written.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let mut tally = Tally::default();
    let outcome = submit(options, &mut tally);
    let seconds = started.elapsed().as_secs_f64();
    let code = match tally.complaint(outcome.err()) {
        None => ExitCode::SUCCESS,
        Some(complaint) => {
            complain(complaint);
            ExitCode::FAILURE
        }
    };
    let Tally { sent, acked, failed, .. } = tally;
    let per_second = ((acked + failed) as f64 / seconds.max(1e-9)) as u64;
    print(format!("sent={sent} acked={acked} failed={failed} seconds={seconds:.3} per_second={per_second}\n"))?;
    Ok(code)
}

fn submit(options: &Options, tally: &mut Tally) -> Result<(), Failure> {
    let input = Input::open(options.file.as_deref()).map_err(Failure::Open)?;
    let mut client_options = options.client.clone();
    if let Some(tls) = &options.tls {
        tls.warn_if_insecure();
        client_options = client_options.tls(tls.load()?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    runtime.block_on(async {
        signals::release(&[libc::SIGTERM, libc::SIGINT]);
        let client = select! {
            connected = Client::connect(options.addr.as_str(), &client_options) => connected?,
            failure = interrupted() => return Err(failure),
        };
        let mut run = Run {
            window: options.client.window,
            tickets: VecDeque::new(),
            lines: Lines::new(options.client.frame_len_max as usize - HEADER_LEN),
            watch: Watch::start(options.timeout, &client),
            bar: progress_bar(input.len()),
            tally,
            client,
        };
        let outcome = select! {
            biased;
            outcome = run.send_all(input.read().map_err(Failure::Start)?) => outcome,
            failure = interrupted() => Err(failure),
        };
        // A second signal ends the command without waiting for the rest.
        select! {
            () = run.close() => {}
            _ = interrupted() => {}
        }
        outcome
    })
}

async fn interrupted() -> Failure {
    if let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        return Failure::Interrupted;
    }
    pending().await
}

/// Returns a progress bar that counts the bytes of the lines sent. It is hidden unless stderr is a terminal.
fn progress_bar(input_len: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match input_len {
        Some(len) => (ProgressBar::new(len), "{wide_bar} {bytes}/{total_bytes}, {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {bytes} sent, {bytes_per_sec}"),
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is a constant"))
}

/// The reason why the command stopped before every line was acked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Open(input::OpenError),
    #[error("could not start: {0}")]
    Start(io::Error),
    #[error(transparent)]
    Tls(#[from] TlsOptionsError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("could not read the rest of the input: {0}")]
    Read(io::Error),
    #[error(transparent)]
    LineTooLong(#[from] LineTooLong),
    #[error("no progress for {0:?} (--timeout): the server sends no acks and reads no more bytes; {1}")]
    Stalled(Duration, Unacked),
    #[error(transparent)]
    Client(#[from] Error),
    #[error("interrupted by a signal")]
    Interrupted,
}

/// The outcome of the lines.
#[derive(Default)]
struct Tally {
    /// Lines read from the input.
    read: u64,
    /// Whether every line of the input was read.
    all_read: bool,
    /// Requests completely written to the socket.
    sent: u64,
    /// Requests acked with 0.
    acked: u64,
    /// Requests acked with 1.
    failed: u64,
}

impl Tally {
    fn count(&mut self, result: AckResult) {
        match result {
            AckResult::Success => self.acked += 1,
            AckResult::Failure => self.failed += 1,
        }
    }

    /// Returns how many lines were not acked, and why. `None` if all were acked.
    fn complaint(&self, failure: Option<Failure>) -> Option<String> {
        let Tally { read, acked, failed, .. } = *self;
        let refused =
            (failed > 0).then(|| format!("the server acked {failed} with a failure; see its log for the reason"));
        let why = match (failure.map(|failure| failure.to_string()), refused) {
            (None, None) => return None,
            (Some(why), None) | (None, Some(why)) => why,
            (Some(why), Some(refused)) => format!("{refused}; then: {why}"),
        };
        let not_acked = read - acked;
        Some(match (read, self.all_read) {
            (0, _) => format!("no line was sent: {why}"),
            (_, true) => format!("{not_acked} of {read} lines were not acked: {why}"),
            (_, false) => format!("{not_acked} of the {read} lines read so far were not acked: {why}"),
        })
    }
}

/// A run over an open connection.
struct Run<'a> {
    client: Client,
    window: usize,
    /// The unacked requests, oldest first, never more than the window.
    tickets: VecDeque<Ticket>,
    lines: Lines,
    watch: Watch,
    tally: &'a mut Tally,
    bar: ProgressBar,
}

impl Run<'_> {
    /// Sends every line and waits for every ack. If the input fails, it still waits for the acks of the lines sent.
    async fn send_all(&mut self, mut chunks: Chunks) -> Result<(), Failure> {
        let mut input_done = false;
        let mut cut_short = None;
        loop {
            match self.send_lines().await {
                Err(error @ Failure::LineTooLong(_)) => {
                    (input_done, cut_short) = (true, Some(error));
                    self.lines.clear();
                }
                outcome => outcome?,
            }
            // If there is room in the window, every line that was read has been sent.
            let has_room = self.tickets.len() < self.window;
            self.tally.all_read = has_room && input_done && cut_short.is_none();
            if input_done && self.tickets.is_empty() {
                return cut_short.map_or(Ok(()), Err);
            }
            select! {
                biased;
                answer = oldest_answer(&mut self.tickets) => match answer {
                    Ok(result) => {
                        self.tickets.pop_front();
                        self.tally.count(result);
                        self.watch.moved_at = Instant::now();
                    }
                    Err(Error::ReadDeadline { unacked }) => self.watch.check(&self.client, unacked)?,
                    Err(error) => return Err(error.into()),
                },
                chunk = chunks.recv(), if has_room && !input_done => match chunk {
                    Some(Ok(chunk)) => self.lines.push(&chunk),
                    Some(Err(error)) => (input_done, cut_short) = (true, Some(Failure::Read(error))),
                    None => {
                        self.lines.end();
                        input_done = true;
                    }
                },
            }
        }
    }

    /// Sends lines until none are left or the window is full.
    async fn send_lines(&mut self) -> Result<(), Failure> {
        while self.tickets.len() < self.window {
            let line = match self.lines.next() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(error) => {
                    self.tally.read += 1;
                    return Err(error.into());
                }
            };
            self.tally.read += 1;
            if self.tickets.is_empty() {
                // No request was unacked until now, so the time without progress starts here.
                self.watch.moved_at = Instant::now();
            }
            let ticket = loop {
                match self.client.send(line).await {
                    Err(Error::ReadDeadline { unacked }) => self.watch.check(&self.client, unacked)?,
                    outcome => break outcome?,
                }
            };
            self.tickets.push_back(ticket);
        }
        self.bar.set_position(self.lines.taken());
        Ok(())
    }

    /// Closes the connection and counts the outcomes of the requests.
    async fn close(mut self) {
        let unacked = self.client.close().await;
        for ticket in &mut self.tickets {
            if let Ok(result) = ticket.wait().await {
                self.tally.count(result);
            }
        }
        self.tally.sent = self.tally.acked + self.tally.failed + unacked.written.count() as u64;
        self.bar.finish_and_clear();
    }
}

async fn oldest_answer(tickets: &mut VecDeque<Ticket>) -> Result<AckResult, Error> {
    match tickets.front_mut() {
        Some(ticket) => ticket.wait().await,
        None => pending().await,
    }
}

/// Distinguishes a slow server from one that makes no progress.
///
/// Progress is an ack, or bytes that the socket accepts. Nothing can wait for the latter, so a read deadline ends the
/// wait four times in each timeout to check for them.
struct Watch {
    /// The limit on the time without progress. Zero is no limit.
    timeout: Duration,
    moved_at: Instant,
    bytes_written: u64,
}

impl Watch {
    fn start(timeout: Duration, client: &Client) -> Self {
        let watch = Watch { timeout, moved_at: Instant::now(), bytes_written: 0 };
        if !timeout.is_zero() {
            watch.check_again(client, watch.moved_at);
        }
        watch
    }

    /// Checks for progress since the last check, at the read deadline.
    fn check(&mut self, client: &Client, unacked: Unacked) -> Result<(), Failure> {
        let now = Instant::now();
        if unacked.bytes_written > self.bytes_written {
            self.bytes_written = unacked.bytes_written;
            self.moved_at = now;
        }
        if now.duration_since(self.moved_at) >= self.timeout {
            return Err(Failure::Stalled(self.timeout, unacked));
        }
        self.check_again(client, now);
        Ok(())
    }

    fn check_again(&self, client: &Client, now: Instant) {
        client.set_read_deadline(now.checked_add(self.timeout / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaint_has_the_number_of_lines_and_the_reason() {
        let tally = |read, acked, failed, all_read| Tally { read, all_read, sent: read, acked, failed };
        assert_eq!(tally(3, 3, 0, true).complaint(None), None);
        assert_eq!(tally(0, 0, 0, true).complaint(None), None, "an empty file");
        let complaint = tally(3, 1, 2, true).complaint(None).unwrap();
        assert_eq!(
            complaint,
            "2 of 3 lines were not acked: the server acked 2 with a failure; see its log for the reason"
        );
        let complaint = tally(3, 1, 0, false).complaint(Some(Failure::Interrupted)).unwrap();
        assert_eq!(complaint, "2 of the 3 lines read so far were not acked: interrupted by a signal");
        let complaint = tally(0, 0, 0, false).complaint(Some(Failure::Interrupted)).unwrap();
        assert_eq!(complaint, "no line was sent: interrupted by a signal");
    }
}
