//! The tables in docs/options.md and docs/metrics.md have what `--help` and `/metrics` of this build say.
//!
//! `RINGPOST_UPDATE_DOCS=1 cargo test --test docs tables` rewrites them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::common::{Server, admin, ringpost};
use crate::{Document, ROOT};

#[test]
fn options_are_those_of_help() {
    let commands = commands(&[]);
    let shared: Vec<_> = commands[0].options.iter().filter(|option| is_in_all(option, &commands)).cloned().collect();
    let serve = &commands.iter().find(|command| command.name == "serve").unwrap().options;
    let mut text = String::new();
    for command in &commands {
        text += &format!("## {}\n\n{}.\n\n", command.name, command.about);
        let has_all_of_serve = command.name != "serve" && serve.iter().all(|option| command.options.contains(option));
        let is_left_out = |option: &&Entry| shared.contains(option) || has_all_of_serve && serve.contains(option);
        let own: Vec<_> = command.options.iter().filter(|option| !is_left_out(option)).collect();
        if has_all_of_serve {
            text += "It accepts all options of `serve`, and:\n\n";
        }
        text += &table(&own);
    }
    text += "## Every command\n\n";
    text += &table(&shared.iter().collect::<Vec<_>>());
    compare("docs/options.md", &text);
}

#[test]
fn metrics_are_those_of_the_admin_address() {
    let server = Server::start(&["--sink", "discard", "--admin", "127.0.0.1:0", "--workers", "1"]);
    let answer = admin::get(&server, "/metrics");
    assert_eq!(answer.status, 200);
    compare("docs/metrics.md", &metrics_table(&answer.body));
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// Such as `--listen <ADDR>`.
    name: String,
    default: String,
    meaning: String,
}

struct HelpPage {
    /// The words after `ringpost`.
    name: String,
    about: String,
    options: Vec<Entry>,
}

fn is_in_all(option: &Entry, commands: &[HelpPage]) -> bool {
    commands.iter().all(|command| command.options.contains(option))
}

/// Reads the help of the command that `words` name, or of all its subcommands.
fn commands(words: &[&str]) -> Vec<HelpPage> {
    let output = ringpost(words).arg("--help").env_clear().output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let subcommands = section(&help, "Commands:");
    if subcommands.is_empty() {
        let about = help.split("\n\n").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        let entries = ["Arguments:", "Options:"].iter().flat_map(|title| entries(&section(&help, title)));
        return vec![HelpPage { name: words.join(" "), about, options: entries.collect() }];
    }
    // A name is indented by 2 spaces, what a long description continues with by more.
    let names = subcommands.iter().filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.flat_map(|name| commands(&[words, &[name]].concat())).collect()
}

/// Returns the lines of the help below `title`.
fn section<'a>(help: &'a str, title: &str) -> Vec<&'a str> {
    let lines = help.lines().skip_while(|line| *line != title).skip(1);
    lines.take_while(|line| line.is_empty() || line.starts_with(' ')).collect()
}

/// Reads options and arguments. Their description may begin in their line, or below it.
fn entries(lines: &[&str]) -> Vec<Entry> {
    let mut found: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        let text = line.trim();
        let indent = line.len() - line.trim_start().len();
        let is_name = (2..=6).contains(&indent) && text.starts_with(['-', '<', '[']);
        if is_name {
            let (name, rest) = text.split_once("  ").unwrap_or((text, ""));
            found.push((name.to_owned(), vec![rest.trim().to_owned()]));
        } else if let (false, Some((_, description))) = (text.is_empty(), found.last_mut()) {
            description.push(text.to_owned());
        }
    }
    found.retain(|(name, _)| name != "-h, --help");
    found.into_iter().map(|(name, description)| entry(name, &description)).collect()
}

fn entry(name: String, description: &[String]) -> Entry {
    let mut text = String::new();
    let mut values: Vec<String> = Vec::new();
    let mut is_value = false;
    for line in description.iter().filter(|line| !line.is_empty()) {
        if line == "Possible values:" {
            is_value = true;
        } else if line.starts_with('[') {
            is_value = false;
            text += &format!(" {line}");
        } else if let Some(value) = line.strip_prefix("- ").filter(|_| is_value) {
            values.push(value.to_owned());
        } else if is_value {
            *values.last_mut().unwrap() += &format!(" {line}");
        } else {
            text += &format!(" {line}");
        }
    }
    let is_flag = !name.contains('<') && name.starts_with('-');
    let variable = tag(&mut text, "[env: ");
    let default = tag(&mut text, "[default: ");
    let possible = tag(&mut text, "[possible values: ");
    let mut meaning = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(possible) = possible.filter(|possible| possible != "true, false") {
        sentence(&mut meaning, &format!("One of {}", possible.split(", ").map(code).collect::<Vec<_>>().join(", ")));
    }
    let usual = name.split(' ').next().unwrap().trim_start_matches('-').replace('-', "_").to_uppercase();
    match variable {
        Some(variable) if variable.trim_end_matches('=') == format!("RINGPOST_{usual}") => {}
        Some(variable) => sentence(&mut meaning, &format!("The variable is {}", code(variable.trim_end_matches('=')))),
        None => sentence(&mut meaning, "Not a variable"),
    }
    if !values.is_empty() {
        let described = values.iter().map(|value| {
            let (value, meaning) = value.split_once(':').unwrap_or((value, ""));
            format!("<br>{}: {}", code(value.trim()), meaning.trim())
        });
        meaning += &format!(".{}", described.collect::<String>());
    }
    let default = match default {
        Some(default) if default.contains(' ') => default,
        Some(default) => code(&default),
        None if is_flag => "off".to_owned(),
        None => String::new(),
    };
    Entry { name, default, meaning }
}

