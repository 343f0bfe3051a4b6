//! Runs the blocks of commands of each document, in their order, in one shell, as a reader would paste them into a
//! terminal.
//!
//! Each document has a copy of the checkout, a HOME, a `/tmp`, a network and processes of its own, so neither other
//! tests nor a server on the default port disturb it, and nothing is left behind. The build under test is the release
//! build: a `cargo` of the test answers the commands that would build or test, if the repository has what they name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::blocks::{Block, Kind, blocks};
use crate::common::BINARY;
use crate::common::requirement::{DOCUMENTED_TOOLS, ROOT as BEING_ROOT, SYSTEMD, is_root, tried};
use crate::{Document, ROOT, documents};

macro_rules! documents_run {
    ($($name:ident: $path:literal;)*) => {
        $(#[test]
        fn $name() {
            run_document($path);
        })*

        const TESTED: &[&str] = &[$($path),*];
    };
}

documents_run! {
    commands_of_contributing_run: "CONTRIBUTING.md";
    commands_of_readme_run: "README.md";
    commands_of_benchmarks_run: "docs/benchmarks.md";
    commands_of_deploying_run: "docs/deploying.md";
    commands_of_journal_run: "docs/journal.md";
    commands_of_operating_run: "docs/operating.md";
    commands_of_releasing_run: "docs/releasing.md";
    commands_of_security_run: "docs/security.md";
    commands_of_takeover_run: "docs/takeover.md";
}

#[test]
fn every_document_with_commands_is_tested() {
    let with_commands = documents().into_iter().filter(|document| blocks(document).iter().any(Block::is_commands));
    assert_eq!(with_commands.map(|document| document.path).collect::<Vec<_>>(), TESTED);
}

#[test]
fn marked_commands_are_proved_elsewhere() {
    for document in documents() {
        for block in blocks(&document).iter().filter(|block| block.is_commands()) {
            let place = format!("{}:{}", document.path, block.line);
            match block.kind().unwrap_or_else(|error| panic!("{}: {error}", document.path)) {
                Kind::Runs | Kind::NeedsRoot => {}
                Kind::Long => block.text.lines().for_each(|line| check_script(&place, line)),
                Kind::ProvedBy(script) => {
                    let text = fs::read_to_string(Path::new(ROOT).join(script)).unwrap();
                    // The script reads the marked blocks from the document, so that it runs these very lines.
                    let fence = format!("```sh {}", block.marks[0]);
                    assert!(text.contains(&document.path) && text.contains(&fence), "{place}: not run by {script}");
                }
            }
        }
    }
}

#[test]
fn commands_of_systemd_run() {
    let script = Path::new(ROOT).join("scripts/prove-systemd");
    let output = Command::new(script).args(["--binary", BINARY]).output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(77) {
        return SYSTEMD.missing(errors);
    }
    assert!(output.status.success(), "{said}{errors}");
}

/// Checks that a command line starts a script of this repository, and that the script's `--help` names its options.
fn check_script(place: &str, line: &str) {
    let mut words = line.split_whitespace();
    let script = words.next().unwrap();
    let text =
        fs::read_to_string(Path::new(ROOT).join(script)).unwrap_or_else(|error| panic!("{place}: {script}: {error}"));
    assert!(text.contains("argparse"), "{place}: {script} may not know --help, and would run");
    let mut command = Command::new(Path::new(ROOT).join(script));
    // A cache of compiled modules would stay in the checkout.
    let help = command.arg("--help").env("PYTHONDONTWRITEBYTECODE", "1").output();
    let help = help.unwrap_or_else(|error| panic!("{place}: {script}: {error}"));
    assert!(help.status.success(), "{place}: {script} --help: {}", String::from_utf8_lossy(&help.stderr));
    let help = String::from_utf8_lossy(&help.stdout);
    // Words in quotation marks are another program's.
    let unquoted = line.split('\'').step_by(2).collect::<String>();
    for option in unquoted.split_whitespace().filter(|word| word.starts_with("--")) {
        assert!(help.contains(option), "{place}: {script} has no {option}");
    }
}

