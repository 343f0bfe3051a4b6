//! The log: lines on stderr, written by their own thread. No shard ever waits for the reader of the log, and a line
//! that can't be written does not end the process.
//!
//! The thread that logs a line formats it and adds it to a queue of limited length ([`QUEUE_LEN_MAX`]). If stderr
//! accepts nothing (a pipe that nobody reads, a disk that hangs) and the queue is full, lines are dropped and counted
//! ([`dropped`]). Lines whose write fails (the reader has closed the pipe, the disk is full) are counted too. When a
//! line can be written again, a line with the number of dropped lines comes first, in their place.
//!
//! This applies to `serve`, which holds its lines until [`start_thread`] is called, because it must have no second
//! thread before it is confined. In every other command the thread that logs a line writes it, and waits for the reader
//! as all programs do.
//!
//! Code that ends the process calls [`flush`] first, which waits for a limited time too.

use std::cell::RefCell;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::level_filters::LevelFilter;
use tracing::{Level, error, warn};

use crate::output::write_all;

/// How the log is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The form of a line.
    pub format: Format,
    /// The least severe lines that are written.
    pub level: Level,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people, coloured on a terminal.
    Text,
    /// One JSON object.
    Json,
}

static LOG: Log = Log::new(QUEUE_LEN_MAX);

/// Sends log lines, and panics as log lines, to stderr. With `never_waits` they are held until [`start_thread`] or
/// [`flush`] is called.
pub fn start(options: &Options, never_waits: bool) {
    if never_waits {
        LOG.queue().mode = Mode::Held;
    }
    // tracing would report an error of the writer with eprintln!, which panics. This writer returns no errors.
    let lines = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(options.level))
        .with_target(false)
        .log_internal_errors(false);
    let lines = lines.with_writer(|| Line);
    match options.format {
        Format::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        Format::Json => lines.json().init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        error!("{panic}");
        // A second panic while this one unwinds may abort the process, and then no other code of this crate would run.
        flush(PANIC_FLUSH_TIMEOUT);
    }));
}

/// Starts the thread that writes. From then on no other thread waits for stderr. The new thread calls `prepare` first.
pub fn start_thread(prepare: impl FnOnce() + Send + 'static) {
    let mut queue = LOG.queue();
    let body = move || {
        prepare();
        LOG.write_queued();
    };
    match thread::Builder::new().name("log".into()).spawn(body) {
        Ok(_) => queue.mode = Mode::Thread,
        Err(error) => {
            let lost = queue.write_held();
            LOG.dropped.fetch_add(lost, Ordering::Relaxed);
            queue.mode = Mode::Direct { never_waits: true };
            drop(queue);
            warn!("can't start a thread for the log, so shards may wait for stderr: {error}");
        }
    }
}

/// Waits until every line logged so far is written, at most for `timeout`.
pub fn flush(timeout: Duration) {
    LOG.flush(timeout);
}

/// Writes `error: ...` to stderr, after all log lines. If stderr can't be written, only the exit code reports the
/// error.
pub fn complain(error: impl Display) {
    flush(FLUSH_TIMEOUT);
    let _ = write_all(io::stderr().as_fd(), format!("error: {error}\n").as_bytes(), LOG.queue().patience());
}

/// The number of lines that were not written, because the queue was full or their write failed.
pub fn dropped() -> u64 {
    LOG.dropped.load(Ordering::Relaxed)
}

/// Flushes the log when it is dropped, even if a panic drops it.
pub struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush(FLUSH_TIMEOUT);
    }
}

struct Log {
    queue: Mutex<Queue>,
    /// Signalled when there is a line to write.
    queued: Condvar,
    /// Signalled when the thread has written the lines that it had taken.
    written: Condvar,
    dropped: AtomicU64,
    /// The most bytes of lines that may wait to be written.
    len_max: usize,
}

/// The thread that writes lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// The thread that logs them.
    Direct { never_waits: bool },
    /// No thread yet.
    Held,
    /// The log's own thread.
    Thread,
}

struct Queue {
    mode: Mode,
    /// Whole lines, in the order in which they were logged.
    lines: Vec<u8>,
    /// Lines dropped since the thread last took some. While this is not 0, all further lines are dropped too, because
    /// the line that reports them belongs after `lines`.
    dropped: u64,
    /// Bytes that the thread has taken and not yet written.
    len_taken: usize,
    is_writing: bool,
    /// The output that other threads use while the log has no thread.
    output: Output,
}

/// stderr, and the state after failed writes to it.
#[derive(Default)]
struct Output {
    /// The descriptor of a test, instead of stderr.
    to: Option<OwnedFd>,
    /// Dropped lines that were not reported yet.
    unreported: u64,
    /// Whether the last line was written only in part.
    is_torn: bool,
    /// Whether the last write waited without a result: the next one doesn't wait.
    is_stuck: bool,
}

