//! The client as other programs depend on it: with the cargo feature `client` alone, few packages and none that is only
//! for Linux. Its example program submits to the real server.

use std::collections::BTreeSet;
use std::process::Command;

use crate::common::Server;

/// Packages that build only on Linux. `libc` is not one of them: tokio and socket2 use it on every Unix.
const LINUX_ONLY: [&str; 6] = ["fuser", "io-uring", "landlock", "rustix", "seccompiler", "tokio-uring"];

/// The largest number of packages, with this one.
const PACKAGES_MAX: usize = 25;

/// Runs cargo in this package with the feature `client` alone, and returns its stdout.
fn cargo(arguments: &[&str], after: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments);
    command.args(["--locked", "--no-default-features", "--features", "client"]).args(after);
    let output = command.output().expect("cargo starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn client_depends_on_few_packages_and_on_none_that_is_only_for_linux() {
    for target in ["x86_64-unknown-linux-gnu", "aarch64-apple-darwin", "x86_64-pc-windows-gnu"] {
        let tree = cargo(&["tree", "--edges", "normal", "--prefix", "none", "--target", target], &[]);
        let packages: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(packages.contains("ringpost") && packages.contains("tokio"), "{tree}");
        assert!(packages.len() <= PACKAGES_MAX, "{} packages for {target}: {packages:?}", packages.len());
        let linux_only: Vec<_> = LINUX_ONLY.iter().filter(|name| packages.contains(*name)).collect();
        assert!(linux_only.is_empty(), "{linux_only:?} for {target}");
    }
}

#[test]
fn example_submits_every_message_to_a_server() {
    let server = Server::start(&["--workers", "1"]);
    let address = server.address().to_string();
    let stdout = cargo(&["run", "--quiet", "--example", "submit"], &["--", &address, "one", "two", "three"]);
    let expected: String = (1..=3).map(|id| format!("{id:016x}: accepted\n")).collect();
    assert_eq!(stdout, expected);
    let log = server.stop().log;
    assert!(log.contains("requests=3 failures=0"), "{log}");
}
