//! Puts into the binary how it was built, for `ringpost --version`.
//!
//! The commit is the variable `RINGPOST_COMMIT` if that is set (a build from an archive or in a container has no
//! `.git`), otherwise what git reports for this directory, otherwise `unknown`. Nothing here fails a build.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RINGPOST_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let commit = env::var("RINGPOST_COMMIT").ok().filter(|commit| !commit.is_empty()).or_else(commit_of_checkout);
    println!("cargo::rustc-env=RINGPOST_BUILD_COMMIT={}", commit.as_deref().unwrap_or("unknown"));
    let is_static = variable("CARGO_CFG_TARGET_FEATURE").split(',').any(|feature| feature == "crt-static");
    let linked = if is_static { "static" } else { "dynamic" };
    println!("cargo::rustc-env=RINGPOST_BUILD_TARGET={}, {linked}", variable("TARGET"));
    println!("cargo::rustc-env=RINGPOST_BUILD_PROFILE={}, opt-level {}", variable("PROFILE"), variable("OPT_LEVEL"));
    println!("cargo::rustc-env=RINGPOST_BUILD_RUSTFLAGS={}", rustflags());
    let compiler = output(&variable("RUSTC"), &["--version"]);
    println!("cargo::rustc-env=RINGPOST_BUILD_COMPILER={}", compiler.as_deref().unwrap_or("rustc, version unknown"));
}

/// Returns the commit that is checked out, with `-dirty` if the sources of the binary have changed since.
fn commit_of_checkout() -> Option<String> {
    // Without this check, sources that are unpacked inside another project's checkout would get that project's commit.
    if !Path::new(".git").exists() {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    // HEAD changes with the branch, and its log also with every commit. Only existing paths are listed, because cargo
    // would run this script again in each build for a path that doesn't exist.
    for path in
        ["HEAD", "logs/HEAD", "packed-refs"].map(str::to_owned).into_iter().chain(git(&["symbolic-ref", "HEAD"]))
    {
        if let Some(path) = git(&["rev-parse", "--git-path", &path]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    const SOURCES: [&str; 4] = ["src", "build.rs", "Cargo.toml", "Cargo.lock"];
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let changes = git(&[&["status", "--porcelain", "--"], &SOURCES[..]].concat())?;
    Some(if changes.is_empty() { commit } else { commit + "-dirty" })
}

/// Returns the flags that rustc was given by hand, without those that name the builder's directories.
fn rustflags() -> String {
    let flags = variable("CARGO_ENCODED_RUSTFLAGS");
    let shown: Vec<_> = flags.split('\x1f').filter(|flag| !flag.starts_with("--remap-path-prefix=")).collect();
    if shown.concat().is_empty() { "none".into() } else { shown.join(" ") }
}

fn git(arguments: &[&str]) -> Option<String> {
    output("git", arguments)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_default()
}