impl Log {
    const fn new(len_max: usize) -> Self {
        let output = Output { to: None, unreported: 0, is_torn: false, is_stuck: false };
        let mode = Mode::Direct { never_waits: false };
        let queue = Queue { mode, lines: Vec::new(), dropped: 0, len_taken: 0, is_writing: false, output };
        Log {
            queue: Mutex::new(queue),
            queued: Condvar::new(),
            written: Condvar::new(),
            dropped: AtomicU64::new(0),
            len_max,
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.queue();
        if let Mode::Direct { .. } = queue.mode {
            let patience = queue.patience();
            let lost = queue.output.write(line, patience);
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            return;
        }
        if queue.dropped > 0 || queue.lines.len() + queue.len_taken + line.len() > self.len_max {
            queue.dropped += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.lines.extend_from_slice(line);
        drop(queue);
        self.queued.notify_one();
    }

    fn flush(&self, timeout: Duration) {
        let mut queue = self.queue();
        if queue.mode == Mode::Held {
            let lost = queue.write_held();
            self.dropped.fetch_add(lost, Ordering::Relaxed);
        }
        let is_busy = |queue: &mut Queue| queue.mode == Mode::Thread && (queue.is_writing || queue.has_work());
        drop(self.written.wait_timeout_while(queue, timeout, is_busy));
    }

    /// The main loop of the log's thread.
    fn write_queued(&self) -> ! {
        let mut output = std::mem::take(&mut self.queue().output);
        let mut taken = Vec::new();
        loop {
            let mut queue = self.queue();
            (queue.is_writing, queue.len_taken) = (false, 0);
            self.written.notify_all();
            while !queue.has_work() {
                queue = self.queued.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut queue.lines, &mut taken);
            let dropped = std::mem::take(&mut queue.dropped);
            (queue.is_writing, queue.len_taken) = (true, taken.len());
            drop(queue);

            let lost = output.write(&taken, None);
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            output.unreported += dropped;
            output.report_dropped(None);
            taken.clear();
            // Free the memory that a burst needed.
            taken.shrink_to(KEPT_CAPACITY);
        }
    }
}

impl Queue {
    /// Returns how long this process waits until stderr can be written. Most commands wait without a limit (`None`).
    fn patience(&self) -> Option<Duration> {
        (self.mode != Mode::Direct { never_waits: false }).then_some(FLUSH_TIMEOUT)
    }

    /// Writes the lines that were held for the log's thread. Returns how many lines were lost.
    fn write_held(&mut self) -> u64 {
        let lines = std::mem::take(&mut self.lines);
        self.output.write(&lines, Some(FLUSH_TIMEOUT))
    }

    fn has_work(&self) -> bool {
        !self.lines.is_empty() || self.dropped > 0
    }
}

impl Output {
    /// Writes whole lines, after a line that reports earlier lost lines. Returns how many of `lines` were lost.
    fn write(&mut self, lines: &[u8], patience: Option<Duration>) -> u64 {
        self.report_dropped(patience);
        let lost = self.try_write(lines, patience);
        self.unreported += lost;
        lost
    }

    /// Tries to write a line about dropped lines, if there are any.
    fn report_dropped(&mut self, patience: Option<Duration>) {
        if self.unreported == 0 {
            return;
        }
        let note = capture(|| {
            let lines = self.unreported;
            let what = "dropped log lines: stderr could not be written, or was too slow";
            // Use a level that is shown.
            if tracing::enabled!(Level::WARN) { warn!(lines, "{what}") } else { error!(lines, "{what}") }
        });
        if self.try_write(&note, patience) == 0 {
            self.unreported = 0;
        }
    }

    /// Writes whole lines. Returns how many were lost.
    fn try_write(&mut self, lines: &[u8], patience: Option<Duration>) -> u64 {
        if lines.is_empty() {
            return 0;
        }
        let patience = patience.map(|patience| if self.is_stuck { Duration::ZERO } else { patience });
        let stderr = io::stderr();
        let to = self.to.as_ref().map_or(stderr.as_fd(), AsFd::as_fd);
        if self.is_torn && write_all(to, b"\n", patience).is_ok() {
            self.is_torn = false;
        }
        let written = write_all(to, lines, patience);
        self.is_stuck = written.is_err();
        let Err(failed) = written else { return 0 };
        if failed.written > 0 {
            self.is_torn = lines[failed.written - 1] != b'\n';
        }
        lines[failed.written..].iter().filter(|byte| **byte == b'\n').count() as u64
    }
}

thread_local! {
    /// The buffer that this thread's lines go to instead of the queue.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Returns the lines that `log` logs, in the usual format.
fn capture(log: impl FnOnce()) -> Vec<u8> {
    CAPTURED.set(Some(Vec::new()));
    log();
    CAPTURED.take().unwrap_or_default()
}

/// The writer to which tracing writes each formatted line, in one call. It never fails.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let captured = CAPTURED.with_borrow_mut(|captured| {
            let is_captured = captured.is_some();
            captured.iter_mut().for_each(|lines| lines.extend_from_slice(line));
            is_captured
        });
        if !captured {
            LOG.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes of memory that the queue keeps while it is empty.
const KEPT_CAPACITY: usize = 64 << 10;

/// How long the process waits at its end for the last log lines to be written to stderr.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a panic waits for its own line to be written. Its shard may survive the panic, but serves no connection
/// meanwhile.
const PANIC_FLUSH_TIMEOUT: Duration = Duration::from_millis(100);
/// The most bytes of log lines that wait to be written to stderr. Further lines are dropped and counted. This is enough
/// for a burst of about 20,000 lines.
const QUEUE_LEN_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{PipeReader, Read, pipe};
    use std::time::Instant;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// Runs `body` with lines formatted as [`start`] formats them, but without time and color.
    fn formatted<T>(body: impl FnOnce() -> T) -> T {
        let lines = tracing_subscriber::fmt().with_target(false).without_time().with_ansi(false);
        tracing::subscriber::with_default(lines.with_writer(|| Line).finish(), body)
    }

    /// A log with a thread, whose lines go to a pipe of one page that nobody reads yet.
    fn to_a_pipe(len_max: usize) -> (&'static Log, PipeReader) {
        let (read, write) = pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&write, 4096).unwrap();
        let log: &Log = Box::leak(Box::new(Log::new(len_max)));
        log.queue().output.to = Some(write.into());
        log.queue().mode = Mode::Thread;
        thread::spawn(move || formatted(|| log.write_queued()));
        (log, read)
    }