/// Runs every block of a document that can run here, and compares the outputs that it shows.
fn run_document(path: &str) {
    let document = Document::read(path);
    let all = blocks(&document);
    let mut steps = Vec::new();
    for (index, block) in all.iter().enumerate().filter(|(_, block)| block.is_commands()) {
        match block.kind().unwrap_or_else(|error| panic!("{path}: {error}")) {
            Kind::Runs => {}
            Kind::NeedsRoot if BEING_ROOT.is_met(is_root()) => {}
            Kind::NeedsRoot => continue,
            Kind::Long | Kind::ProvedBy(_) => continue,
        }
        steps.push((block, all.get(index + 1).filter(|next| next.is_output())));
    }
    if steps.is_empty() {
        return;
    }
    let commands = steps.iter().map(|(block, _)| &*block.text).collect::<String>();
    if DOCUMENTED_TOOLS.check(needs_are_met(&commands)).is_none() {
        return;
    }
    let house = House::new();
    for (number, (block, _)) in steps.iter().enumerate() {
        fs::write(house.work().join(format!("{number}.sh")), &block.text).unwrap();
    }
    let driver = driver(&steps.iter().map(|(block, _)| &*block.text).collect::<Vec<_>>());
    let ended = house.run(&driver);
    for (number, (block, output)) in steps.iter().enumerate() {
        let place = format!("{path}:{}", block.line);
        let read = |what: &str| fs::read_to_string(house.work().join(format!("{number}.{what}"))).unwrap_or_default();
        let (stdout, stderr) = (read("out"), read("err"));
        let passed = house.work().join(format!("{number}.passed")).exists();
        assert!(passed, "{place}: {ended}:\n{}\nstdout:\n{stdout}\nstderr:\n{stderr}", block.text);
        if let Some(output) = output {
            let same = matches(&output.text, &stdout);
            assert!(same, "{place}: the document shows\n{}but the commands printed\n{stdout}", output.text);
        }
    }
}

/// Returns what the commands need and this host lacks, if anything, as an error.
fn needs_are_met(commands: &str) -> Result<(), String> {
    for tool in ["jq", "man", "taskset", "systemd-socket-activate"] {
        let is_used = commands.lines().any(|line| line.split([' ', '|']).any(|word| word == tool));
        if is_used && which(tool).is_none() {
            return Err(format!("{tool} is not installed"));
        }
    }
    let cpus = thread::available_parallelism().unwrap().get();
    if commands.contains("taskset -c 1 ") && cpus < 2 {
        return Err("there is only one CPU".to_owned());
    }
    tried(namespaces().args(["sh", "-c", "ip link set lo up && mount -t tmpfs tmpfs /mnt"]))
}

fn which(tool: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(tool)).find(|path| path.is_file())
}

/// A command in mount, network and process namespaces of its own. All its processes end with it.
fn namespaces() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
}

/// Returns the script that runs `blocks` one after the other in one shell with job control.
fn driver(blocks: &[&str]) -> String {
    let mut script = DRIVER_HEAD.to_owned();
    for (number, block) in blocks.iter().enumerate() {
        script += &format!("set -u; . ../{number}.sh > ../{number}.out 2> ../{number}.err < /dev/null; set +u\n");
        // A reader pastes the next block when the server that the block started listens,
        if block.trim_end().ends_with('&') {
            script += &format!("until grep -q '^listening on ' ../{number}.out; do command sleep 0.05; done\n");
        }
        // and when a server that the block stopped has ended.
        let killed = block.lines().filter_map(|line| line.trim().strip_prefix("kill "));
        for job in killed.flat_map(str::split_whitespace).filter(|word| word.starts_with('%')) {
            script += &format!("wait {job} 2> /dev/null || true\n");
        }
        script += &format!("jobs > /dev/null; touch ../{number}.passed\n");
    }
    script
}

/// The directories of one document.
struct House(tempfile::TempDir);

