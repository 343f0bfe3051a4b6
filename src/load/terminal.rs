//! The width of the terminal, text that is folded to fit it, and a line that is updated in place.

use std::io::{IsTerminal, Write, stderr};
use std::os::fd::AsFd;

use rustix::termios::{isatty, tcgetwinsize};

/// Returns the columns of the terminal `stream`. If the terminal does not report them, the variable `COLUMNS` is used.
/// A stream that is not a terminal has [`COLUMNS_DEFAULT`].
pub fn columns(stream: impl AsFd) -> usize {
    if !isatty(&stream) {
        return COLUMNS_DEFAULT;
    }
    let asked = tcgetwinsize(&stream).map_or(0, |size| usize::from(size.ws_col));
    let named = || std::env::var("COLUMNS").ok()?.parse().ok();
    let columns = if asked > 0 { asked } else { named().unwrap_or(COLUMNS_DEFAULT) };
    columns.max(COLUMNS_MIN)
}

/// Appends `text` as a line that is folded between its words. The second line and later ones begin with `indent`
/// spaces. A word that is longer than a line is cut.
pub fn fold(out: &mut String, prefix: &str, text: &str, columns: usize, indent: usize) {
    out.push_str(prefix);
    let mut used = prefix.chars().count();
    let mut is_first = true;
    for word in text.split(' ') {
        let mut word = word;
        let mut len = word.chars().count();
        if !is_first && used + 1 + len <= columns {
            out.push(' ');
            used += 1;
        } else if !is_first || (used + len > columns && used > indent) {
            used = next_line(out, indent);
        }
        while used + len > columns {
            let cut = word.char_indices().nth(columns.saturating_sub(used).max(1)).map_or(word.len(), |(at, _)| at);
            out.push_str(&word[..cut]);
            word = &word[cut..];
            len = word.chars().count();
            if len == 0 {
                used = columns;
                break;
            }
            used = next_line(out, indent);
        }
        out.push_str(word);
        used += len;
        is_first = false;
    }
    out.push('\n');
}

fn next_line(out: &mut String, indent: usize) -> usize {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
    out.extend(std::iter::repeat_n(' ', indent));
    indent
}

/// Returns the parts that fit a line, in their order. Parts of higher rank (a lower number) are chosen first.
pub fn choose_parts(parts: &[(u8, String)], columns: usize) -> String {
    let mut ranked: Vec<usize> = (0..parts.len()).collect();
    ranked.sort_by_key(|index| parts[*index].0);
    let (mut chosen, mut used) = (Vec::new(), 0);
    for index in ranked {
        let len = parts[index].1.chars().count() + if chosen.is_empty() { 0 } else { PARTS_GAP.len() };
        if used + len <= columns {
            used += len;
            chosen.push(index);
        }
    }
    chosen.sort_unstable();
    chosen.into_iter().map(|index| parts[index].1.as_str()).collect::<Vec<_>>().join(PARTS_GAP)
}

/// A line on stderr that each update replaces. It shows nothing if stderr is not a terminal.
pub struct LiveLine {
    is_shown: bool,
}

impl LiveLine {
    /// Returns a line that is empty.
    pub fn on_stderr() -> Self {
        LiveLine { is_shown: stderr().is_terminal() }
    }

    /// Replaces the line by the parts that fit. Parts of higher rank (a lower number) are chosen first.
    pub fn show(&self, parts: &[(u8, String)]) {
        if self.is_shown {
            // If the cursor is in the last column, some terminals begin a new line.
            let line = choose_parts(parts, columns(stderr()) - 1);
            let _ = write!(stderr(), "\r\x1b[2K{line}");
        }
    }

    /// Removes the line.
    pub fn clear(&self) {
        self.show(&[]);
    }
}

/// The width of output to a file or a pipe: the usual width of a terminal.
pub const COLUMNS_DEFAULT: usize = 80;
/// The smallest width that is used. A table is of no use on a narrower terminal.
const COLUMNS_MIN: usize = 24;
/// The space between two parts of a line.
const PARTS_GAP: &str = "  ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_folded_between_words_and_long_words_are_cut() {
        let text = "a word, another one, and [2001:db8:1234:5678:9abc:def0:1234:5678]:65535 at the end";
        for columns in 8..100 {
            for (prefix, indent) in [("", 0), ("name:  ", 7), ("a prefix", 2)] {
                let mut out = String::new();
                fold(&mut out, prefix, text, columns, indent);
                assert!(out.lines().all(|line| line.chars().count() <= columns.max(8)), "{columns} columns:\n{out}");
                assert!(out.lines().skip(1).all(|line| line.starts_with(&" ".repeat(indent))), "{out}");
                let bare = |text: &str| text.split_whitespace().collect::<String>();
                assert_eq!(bare(&out), bare(&format!("{prefix}{text}")), "nothing is lost");
            }
        }
        let mut out = String::new();
        fold(&mut out, "name ", "one two three", 13, 5);
        assert_eq!(out, "name one two\n     three\n");
    }

    #[test]
    fn the_parts_of_a_line_that_matter_most_stay() {
        let parts = [(1, "when".to_owned()), (3, "latency".to_owned()), (0, "errors".to_owned())];
        assert_eq!(choose_parts(&parts, 80), "when  latency  errors");
        assert_eq!(choose_parts(&parts, 20), "when  errors");
        assert_eq!(choose_parts(&parts, 11), "errors");
        assert_eq!(choose_parts(&parts, 3), "");
    }
}
