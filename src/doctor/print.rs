//! Prints a report for people: the checks in one column, results and consequences beside it, fixes below.
//!
//! Owns the layout. It must not know any check.

use std::io::{self, Write};

use super::finding::{Finding, Level, Report};

/// Writes the report.
///
/// # Errors
/// Returns an error if `out` can't be written.
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
    for command in &finding.fix {
        // A command is not wrapped, so that it can be pasted.
        writeln!(out, "{:INDENT$}fix: {command}", "")?;
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

/// The longest line, except commands.
const WIDTH: usize = 110;

/// The column in which the text begins, after the level and the check.
const INDENT: usize = 29;