impl House {
    fn new() -> House {
        let house = House(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        for directory in ["bin", "tmp", "home", "var-lib", "checkout/target/release"] {
            fs::create_dir_all(house.work().join(directory)).unwrap();
        }
        // Servers that switch to another user reach their files by this path.
        fs::set_permissions(house.work(), fs::Permissions::from_mode(0o755)).unwrap();
        let entries = fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap().path());
        let copied =
            entries.filter(|path| !["target", ".git", "fuzz", "ringpost-data"].iter().any(|name| path.ends_with(name)));
        let mut copy = Command::new("cp");
        let done = copy.arg("-a").args(copied).arg(house.work().join("checkout")).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let binary = house.work().join("checkout/target/release/ringpost");
        if fs::hard_link(BINARY, &binary).is_err() {
            fs::copy(BINARY, &binary).unwrap();
        }
        for (name, text) in [("cargo", CARGO), ("sleep", SLEEP)] {
            let path = house.work().join("bin").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        house
    }

    fn work(&self) -> &Path {
        self.0.path()
    }

    /// Runs a driver in namespaces and returns how it ended, in words.
    fn run(&self, driver: &str) -> String {
        let path = std::env::var("PATH").unwrap();
        let log = fs::File::create(self.work().join("driver.log")).unwrap();
        let mut command = namespaces();
        command
            .args(["bash", "-c", driver])
            .current_dir(self.work())
            .env_clear()
            .env("PATH", format!("/mnt/bin:{path}"));
        command.env("HOME", "/mnt/home").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        if let Some(engine) = std::env::var_os("RINGPOST_TEST_ENGINE") {
            command.env("RINGPOST_ENGINE", engine);
        }
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(self.work().join("driver.log")).unwrap();
                return format!("ended with {status} {log}");
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                return format!("does not end within {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Returns whether `printed` has the lines of `shown`, in which `…` is any text within a line.
fn matches(shown: &str, printed: &str) -> bool {
    let line_matches = |shown: &str, printed: &str| {
        let mut parts = shown.split('…');
        let Some(mut rest) = printed.strip_prefix(parts.next().unwrap()) else { return false };
        let parts = parts.collect::<Vec<_>>();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    };
    let (shown, printed) = (shown.lines().collect::<Vec<_>>(), printed.lines().collect::<Vec<_>>());
    shown.len() == printed.len() && shown.iter().zip(printed).all(|(shown, printed)| line_matches(shown, printed))
}

#[test]
fn shown_output_is_compared_line_by_line() {
    assert!(matches("a=… b=2\nc\n", "a=17 b=2\nc\n"));
    for different in ["a=17 b=3\nc\n", "a=17 b=2\n", "a=17 b=2\nc\nd\n", "a=17 b=2\nx\n"] {
        assert!(!matches("a=… b=2\nc\n", different), "{different}");
    }
}

/// A document may take this long.
const PATIENCE: Duration = Duration::from_secs(240);

/// Job control, as in a terminal. The directories appear at `/mnt`, where every document has the same paths.
const DRIVER_HEAD: &str = "\
set -em -o pipefail
ip link set lo up
mount --bind . /mnt
mount --bind tmp /tmp
mount --bind var-lib /var/lib
cd /mnt/checkout
";

/// Answers for cargo if the repository has what the command names: the binary is built already, and the tests run now.
const CARGO: &str = r#"#!/bin/sh
case "$*" in
"build --release") exec test -x target/release/ringpost ;;
"test") exec test -f Cargo.toml ;;
"test --test "*) test -f "tests/$3/main.rs" && exec grep -rqE "(fn|mod) [a-z0-9_]*${4-}" "tests/$3" ;;
*) grep -qxF "cargo $*" .ci/run || { echo "the test of the documents does not know: cargo $*" >&2; exit 64; } ;;
esac
"#;

/// Sleeps, and then until a server that is starting listens: this may be a debug build on a busy machine.
const SLEEP: &str = r#"#!/bin/sh
/bin/sleep "$1"
for _ in $(seq 300); do
    cat /proc/[0-9]*/cmdline 2> /dev/null | tr '\0' ' ' | grep -q '[r]ingpost serve' || exit 0
    grep -q ' 0A ' /proc/net/tcp /proc/net/tcp6 && exit 0
    /bin/sleep 0.1
done
"#;