fn sentence(text: &mut String, sentence: &str) {
    let separator = if text.is_empty() { "" } else { ". " };
    *text += &format!("{separator}{sentence}");
}

/// Removes a part in square brackets that begins with `start`, and returns the rest of it.
fn tag(text: &mut String, start: &str) -> Option<String> {
    let from = text.find(start)?;
    let len = text[from..].find(']')? + 1;
    let inside = text[from + start.len()..from + len - 1].to_owned();
    text.replace_range(from..from + len, "");
    Some(inside)
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn table(entries: &[&Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let mut text = "| option | default | meaning |\n|---|---|---|\n".to_owned();
    for Entry { name, default, meaning } in entries {
        let cell = |text: &str| text.replace('|', "\\|");
        // Help is plain text: placeholders there are in angle brackets, which HTML would swallow.
        let meaning = meaning.replace("<br>", "\n").replace('<', "&lt;").replace('\n', "<br>");
        text += &format!("| {} | {} | {} |\n", cell(&code(name)), cell(default), cell(&meaning));
    }
    text + "\n"
}

/// Returns a table of the metrics in a scrape.
fn metrics_table(scrape: &str) -> String {
    let mut text = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    for family in scrape.split("# HELP ").skip(1) {
        let mut lines = family.lines();
        let (name, help) = lines.next().unwrap().split_once(' ').unwrap();
        let kind = lines.next().unwrap().rsplit(' ').next().unwrap();
        let mut labels: Vec<(&str, Vec<&str>)> = Vec::new();
        for sample in lines.filter(|line| !line.is_empty()) {
            let Some((_, inside)) = sample.split_once('{') else { continue };
            for pair in inside.rsplit_once('}').unwrap().0.split("\",") {
                let (label, value) = pair.split_once("=\"").unwrap();
                let value = value.trim_end_matches('"');
                match labels.iter_mut().find(|(known, _)| *known == label) {
                    None => labels.push((label, vec![value])),
                    Some((_, values)) if !values.contains(&value) => values.push(value),
                    Some(_) => {}
                }
            }
        }
        labels.retain(|(label, _)| *label != "le");
        let names = labels.iter().map(|(label, _)| *label).collect::<Vec<_>>().join(",");
        let series = if names.is_empty() { name.to_owned() } else { format!("{name}{{{names}}}") };
        let mut meaning = help.to_owned();
        for (label, values) in labels.iter().filter(|(_, values)| values.len() > 1) {
            meaning += &format!("<br>{label}: {}", values.iter().copied().map(code).collect::<Vec<_>>().join(", "));
        }
        text += &format!("| `{series}` | {kind} | {} |\n", meaning.replace('|', "\\|"));
    }
    text
}

/// Compares the part of a document after its mark with `generated`, or rewrites it.
fn compare(path: &str, generated: &str) {
    const MARK: &str = "<!-- generated: RINGPOST_UPDATE_DOCS=1 cargo test --test docs tables -->\n\n";
    let document = Document::read(path);
    let (head, tables) = document.text.split_once(MARK).unwrap_or_else(|| panic!("{path} has no mark"));
    let generated = generated.trim_end().to_owned() + "\n";
    if std::env::var_os("RINGPOST_UPDATE_DOCS").is_some() {
        fs::write(Path::new(ROOT).join(path), head.to_owned() + MARK + &generated).unwrap();
    } else if tables != generated {
        let old: BTreeMap<_, _> = tables.lines().map(|line| (line, ())).collect();
        let new = generated.lines().filter(|line| !old.contains_key(line)).collect::<Vec<_>>().join("\n");
        panic!(
            "{path} is not up to date. Run: RINGPOST_UPDATE_DOCS=1 cargo test --test docs tables\nnew lines:\n{new}"
        );
    }
}