    /// Reads until it has read `end`.
    fn read_until(read: &mut PipeReader, end: &str) -> String {
        let mut text = String::new();
        let mut part = [0; 4096];
        let deadline = Instant::now() + Duration::from_secs(20);
        while !text.ends_with(end) {
            let wait = Timespec { tv_sec: 1, tv_nsec: 0 };
            let has_some = poll(&mut [PollFd::new(&*read, PollFlags::IN)], Some(&wait)).unwrap() > 0;
            assert!(has_some || Instant::now() < deadline, "no {end:?} after {text:?}");
            if !has_some {
                continue;
            }
            let len = read.read(&mut part).unwrap();
            text.push_str(std::str::from_utf8(&part[..len]).unwrap());
        }
        text
    }

    /// The numbered lines in a text, which are in their place, and those that it reports as dropped.
    fn lines_and_dropped(text: &str) -> usize {
        text.lines().fold(0, |number, line| match line.split_once(" WARN dropped log lines") {
            Some((_, report)) => number + report.split_once("lines=").unwrap().1.parse::<usize>().unwrap(),
            None => {
                assert_eq!(line.trim().parse(), Ok(number), "{text}");
                number + 1
            }
        })
    }

    #[test]
    fn a_log_that_nobody_reads_holds_up_nobody_and_says_in_its_place_what_was_dropped() {
        const LEN: usize = 100;
        let (log, mut read) = to_a_pipe(100 * LEN);
        let line = |number: usize| format!("{number:>width$}\n", width = LEN - 1);
        let began = Instant::now();
        (0..1000).for_each(|number| log.push(line(number).as_bytes()));
        log.flush(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        let dropped = log.dropped.load(Ordering::Relaxed);
        // The lines that fit are those of the queue's limit, and at most a page in the pipe in addition.
        assert!((850..=900).contains(&dropped), "{dropped}");
        let queue = log.queue();
        assert_eq!(queue.lines.len() + queue.len_taken, 100 * LEN);
        drop(queue);

        // The thread may find the queue full more than once, and reports each time what was dropped until then.
        let mut text = String::new();
        while lines_and_dropped(&text) < 1000 {
            text += &read_until(&mut read, "\n");
        }
        assert_eq!(lines_and_dropped(&text), 1000);
        assert_eq!(text.matches("dropped log lines").count() as u64 + 1000 - dropped, text.lines().count() as u64);
        log.push(b"next\n");
        assert_eq!(read_until(&mut read, "next\n"), "next\n");
        assert_eq!(log.dropped.load(Ordering::Relaxed), dropped);
    }

    #[test]
    fn lines_whose_write_fails_are_reported_by_the_first_that_can_be_written() {
        let (mut read, write) = pipe().unwrap();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut output = Output { to: Some(full.into()), ..Output::default() };
        formatted(|| {
            assert_eq!(output.write(b"one\ntwo\n", None), 2);
            assert_eq!(output.write(b"three\n", None), 1);
            output.to = Some(write.into());
            output.is_torn = true;
            assert_eq!(output.write(b"four\n", None), 0);
        });
        drop(output);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let note = "WARN dropped log lines: stderr could not be written, or was too slow lines=3";
        assert_eq!(text, format!("\n {note}\nfour\n"), "a torn line is ended first");
    }

    #[test]
    fn without_a_thread_a_full_pipe_is_waited_for_once() {
        let (_read, write) = pipe().unwrap();
        let mut output = Output { to: Some(write.into()), ..Output::default() };
        let patience = Some(Duration::from_millis(200));
        assert!(output.write(&b"line\n".repeat(100_000), patience) > 0);
        let began = Instant::now();
        (0..100).for_each(|_| assert_eq!(output.write(b"line\n", patience), 1));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}
