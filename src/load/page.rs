//! The report as one self-contained HTML page (`--html`), with its styles and charts.
//!
//! It has nothing to do with the page of the admin address, and computes nothing: all numbers are in [`Report`].

use std::fmt::Write as _;

use super::chart::{Axis, Line, legend, svg};
use super::measured::Second;
use super::report::{KneeReport, KneeStep, Report};
use super::units::{count, duration_text};

/// Returns the page as HTML.
pub fn page(report: &Report) -> String {
    let settings = &report.settings;
    let headline = match &report.knee {
        Some(knee) => knee.in_words(),
        None => format!("{}, {} connections", settings.mode, count(settings.connections as u64)),
    };
    let headline = capital(&headline);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>ringpost bench: {headline}</title>\n<style>\n{STYLE}</style>\n\
         <h1>{headline}</h1>\n<p class=\"about\">ringpost bench {} against {}, {}</p>\n",
        report.version,
        escape(&settings.target),
        report.finished
    );
    let class = if report.is_sound() { "good" } else { "bad" };
    let _ = writeln!(out, "<p class=\"verdict {class}\">{}</p>", verdict(report));
    tiles(&mut out, report);
    out.push_str("<div class=\"charts\">\n");
    if let Some(knee) = &report.knee {
        knee_chart(&mut out, knee);
    }
    if !report.curve.is_empty() {
        latency_curve(&mut out, report);
    }
    percentiles(&mut out, report);
    if report.series.len() > 1 {
        rate_over_time(&mut out, &report.series, settings.rate);
        latency_over_time(&mut out, &report.series);
    }
    if report.faults.total > 0 {
        faults(&mut out, report);
    }
    settings_table(&mut out, report);
    out + "</div>\n</html>\n"
}

fn verdict(report: &Report) -> String {
    match report.faults.total {
        0 if report.is_sound() => "every ack was correct: length, command, ID, order and result".to_owned(),
        0 => "no request was acked".to_owned(),
        total => format!("{} faults", count(total)),
    }
}

fn tiles(out: &mut String, report: &Report) {
    let mut tiles = Vec::new();
    if report.idle.is_none() {
        tiles.push((count(report.requests_per_second.round() as u64), "requests a second"));
    }
    tiles.push((duration_text(report.latency.p50_us), "latency, median"));
    tiles.push((duration_text(report.latency.p99_us), "p99"));
    tiles.push((duration_text(report.latency.p999_us), "p99.9"));
    tiles.push((duration_text(report.latency.max_us), "slowest"));
    if let Some(bytes) = report.idle.and_then(|idle| idle.resident_per_connection) {
        tiles.push((count(bytes.max(0.0).round() as u64), "bytes resident per connection"));
    } else if let Some(server) = &report.server {
        tiles.push((duration_text(server.cpu.ns_per_request / 1000.0), "server CPU per request"));
    }
    out.push_str("<div class=\"tiles\">\n");
    for (value, name) in tiles {
        let _ = writeln!(out, "<div class=\"card tile\"><b>{value}</b><span>{name}</span></div>");
    }
    out.push_str("</div>\n");
}

/// Appends a card with a chart, a sentence on how to read it, and a legend if the chart has several lines.
fn card(out: &mut String, title: &str, note: &str, lines: &[Line], chart: &str) {
    let legend = if lines.len() > 1 { legend(lines) } else { String::new() };
    let _ = writeln!(
        out,
        "<section class=\"card\">\n<h2>{title}</h2>\n<p class=\"note\">{note}</p>\n{legend}{chart}</section>"
    );
}

/// Appends the chart of latency by percentile. Each step to the right divides the share of slower requests by ten.
fn latency_curve(out: &mut String, report: &Report) {
    let nines_max = (report.latency.count.max(10) as f64).log10();
    let nines = |quantile: f64| (-(1.0 - quantile).max(f64::MIN_POSITIVE).log10()).min(nines_max);
    let points = report.curve.iter().map(|point| {
        let text = format!("{} of requests within {}", share(point.quantile), duration_text(point.us));
        (nines(point.quantile), point.us, text)
    });
    let lines = [Line { name: "latency", class: "one", points: points.collect() }];
    let marks = [0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999, 0.9999999];
    let ticks = marks.into_iter().filter(|mark| nines(*mark) < nines_max - 0.3).map(|mark| (nines(mark), share(mark)));
    let x = Axis { min: 0.0, max: nines_max, log: false, ticks: ticks.collect() };
    let y = Axis::log(report.curve.iter().map(|point| point.us), tick_duration);
    let chart = svg("Latency by percentile", &x, &y, &lines, &[]);
    card(out, "Latency by percentile", "The latency of the slowest requests; further right is rarer", &lines, &chart);
}

