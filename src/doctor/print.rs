//! A report for people: what was looked at in one column, what it means beside it, commands below.

use std::io::{self, Write};

use super::finding::{Finding, Level, Report};

const WIDTH: usize = 110;
/// Where the text begins: behind the level and the check.
const INDENT: usize = 29;

/// Writes the report.
///
/// # Errors
/// `out`'s.
pub fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    for group in &report.groups {
        writeln!(out, "{}", group.name)?;
        for finding in &group.findings {
            print_finding(finding, out)?;
        }
        writeln!(out)?;
    }
    let (problems, advice) = (report.count(Level::Problem), report.count(Level::Advice));
    let start = if report.serve_would_start { "would start" } else { "would not start" };
    writeln!(
        out,
        "`ringpost serve` with these options {start}: {}, {}",
        counted(problems, "problem", "problems"),
        counted(advice, "piece of advice", "pieces of advice")
    )
}

fn print_finding(finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Advice => "advice",
        Level::Problem => "PROBLEM",
    };
    write!(out, "  {level:8} {:17} ", finding.check)?;
    // Where nothing is to be done, one line is enough to know that it was looked at.
    let mut column = INDENT;
    for word in format!("{}. {}", finding.found, finding.means).split_whitespace() {
        if column > INDENT && column + word.len() > WIDTH {
            write!(out, "\n{:INDENT$}", "")?;
            column = INDENT;
        }
        let space = if column > INDENT { " " } else { "" };
        write!(out, "{space}{word}")?;
        column += space.len() + word.len();
    }
    writeln!(out)?;
    for command in &finding.mend {
        // Not wrapped: it is there to be pasted.
        writeln!(out, "{:INDENT$}mend: {command}", "")?;
    }
    Ok(())
}

fn counted(count: usize, one: &str, many: &str) -> String {
    match count {
        0 => format!("no {many}"),
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    }
}
