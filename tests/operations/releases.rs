//! The parts of a release come from the binary itself: its version with the commit, completions, man pages.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::{ringpost, run};

fn stdout(arguments: &[&str]) -> String {
    let ended = run(ringpost(arguments));
    assert!(ended.status.success(), "{arguments:?}: {}", ended.log);
    ended.stdout
}

/// Returns the commands that `--help` of a command lists.
fn commands(of: &[&str]) -> Vec<String> {
    let help = stdout(&[of, &["--help"]].concat());
    let list = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
}

#[test]
fn the_version_names_commit_and_build() {
    let (long, short) = (stdout(&["--version"]), stdout(&["-V"]));
    assert_eq!(long.lines().next(), Some(short.trim_end()));
    let version = concat!("ringpost ", env!("CARGO_PKG_VERSION"), " (");
    let commit = short.trim_end().strip_prefix(version).unwrap().strip_suffix(')').unwrap();
    // The tests may run from an archive, or with the commit given by name.
    let given = option_env!("RINGPOST_COMMIT").filter(|given| !given.is_empty());
    let git = || {
        let log = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output().ok()?;
        (log.status.success() && fs::exists(".git").unwrap()).then(|| String::from_utf8(log.stdout).unwrap())
    };
    let expected = given.map(str::to_owned).or_else(git).unwrap_or("unknown".into());
    assert_eq!(commit.trim_end_matches("-dirty"), expected.trim());
    for line in ["target:    ", "profile:   ", "rustflags: ", "compiler:  rustc 1."] {
        assert!(long.contains(&format!("\n{line}")), "{line} in {long}");
    }
}

#[test]
fn completions_are_valid_and_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for command in commands(&[]) {
            assert!(script.contains(&command), "{command} for {shell}");
        }
        assert!(script.contains("commits-in-flight"), "an option of serve for {shell}");
    }
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(stdout(&["completions", "bash"]).as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success());
}

#[test]
fn man_pages_name_every_command_and_option() {
    // roff writes hyphens with a backslash.
    let page = stdout(&["man"]).replace('\\', "");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pages");
    stdout(&["man", path.to_str().unwrap()]);
    let all = commands(&[]);
    assert!(all.len() >= 7 && all.contains(&"serve".into()), "{all:?}");
    for command in &all {
        assert!(page.contains(&format!("ringpost-{command}(1)")), "{command} in {page}");
        let page = fs::read_to_string(path.join(format!("ringpost-{command}.1"))).unwrap().replace('\\', "");
        for option in stdout(&[command, "--help"]).split_whitespace().filter(|word| word.starts_with("--")) {
            let option = option.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
            assert!(page.contains(option), "{option} of {command}");
        }
    }
    for command in commands(&["journal"]) {
        assert!(path.join(format!("ringpost-journal-{command}.1")).exists(), "{command}");
    }
    assert!(path.join("ringpost.1").exists());
}
