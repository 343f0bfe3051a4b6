//! The effect of each signal on each command.
//!
//! Owns the process's signal handlers. It must not know what a command does when it ends.
//!
//! At SIGTERM and SIGINT, `journal cat` ends after a whole line, and `submit` with its summary.
//!
//! | signal | `serve` | `bench` | other commands |
//! |---|---|---|---|
//! | SIGTERM, SIGINT | drains; before it serves, ends with exit code 0 | stops, reports what was measured | ends |
//! | SIGQUIT | as SIGTERM | ends | ends |
//! | SIGXCPU, SIGPWR | as SIGTERM: the process or the host is about to end | ends | ends |
//! | SIGHUP | reads the files of TLS again | as SIGTERM | ends |
//! | SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO | logged | ends | ends |
//! | SIGXFSZ | a write over the limit of file sizes fails (EFBIG) | the same | the same |
//!
//! A signal that was ignored when the process started stays ignored (`nohup` uses that for SIGHUP), except SIGTERM and
//! SIGINT, because shells start a script's background jobs with SIGINT ignored.
//!
//! The kernel takes no default action for signals of process 1 of a container: a signal without a handler is lost. So
//! every command has handlers ([`prepare`]).

use std::future::poll_fn;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use libc::c_int;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use crate::log;

/// Signals that end a command, but that process 1 would not notice without a handler.
const ENDING: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Turns SIGXFSZ into an error of the write, and makes every ending signal end this process, even as process 1. Call it
/// first.
pub fn prepare() {
    raw::set(libc::SIGXFSZ, raw::Action::Ignore);
    if std::process::id() == 1 {
        for signal in ENDING.into_iter().filter(|signal| !stays_ignored(*signal)) {
            raw::set(signal, raw::Action::Call(raw::end));
        }
    }
}

/// Removes the handlers that [`prepare`] has set for these signals. Call it before tokio handles them, because tokio's
/// handler would call the one that ends the process.
pub fn release(signals: &[c_int]) {
    if std::process::id() == 1 {
        for signal in signals.iter().filter(|signal| !stays_ignored(**signal)) {
            raw::set(*signal, raw::Action::Default);
        }
    }
}

fn stays_ignored(signal: c_int) -> bool {
    signal != libc::SIGTERM && signal != libc::SIGINT && raw::is_ignored(signal)
}

/// The first signal that [`catch`] has caught, or 0.
static CAUGHT: AtomicI32 = AtomicI32::new(0);

/// Catches signals, so that a command which calls [`caught`] regularly can end by itself. A second signal ends the
/// process immediately.
pub fn catch() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP].into_iter().filter(|signal| !stays_ignored(*signal)) {
        raw::set(signal, raw::Action::Call(raw::note));
    }
}

/// Ends this process at SIGTERM or SIGINT, with the exit code that a shell reports for a program that was ended by that
/// signal. After the first signal, a command that checks [`caught_exit_code`] regularly has `grace` to end by itself,
/// in whole seconds. A second signal ends the process immediately. A signal that was ignored when the process started
/// stays ignored.
pub fn end_at_signal(grace: Duration) {
    let handler: extern "C" fn(c_int) = if grace.is_zero() { raw::end } else { raw::note_and_limit };
    GRACE_SECS.store(grace.as_secs() as u32, Ordering::Relaxed);
    if !grace.is_zero() {
        raw::set(libc::SIGALRM, raw::Action::Call(raw::end_as_caught));
    }
    for signal in [libc::SIGTERM, libc::SIGINT].into_iter().filter(|signal| !raw::is_ignored(*signal)) {
        raw::set(signal, raw::Action::Call(handler));
    }
}

/// How long a command may take to end by itself after a signal.
static GRACE_SECS: AtomicU32 = AtomicU32::new(0);

/// Returns the exit code once a signal has asked this command to end.
#[inline]
pub fn caught_exit_code() -> Option<ExitCode> {
    caught().map(|signal| ExitCode::from(128 + signal as u8))
}