fn rate_over_time(out: &mut String, series: &[Second], requested: Option<u64>) {
    let lines = [Line {
        name: "rate",
        class: "one",
        points: steps(series, |row| row.rate, |rate| format!("{}/s", count(rate.round() as u64))),
    }];
    let rules: Vec<_> =
        requested.map(|rate| (rate as f64, format!("requested: {}", count(rate)))).into_iter().collect();
    let highest = series.iter().map(|row| row.rate).chain(requested.map(|rate| rate as f64 * 1.05)).fold(0.0, f64::max);
    let y = Axis::linear(highest, tick_number);
    let chart = svg("Acks per second, over time", &time_axis(series), &y, &lines, &rules);
    card(out, "Rate over time", "Acks in each second", &lines, &chart);
}

fn latency_over_time(out: &mut String, series: &[Second]) {
    let line = |name, class, value: fn(&Second) -> f64| Line {
        name,
        class,
        points: steps(series, value, |us| format!("{name} {}", duration_text(us))),
    };
    let lines = [
        line("slowest", "three", |row| row.max_us),
        line("p99", "two", |row| row.p99_us),
        line("median", "one", |row| row.p50_us),
    ];
    let values = lines.iter().flat_map(|line| line.points.iter().map(|point| point.1));
    let y = Axis::log(values, tick_duration);
    let chart = svg("Latency over time: median, p99 and slowest", &time_axis(series), &y, &lines, &[]);
    card(
        out,
        "Latency over time",
        "Latency of the requests acked in each second; at the bottom if there was no ack",
        &lines,
        &chart,
    );
}

/// Returns a horizontal line for each second, since only its summary is known.
fn steps(series: &[Second], value: fn(&Second) -> f64, text: impl Fn(f64) -> String) -> Vec<(f64, f64, String)> {
    let begins = std::iter::once(0.0).chain(series.iter().map(|row| row.second));
    let ends = |(row, begin): (&Second, f64)| {
        [begin, row.second].map(|at| (at, value(row), format!("{} up to {:.1} s", text(value(row)), row.second)))
    };
    series.iter().zip(begins).flat_map(ends).collect()
}

fn knee_chart(out: &mut String, knee: &KneeReport) {
    let mut steps = knee.steps.clone();
    steps.sort_by_key(|step| step.rate);
    let line = |name, class, value: fn(&KneeStep) -> f64| Line {
        name,
        class,
        points: steps
            .iter()
            .map(|step| {
                let text =
                    format!("{} a second: {name} {}, {}", count(step.rate), duration_text(value(step)), step.verdict());
                (step.rate as f64, value(step), text)
            })
            .collect(),
    };
    let lines = [line("p99", "two", |step| step.p99_us), line("median", "one", |step| step.p50_us)];
    let values = lines.iter().flat_map(|line| line.points.iter().map(|point| point.1)).chain([knee.slo_us]);
    let y = Axis::log(values, tick_duration);
    let x = Axis::linear(steps.last().map_or(0.0, |step| step.rate as f64), tick_number);
    let rules = [(knee.slo_us, format!("limit: {}", duration_text(knee.slo_us)))];
    let chart = svg("Latency by requested rate", &x, &y, &lines, &rules);
    card(out, "Latency by rate", "Each point is a run at this number of requests a second", &lines, &chart);
}

fn percentiles(out: &mut String, report: &Report) {
    out.push_str("<section class=\"card\">\n<h2>Latency</h2>\n<table>\n");
    for (name, us) in report.latency.columns() {
        let _ = writeln!(out, "<tr><th>{name}</th><td class=\"number\">{}</td></tr>", duration_text(us));
    }
    let _ = writeln!(out, "</table>\n</section>");
}

fn settings_table(out: &mut String, report: &Report) {
    let settings = &report.settings;
    out.push_str("<section class=\"card\">\n<h2>Run</h2>\n<table>\n");
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(&text));
    };
    row("Mode", settings.mode.to_owned());
    row("Connections", count(settings.connections as u64));
    row("Window", format!("{} in flight on each connection", count(settings.window as u64)));
    row("Payload", format!("{} bytes", settings.payload));
    row("Time", settings.time_in_words());
    row("Threads", settings.threads_in_words());
    row("TLS", settings.tls.map_or("no".to_owned(), |tls| tls.to_string()));
    row("Server", format!("{} ({})", settings.addr, settings.target));
    for (name, text) in report.lines() {
        row(&capital(name), text);
    }
    let _ = writeln!(out, "</table>\n</section>");
}

