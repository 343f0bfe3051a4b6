//! A report as text: the table on the terminal, and the sentences that the page shares with it.
//!
//! It measures and computes nothing.

use std::fmt::Write as _;

use super::report::{
    CpuReport, FaultReport, IdleReport, KneeReport, KneeStep, Latency, Report, ScheduleReport, ServerReport, Settings,
};
use super::terminal::fold;
use super::units::{count, duration_text, nanos_text, size};
use super::usage::Memory;

impl Report {
    /// Returns everything except latencies: a name and a sentence each.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let mut lines = Vec::new();
        if let Some(signal) = self.interrupted_by {
            let (seconds, asked) = (self.seconds, self.settings.duration_s);
            lines.push(("cut short", format!("by {signal}, after {seconds:.1} of {asked:.1} s")));
        }
        if let Some(idle) = &self.idle {
            lines.push(("idle", idle.in_words()));
        } else {
            let rate = count(self.requests_per_second.round() as u64);
            let (requests, megabytes) = (count(self.requests), self.megabytes_per_second);
            let text = format!("{requests} in {:.1} s: {rate} a second, {megabytes:.1} MB/s", self.seconds);
            lines.push(("requests", text));
        }
        if let Some(handshakes) = self.handshakes {
            let rate = if self.seconds > 0.0 { handshakes as f64 / self.seconds } else { 0.0 };
            let text =
                format!("{} of TLS, {} a second, all of them full", count(handshakes), count(rate.round() as u64));
            lines.push(("handshakes", text));
        }
        lines.extend(self.schedule.iter().map(|schedule| ("schedule", schedule.in_words())));
        if self.port_waits > 0 {
            let times = count(self.port_waits);
            let text = format!("no source port was free {times} times: this host limited the rate, not the server");
            lines.push(("ports", text));
        }
        if self.idle.is_none() {
            lines.push(("own CPU", self.own_cpu.in_words()));
        }
        if let Some(server) = &self.server {
            let cpu = match self.idle {
                Some(_) => format!("{:.1} % of one core while the connections were idle", server.cpu.cores * 100.0),
                None => server.in_words(),
            };
            lines.push(("server CPU", cpu));
            let Memory { resident, anonymous } = server.memory;
            lines.push(("memory", format!("{} resident, {} of it anonymous", size(resident), size(anonymous))));
        }
        lines.push(("acks", self.faults.in_words()));
        lines
    }

    /// Returns the table that is printed at the end, at most `columns` wide.
    pub fn table(&self, columns: usize) -> String {
        let mut out = String::new();
        fold(&mut out, "", &self.settings.in_words(), columns, 0);
        out.push('\n');
        // If the names would use half of a line, folded text is indented less.
        let indent = if columns >= 3 * NAME_COLUMNS { NAME_COLUMNS } else { 2 };
        let mut line = |name: &str, text: &str| {
            let prefix = format!("{name:<width$} ", width = NAME_COLUMNS - 1);
            fold(&mut out, &prefix, text, columns, indent);
        };
        let in_a_row = (columns.saturating_sub(NAME_COLUMNS) / LATENCY_COLUMNS).max(1);
        for (index, row) in self.latency.columns().chunks(in_a_row).enumerate() {
            let cells = |cell: fn(&(&'static str, f64)) -> String| {
                row.iter().map(|column| format!("{:>LATENCY_COLUMNS$}", cell(column))).collect::<String>()
            };
            line(if index == 0 { "latency" } else { "" }, &cells(|(name, _)| (*name).to_owned()));
            line("", &cells(|(_, us)| duration_text(*us)));
        }
        for (name, text) in self.lines() {
            line(name, &text);
        }
        for fault in &self.faults.first {
            line("", fault);
        }
        if let Some(knee) = &self.knee {
            let _ = writeln!(out, "\n{}", knee.table(columns));
        }
        out
    }
}

impl Settings {
    /// Returns all settings in one line.
    pub fn in_words(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(" at {} a second", count(rate)));
        let tls = self.tls.map_or(String::new(), |tls| format!(", {tls}"));
        format!(
            "{}{rate}: {} connections{tls}, window {}, payload {} bytes, {}, {}, to {}",
            self.mode,
            count(self.connections as u64),
            self.window,
            self.payload,
            self.time_in_words(),
            self.threads_in_words(),
            self.target
        )
    }

    /// Returns the measured time and the warm-up.
    pub fn time_in_words(&self) -> String {
        match self.warmup_s {
            0.0 => format!("{} s", self.duration_s),
            warmup => format!("{} s after {warmup} s of warm-up", self.duration_s),
        }
    }

    /// Returns the number of threads and their engine.
    pub fn threads_in_words(&self) -> String {
        format!("{} thread{} on {}", self.threads, if self.threads == 1 { "" } else { "s" }, self.io)
    }
}

