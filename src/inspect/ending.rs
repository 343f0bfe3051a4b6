//! Ends a command that reads a journal on SIGTERM or SIGINT. This also works if the command is a container's first
//! process, to which the kernel doesn't deliver signals that have no handler.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The number of the signal that asked the command to end, or 0.
#[derive(Debug)]
pub struct Ending(Arc<AtomicU8>);

impl Ending {
    /// Catches the signals. After the first signal the command has `grace` to end by itself. When that time has
    /// passed, or on a second signal, the process exits.
    ///
    /// # Errors
    /// A signal can't be caught, or the system refuses a thread.
    pub fn catch(grace: Duration) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let number = Arc::new(AtomicU8::new(0));
        let caught = number.clone();
        let context = runtime.enter();
        crate::signals::release(&[libc::SIGTERM, libc::SIGINT]);
        let mut terminate = Caught::new(SignalKind::terminate())?;
        let mut interrupt = Caught::new(SignalKind::interrupt())?;
        let task = async move {
            let first = either(&mut terminate, &mut interrupt).await;
            caught.store(first, Ordering::Relaxed);
            let last = tokio::time::timeout(grace, either(&mut terminate, &mut interrupt)).await.unwrap_or(first);
            std::process::exit(code(last).into());
        };
        drop(context);
        std::thread::Builder::new().name("signals".into()).spawn(move || runtime.block_on(task))?;
        Ok(Ending(number))
    }

    /// Returns the exit code once a signal has asked the command to end: the code that a shell reports for a program
    /// that was ended by that signal.
    #[inline]
    pub fn asked_for(&self) -> Option<ExitCode> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            number => Some(ExitCode::from(code(number))),
        }
    }
}

fn code(number: u8) -> u8 {
    128 + number
}

/// A signal, unless the process was started with that signal ignored, as a shell does with SIGINT for background
/// jobs.
struct Caught(Option<Signal>, u8);

impl Caught {
    fn new(kind: SignalKind) -> io::Result<Self> {
        let number = kind.as_raw_value();
        let caught = if is_ignored(number) { None } else { Some(signal(kind)?) };
        Ok(Caught(caught, number as u8))
    }

    async fn next(&mut self) -> u8 {
        match &mut self.0 {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        };
        self.1
    }
}

async fn either(one: &mut Caught, other: &mut Caught) -> u8 {
    tokio::select! {
        number = one.next() => number,
        number = other.next() => number,
    }
}

fn is_ignored(number: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask & (1 << (number - 1)) != 0
}