/// Returns the number of the signal that asked this command to end.
#[inline]
pub fn caught() -> Option<i32> {
    Some(CAUGHT.load(Ordering::Relaxed)).filter(|signal| *signal != 0)
}

/// Returns a signal's name.
pub fn name(signal: i32) -> &'static str {
    HEARD.iter().find(|heard| heard.number == signal).map_or("a signal", |heard| heard.name)
}

/// The reaction of `serve` to a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    End,
    /// The files of TLS are read again.
    Reload,
    /// A line in the log that says why nothing happens.
    Ignored(&'static str),
}

struct Heard {
    number: c_int,
    name: &'static str,
    meaning: Meaning,
}

const HEARD: [Heard; 12] = {
    const fn ends(number: c_int, name: &'static str) -> Heard {
        Heard { number, name, meaning: Meaning::End }
    }
    const fn ignored(number: c_int, name: &'static str) -> Heard {
        Heard { number, name, meaning: Meaning::Ignored("it has no meaning for this server") }
    }
    [
        ends(libc::SIGTERM, "SIGTERM"),
        ends(libc::SIGINT, "SIGINT"),
        ends(libc::SIGQUIT, "SIGQUIT"),
        ends(libc::SIGXCPU, "SIGXCPU"),
        ends(libc::SIGPWR, "SIGPWR"),
        Heard { number: libc::SIGHUP, name: "SIGHUP", meaning: Meaning::Reload },
        ignored(libc::SIGUSR1, "SIGUSR1"),
        ignored(libc::SIGUSR2, "SIGUSR2"),
        ignored(libc::SIGALRM, "SIGALRM"),
        ignored(libc::SIGVTALRM, "SIGVTALRM"),
        ignored(libc::SIGPROF, "SIGPROF"),
        ignored(libc::SIGIO, "SIGIO"),
    ]
};

/// The signals of a server. A separate thread receives them, so that a start which prepares segments or waits for a
/// lock does not delay them.
pub struct Signals {
    heard: mpsc::Receiver<(&'static str, i32)>,
    phase: Arc<AtomicU8>,
}

/// The server serves nobody yet, so an ending signal ends the process.
const STARTING: u8 = 0;
/// An ending signal is passed to the server.
const SERVING: u8 = 1;
/// The thread is ending the process.
const ENDED: u8 = 2;

impl Signals {
    /// Starts to receive signals, on a thread that calls `prepare` first. A signal to reload notifies `reload`.
    ///
    /// # Errors
    /// A thread, a descriptor or a handler can't be had.
    pub fn start(prepare: impl FnOnce() + Send + 'static, reload: Arc<Notify>) -> io::Result<Signals> {
        release(&ENDING);
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let streams = {
            let _entered = runtime.enter();
            let heard = HEARD.iter().filter(|heard| !stays_ignored(heard.number));
            let stream = |heard| signal(SignalKind::from_raw(Heard::number(heard))).map(|stream| (heard, stream));
            heard.map(stream).collect::<io::Result<Vec<_>>>()?
        };
        let (sender, heard) = mpsc::channel(SIGNALS_MAX);
        let phase = Arc::new(AtomicU8::new(STARTING));
        let signals = Signals { heard, phase: phase.clone() };
        thread::Builder::new().name("signals".into()).spawn(move || {
            prepare();
            hear(&runtime, streams, &sender, &reload, &phase);
        })?;
        Ok(signals)
    }

    /// Marks that the server is about to accept. From here on [`Signals::next`] returns signals. This does not return
    /// if a signal has ended the start.
    pub fn serve(&self) {
        if self.phase.compare_exchange(STARTING, SERVING, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            loop {
                thread::park();
            }
        }
    }