impl Latency {
    /// Returns names and microseconds, in the order of a table.
    pub fn columns(&self) -> [(&'static str, f64); 7] {
        [
            ("p50", self.p50_us),
            ("p90", self.p90_us),
            ("p99", self.p99_us),
            ("p99.9", self.p999_us),
            ("p99.99", self.p9999_us),
            ("max", self.max_us),
            ("mean", self.mean_us),
        ]
    }
}

impl ScheduleReport {
    /// Returns whether the schedule was met, in one sentence.
    pub fn in_words(&self) -> String {
        let (asked, achieved) = (count(self.asked_per_second), count(self.achieved_per_second.round() as u64));
        if self.met {
            return format!("met: {achieved} of {asked} requests a second");
        }
        format!(
            "NOT MET: {achieved} of {asked} requests a second; {} requests were due and never sent. Latency counts \
             from the time at which a request was due, so it includes the delay of requests that were sent late",
            count(self.unsent)
        )
    }
}

impl CpuReport {
    /// Returns the CPU time, in one phrase.
    pub fn in_words(&self) -> String {
        format!("{} ns per request, {:.0} % of one core", nanos_text(self.ns_per_request), self.cores * 100.0)
    }
}

impl ServerReport {
    /// Returns the server's CPU time, in one phrase.
    pub fn in_words(&self) -> String {
        let exact = self
            .scheduled_ns_per_request
            .map_or(String::new(), |nanos| format!("; {} ns by the scheduler's count", nanos_text(nanos)));
        format!(
            "{} ({} user, {} system{exact})",
            self.cpu.in_words(),
            nanos_text(self.user_ns_per_request),
            nanos_text(self.system_ns_per_request)
        )
    }
}

impl IdleReport {
    /// Returns the cost of idle connections, in one sentence.
    pub fn in_words(&self) -> String {
        let mut text =
            format!("{} connections opened in {:.1} s", count(self.connections as u64), self.opening_seconds);
        if let (Some(resident), Some(anonymous)) = (self.resident_per_connection, self.anonymous_per_connection) {
            let _ = write!(
                text,
                "; each uses {resident:.0} bytes of the server's resident memory, {anonymous:.0} of them anonymous"
            );
        }
        text
    }
}

impl KneeReport {
    /// Returns the result of the search, in one sentence.
    pub fn in_words(&self) -> String {
        let slo = duration_text(self.slo_us);
        match self.rate {
            Some(rate) => format!("knee: {} a second is the last rate that was met with p99 within {slo}", count(rate)),
            None => format!("no knee: even the lowest rate was not met with p99 within {slo}"),
        }
    }

    fn table(&self, columns: usize) -> String {
        let mut out = String::new();
        knee_row(&mut out, ["requested/s", "achieved/s", "p50", "p99", ""], columns);
        for step in &self.steps {
            out += &step.row(columns);
        }
        fold(&mut out, "", &self.in_words(), columns, 0);
        out
    }
}

impl KneeStep {
    /// Returns whether the step was good, and if not, why.
    pub fn verdict(&self) -> &'static str {
        match (self.good, self.met) {
            (true, _) => "good",
            (false, true) => "too slow",
            (false, false) => "not met",
        }
    }

    /// Returns the step's row of the table of steps.
    pub fn row(&self, columns: usize) -> String {
        let (asked, achieved) = (count(self.rate), count(self.achieved_per_second.round() as u64));
        let (p50, p99) = (duration_text(self.p50_us), duration_text(self.p99_us));
        let mut out = String::new();
        knee_row(&mut out, [&asked, &achieved, &p50, &p99, self.verdict()], columns);
        out
    }
}

/// Appends a row with aligned columns, or with single spaces if that is too wide.
fn knee_row(out: &mut String, [asked, achieved, p50, p99, verdict]: [&str; 5], columns: usize) {
    let row = format!("{asked:>12} {achieved:>12} {p50:>10} {p99:>10}  {verdict}");
    if columns >= KNEE_COLUMNS {
        let _ = writeln!(out, "{}", row.trim_end());
    } else {
        fold(out, "", format!("{asked} {achieved} {p50} {p99} {verdict}").trim_end(), columns, 2);
    }
}

impl FaultReport {
    /// Returns the result of all checks, in one sentence.
    pub fn in_words(&self) -> String {
        if self.total == 0 {
            return "all good: the length, command, ID, order and result of every ack were correct".to_owned();
        }
        let kinds: Vec<_> = self.kinds.iter().map(|(name, number)| format!("{} {name}", count(*number))).collect();
        let first = if self.total > self.first.len() as u64 { "; the first ones:" } else { "" };
        format!("{} WRONG: {}{first}", count(self.total), kinds.join(", "))
    }
}

/// The width of the names of a table's lines, with the space after them.
const NAME_COLUMNS: usize = 13;
/// The width of one latency.
const LATENCY_COLUMNS: usize = 9;
/// The width of a row of the table of steps.
const KNEE_COLUMNS: usize = 57;