fn faults(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "<section class=\"card wide\">\n<h2 class=\"bad\">Faults</h2>\n<p>{}</p>\n<ul>",
        escape(&report.faults.in_words())
    );
    for fault in &report.faults.first {
        let _ = writeln!(out, "<li>{}</li>", escape(fault));
    }
    out.push_str("</ul>\n</section>\n");
}

fn time_axis(series: &[Second]) -> Axis {
    let last = series.last().map_or(1.0, |row| row.second);
    let axis = Axis::linear(last, |second| format!("{} s", (second * 1000.0).round() / 1000.0));
    // The axis ends with the run, not at the next round second.
    let ticks = axis.ticks.into_iter().filter(|tick| tick.0 <= last).collect();
    Axis { max: last, ticks, ..axis }
}

/// Formats a share as a percentage without trailing zeros: 99.9 %.
fn share(quantile: f64) -> String {
    let percent = format!("{:.6}", quantile * 100.0);
    format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
}

/// Formats microseconds for a tick of an axis, without trailing zeros.
fn tick_duration(us: f64) -> String {
    let (value, unit) = match us {
        us if us >= 1e6 => (us / 1e6, "s"),
        us if us >= 1e3 => (us / 1e3, "ms"),
        us => (us, "µs"),
    };
    format!("{} {unit}", (value * 1000.0).round() / 1000.0)
}

/// Formats a number for a tick of an axis: 50 k, 2.5 M.
fn tick_number(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{} G", (value / 1e8).round() / 10.0),
        value if value >= 1e6 => format!("{} M", (value / 1e5).round() / 10.0),
        value if value >= 1e4 => format!("{} k", (value / 1e2).round() / 10.0),
        value => format!("{}", (value * 10.0).round() / 10.0),
    }
}

