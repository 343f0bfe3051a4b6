//! A report in words: the table on the terminal, and the sentences that the page shares with it.

use std::fmt::Write as _;

use super::report::{
    CpuReport, FaultReport, IdleReport, KneeReport, KneeStep, Latency, Report, ScheduleReport, ServerReport, Settings,
};
use super::terminal::fold;
use super::usage::Memory;

/// The columns for the names of a table's lines, and the space after them.
const NAME_COLUMNS: usize = 13;
const LATENCY_COLUMNS: usize = 9;
/// A row of the steps of a knee search.
const KNEE_COLUMNS: usize = 57;

impl Report {
    /// What there is to say besides latencies: a name and a sentence each.
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
        lines.extend(self.schedule.iter().map(|schedule| ("schedule", schedule.in_words())));
        if self.port_waits > 0 {
            let times = count(self.port_waits);
            let text = format!("{times} times no source port was free: this host held the rate back, not the server");
            lines.push(("ports", text));
        }
        if self.idle.is_none() {
            lines.push(("own CPU", self.own_cpu.in_words()));
        }
        if let Some(server) = &self.server {
            let cpu = match self.idle {
                Some(_) => format!("{:.1} % of one core while they were held", server.cpu.cores * 100.0),
                None => server.in_words(),
            };
            lines.push(("server CPU", cpu));
            let Memory { resident, anonymous } = server.memory;
            lines.push(("memory", format!("{} resident, {} of it the server's own", size(resident), size(anonymous))));
        }
        lines.push(("acks", self.faults.in_words()));
        lines
    }

    /// The table that is printed at the end, at most `columns` wide.
    pub fn table(&self, columns: usize) -> String {
        let mut out = String::new();
        fold(&mut out, "", &self.settings.in_words(), columns, 0);
        out.push('\n');
        // If names would fill half of a line, folded text is indented less.
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
    /// One line.
    pub fn in_words(&self) -> String {
        let rate = self.rate.map_or(String::new(), |rate| format!(" at {} a second", count(rate)));
        format!(
            "{}{rate}: {} connections, window {}, payload {} bytes, {}, {}, to {}",
            self.mode,
            count(self.connections as u64),
            self.window,
            self.payload,
            self.time_in_words(),
            self.threads_in_words(),
            self.target
        )
    }

    pub fn time_in_words(&self) -> String {
        match self.warmup_s {
            0.0 => format!("{} s", self.duration_s),
            warmup => format!("{} s after {warmup} s of warm-up", self.duration_s),
        }
    }

    pub fn threads_in_words(&self) -> String {
        format!("{} thread{} on {}", self.threads, if self.threads == 1 { "" } else { "s" }, self.io)
    }
}

impl Latency {
    /// Names and microseconds, as tables show them.
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
    pub fn in_words(&self) -> String {
        let (asked, achieved) = (count(self.asked_per_second), count(self.achieved_per_second.round() as u64));
        if self.met {
            return format!("met: {asked} a second asked, {achieved} achieved");
        }
        format!(
            "NOT MET: {asked} a second asked, {achieved} achieved; {} requests were due and never sent. \
             Latencies count from when a request was due, so they hold the waiting of those that were",
            count(self.unsent)
        )
    }
}

impl CpuReport {
    pub fn in_words(&self) -> String {
        format!("{} ns a request, {:.0} % of one core", nanos_text(self.ns_per_request), self.cores * 100.0)
    }
}

impl ServerReport {
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
    pub fn in_words(&self) -> String {
        let mut text =
            format!("{} connections opened in {:.1} s", count(self.connections as u64), self.opening_seconds);
        if let (Some(resident), Some(anonymous)) = (self.resident_per_connection, self.anonymous_per_connection) {
            let _ =
                write!(text, "; each costs the server {resident:.0} bytes resident, {anonymous:.0} of them its own");
        }
        text
    }
}

impl KneeReport {
    pub fn in_words(&self) -> String {
        let slo = duration_text(self.slo_us);
        match self.rate {
            Some(rate) => format!("knee: {} a second is the last rate that was met with p99 within {slo}", count(rate)),
            None => format!("no knee: even the lowest rate was not met with p99 within {slo}"),
        }
    }

    fn table(&self, columns: usize) -> String {
        let mut out = String::new();
        knee_row(&mut out, ["asked/s", "achieved/s", "p50", "p99", ""], columns);
        for step in &self.steps {
            out += &step.row(columns);
        }
        fold(&mut out, "", &self.in_words(), columns, 0);
        out
    }
}

impl KneeStep {
    pub fn verdict(&self) -> &'static str {
        match (self.good, self.met) {
            (true, _) => "good",
            (false, true) => "too slow",
            (false, false) => "not met",
        }
    }

    /// A line of the table of steps.
    pub fn row(&self, columns: usize) -> String {
        let (asked, achieved) = (count(self.rate), count(self.achieved_per_second.round() as u64));
        let (p50, p99) = (duration_text(self.p50_us), duration_text(self.p99_us));
        let mut out = String::new();
        knee_row(&mut out, [&asked, &achieved, &p50, &p99, self.verdict()], columns);
        out
    }
}

/// Appends a row in columns, or separated by spaces if columns don't fit.
fn knee_row(out: &mut String, [asked, achieved, p50, p99, verdict]: [&str; 5], columns: usize) {
    let row = format!("{asked:>12} {achieved:>12} {p50:>10} {p99:>10}  {verdict}");
    if columns >= KNEE_COLUMNS {
        let _ = writeln!(out, "{}", row.trim_end());
    } else {
        fold(out, "", format!("{asked} {achieved} {p50} {p99} {verdict}").trim_end(), columns, 2);
    }
}

impl FaultReport {
    pub fn in_words(&self) -> String {
        if self.total == 0 {
            return "all good: length, command, ID, result and order of each were right".to_owned();
        }
        let kinds: Vec<_> = self.kinds.iter().map(|(name, number)| format!("{} {name}", count(*number))).collect();
        let first = if self.total > self.first.len() as u64 { "; the first of them" } else { "" };
        format!("{} WRONG: {}{first}", count(self.total), kinds.join(", "))
    }
}

/// A number with commas: 1,234,567.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Microseconds with three digits and a unit that suits them: 352 µs, 1.64 ms, 1.01 s.
pub fn duration_text(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 999_500.0 => (us / 1e6, "s"),
        us if us >= 999.5 => (us / 1e3, "ms"),
        us => (us, "µs"),
    };
    let decimals = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$} {unit}")
}

fn nanos_text(nanos: f64) -> String {
    if nanos >= 1000.0 { count(nanos.round() as u64) } else { format!("{nanos:.1}") }
}

/// Bytes as MB, where a megabyte is 1,000,000.
fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1000, 1234567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let us = [0.5, 9.999, 352.4, 999.9, 1640.0, 1_008_000.0];
        assert_eq!(us.map(duration_text), ["0.50 µs", "10.0 µs", "352 µs", "1.00 ms", "1.64 ms", "1.01 s"]);
        assert_eq!([85.84, 5309.4].map(nanos_text), ["85.8", "5,309"]);
    }
}