    /// Returns the name and the number of the next signal that should end the server. Cancel-safe.
    pub async fn next(&mut self) -> (&'static str, i32) {
        self.heard.recv().await.expect("the thread lives as long as the process")
    }
}

impl Heard {
    fn number(&self) -> c_int {
        self.number
    }
}

/// The main loop of the signals' thread.
fn hear(
    runtime: &Runtime,
    mut streams: Vec<(&'static Heard, Signal)>,
    sender: &mpsc::Sender<(&'static str, i32)>,
    reload: &Notify,
    phase: &AtomicU8,
) {
    loop {
        let heard = runtime.block_on(poll_fn(|context| {
            let ready =
                streams.iter_mut().find_map(|(heard, stream)| stream.poll_recv(context).is_ready().then_some(*heard));
            ready.map_or(Poll::Pending, Poll::Ready)
        }));
        match heard.meaning {
            Meaning::Ignored(why) => info!(signal = heard.name, why, "signal ignored"),
            Meaning::Reload => {
                info!(signal = heard.name, "reloading");
                reload.notify_one();
            }
            Meaning::End => {
                if phase.compare_exchange(STARTING, ENDED, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    warn!(signal = heard.name, "signal ended the start; nothing was served");
                    log::flush(log::FLUSH_TIMEOUT);
                    std::process::exit(0);
                }
                let _ = sender.try_send((heard.name, heard.number));
            }
        }
    }
}

/// The most signals that wait to be handled. One more is dropped, because it would have the same effect.
const SIGNALS_MAX: usize = 4;

/// System calls that std and tokio do not offer.
#[allow(unsafe_code)]
mod raw {
    use std::mem::zeroed;
    use std::ptr::{null, null_mut};
    use std::sync::atomic::Ordering;

    use libc::{c_int, sigaction};

    /// The action of this process on a signal.
    pub enum Action {
        /// The kernel's default action.
        Default,
        /// The signal is discarded.
        Ignore,
        /// Calls this function, which may only do what is safe in a signal handler.
        Call(extern "C" fn(c_int)),
    }

    /// Sets the action of a signal. System calls that a handler interrupts are restarted. The kernel refuses only
    /// SIGKILL, SIGSTOP and numbers that are no signal; that refusal is ignored.
    pub fn set(signal: c_int, action: Action) {
        // SAFETY: all zeros is a valid sigaction: the default action, an empty mask and no flags.
        let mut new: sigaction = unsafe { zeroed() };
        new.sa_flags = libc::SA_RESTART;
        new.sa_sigaction = match action {
            Action::Default => libc::SIG_DFL,
            Action::Ignore => libc::SIG_IGN,
            Action::Call(handler) => handler as *const () as usize,
        };
        // SAFETY: `new` outlives the call, and its handler makes only async-signal-safe calls, as `Action::Call` asks.
        unsafe { sigaction(signal, &raw const new, null_mut()) };
    }

    /// Returns whether the process ignores a signal, for example because it inherited that from `nohup`.
    pub fn is_ignored(signal: c_int) -> bool {
        // SAFETY: as in `set`.
        let mut old: sigaction = unsafe { zeroed() };
        // SAFETY: with no new action the call only writes to `old`, which lives over it.
        let asked = unsafe { sigaction(signal, null(), &raw mut old) };
        asked == 0 && old.sa_sigaction == libc::SIG_IGN
    }

    /// Ends the process.
    pub extern "C" fn end(signal: c_int) {
        // SAFETY: _exit(2) is async-signal-safe.
        unsafe { libc::_exit(128 + signal) }
    }

    /// Keeps the first signal, and ends the process if the command has not ended by itself in time, or at the second
    /// signal.
    pub extern "C" fn note_and_limit(signal: c_int) {
        note(signal);
        // SAFETY: alarm(2) is async-signal-safe.
        unsafe { libc::alarm(super::GRACE_SECS.load(Ordering::Relaxed)) };
    }

    /// Ends the process with the exit code of the signal that was caught first.
    pub extern "C" fn end_as_caught(_: c_int) {
        end(super::CAUGHT.load(Ordering::Relaxed));
    }

    /// Keeps the first signal; ends the process at the second.
    pub extern "C" fn note(signal: c_int) {
        if super::CAUGHT.swap(signal, Ordering::Relaxed) != 0 {
            end(signal);
        }
    }
}