/// Returns the text with a capital first letter.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = include_str!("page.css");

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::load::report::{CpuReport, CurvePoint, FaultReport, Latency, Settings};
    use crate::load::tls::TlsFacts;
    use crate::requirement::{CHROMIUM, tried};

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!([0.5, 200.0, 1000.0, 5_000_000.0].map(tick_duration), ["0.5 µs", "200 µs", "1 ms", "5 s"]);
        assert_eq!([0.0, 500.0, 50_000.0, 2_500_000.0].map(tick_number), ["0", "500", "50 k", "2.5 M"]);
        assert_eq!([0.0, 0.5, 0.99, 0.999999].map(share), ["0 %", "50 %", "99 %", "99.9999 %"]);
    }

    /// Returns reports with many labels, long labels and labels that are close together.
    fn hard_reports() -> Vec<(&'static str, Report)> {
        let run = |seconds: f64, rate: f64, count: u64, us: &[f64]| {
            let (first, last) = (us[0], us[us.len() - 1]);
            let second = |tenth: u32| Second {
                second: seconds * f64::from(tenth) / 10.0,
                rate,
                p50_us: first,
                p99_us: us[us.len() / 2],
                max_us: last,
                connections: 1_000_000,
                errors: 0,
            };
            let share = |index: usize| 1.0 - 0.5f64.powf(40.0 * index as f64 / us.len() as f64);
            let point = |(index, us): (usize, &f64)| CurvePoint { quantile: share(index), us: *us };
            Report {
                version: "0.1.0",
                interrupted_by: None,
                ledger_error: None,
                finished: "2026-01-31T12:00:00Z".to_owned(),
                settings: Settings {
                    mode: "open loop",
                    addr: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".to_owned(),
                    target: "[2001:db8:1234:5678:9abc:def0:1234:5678]:65535".to_owned(),
                    connections: 1_000_000,
                    window: 1 << 20,
                    payload: "16..16384".to_owned(),
                    rate: Some(rate as u64),
                    duration_s: seconds,
                    warmup_s: 1.0,
                    threads: 1024,
                    ack_codes: "spec",
                    io: "io_uring",
                    tls: Some(TlsFacts { version: "TLS 1.3", cipher_suite: "TLS13_AES_256_GCM_SHA384" }),
                },
                seconds,
                requests: count,
                requests_per_second: rate,
                megabytes_per_second: rate,
                latency: Latency {
                    count,
                    mean_us: first,
                    p50_us: first,
                    p90_us: first,
                    p99_us: first,
                    p999_us: last,
                    p9999_us: last,
                    max_us: last,
                },
                schedule: None,
                own_cpu: CpuReport { ns_per_request: rate, cores: 1.0 },
                server: None,
                idle: None,
                knee: None,
                handshakes: Some(count),
                port_waits: 0,
                faults: FaultReport::default(),
                series: (1..=10).map(second).collect(),
                curve: us.iter().enumerate().map(point).collect(),
            }
        };
        let many: Vec<f64> = (0..200).map(|at| 10f64.powf(f64::from(at) / 20.0 - 1.0)).collect();
        let mut knee = run(3.0, 1e6, 1_000_000, &many);
        let step = |index: u32| KneeStep {
            rate: 1000 << index,
            achieved_per_second: 1e6,
            p50_us: 10.0,
            p99_us: many[index as usize],
            met: true,
            good: true,
        };
        knee.knee = Some(KneeReport { slo_us: 0.3, rate: Some(1_024_000), steps: (0..20).map(step).collect() });
        vec![
            ("many percentiles", run(10.0, 8_793_472.0, 1_000_000_000, &many)),
            ("one value", run(2.0, 999_999_999.0, 1, &[352.0])),
            ("huge values", run(3_600_000.0, 1e9, u64::MAX, &[1.0, 3.6e12])),
            ("no requests", run(2.0, 0.0, 0, &[0.0])),
            ("a knee", knee),
        ]
    }

    #[test]
    fn labels_do_not_overlap_and_are_not_cut_off() {
        if CHROMIUM.check(tried(Command::new("chromium").arg("--version"))).is_none() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut frames = String::new();
        for (index, (name, report)) in hard_reports().into_iter().enumerate() {
            fs::write(dir.path().join(format!("{index}.html")), page(&report)).unwrap();
            for width in [320, 400, 700, 1400] {
                let _ = writeln!(
                    frames,
                    "<iframe src='{index}.html' title='{name}' style='width:{width}px;height:5000px'></iframe>"
                );
            }
        }
        let all = format!("<!doctype html>{frames}<pre id=out></pre><script>{LOOK}</script>");
        fs::write(dir.path().join("all.html"), all).unwrap();
        let output = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"])
            .args(["--window-size=1600,2000", "--virtual-time-budget=20000", "--dump-dom"])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .arg(format!("file://{}", dir.path().join("all.html").display()))
            .output()
            .unwrap();
        let dom = String::from_utf8_lossy(&output.stdout).into_owned();
        let parts: Vec<&str> = dom.split("FOUND").collect();
        let [_, found, looked] = parts[..] else { panic!("the browser did not check the page: {dom}") };
        let looked: u32 = looked.split('<').next().unwrap().parse().unwrap();
        assert!(looked > 200, "{looked} labels were checked");
        assert_eq!(found, "", "labels that overlap or are cut off");
    }

    /// Compares the boxes of all labels of each chart with each other, and with the chart's own.
    const LOOK: &str = r##"
        addEventListener("load", () => setTimeout(() => {
            const found = []; let labels = 0;
            for (const frame of document.querySelectorAll("iframe")) {
                const where = frame.title + ", " + frame.style.width + ": ";
                for (const svg of frame.contentDocument.querySelectorAll("svg")) {
                    const box = svg.getBoundingClientRect();
                    const texts = [...svg.querySelectorAll("text")]
                        .map(text => [text.textContent, text.getBoundingClientRect()]).filter(text => text[1].width);
                    labels += texts.length;
                    texts.forEach(([a, r], i) => {
                        if (r.left < box.left - 1 || r.right > box.right + 1 ||
                            r.top < box.top - 2 || r.bottom > box.bottom + 2)
                            found.push(where + a + " is cut off");
                        for (const [b, s] of texts.slice(i + 1)) {
                            const w = Math.min(r.right, s.right) - Math.max(r.left, s.left);
                            const h = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
                            if (w > 0.5 && h > 1) found.push(where + a + " / " + b);
                        }
                    });
                }
                for (const tile of frame.contentDocument.querySelectorAll(".tile b"))
                    if (tile.scrollWidth > tile.clientWidth + 1) found.push(where + "tile " + tile.textContent);
                const page = frame.contentDocument.documentElement;
                if (page.scrollWidth > page.clientWidth + 1) found.push(where + "the page is wider than its window");
            }
            out.textContent = "FO" + "UND" + found.join("; ") + "FO" + "UND" + labels;
        }, 500));
    "##;

    #[test]
    fn text_of_a_user_is_escaped() {
        assert_eq!(escape("<b a=\"&\">"), "&lt;b a=&quot;&amp;&quot;&gt;");
    }
}
