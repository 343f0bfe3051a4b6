//! A server on a small file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::kept::text;
use super::{BINARY, Server};

/// An image of an ext4 file system. None where it can't be made.
pub fn make_ext4(len: u64) -> Option<tempfile::NamedTempFile> {
    make_image("mkfs.ext4", &["-q", "-F", "-m", "0"], len)
}

/// An image of a btrfs file system, which copies on write, or `None` if it can't be made.
pub fn make_btrfs(len: u64) -> Option<tempfile::NamedTempFile> {
    make_image("mkfs.btrfs", &["-q", "-f"], len)
}

fn make_image(program: &str, options: &[&str], len: u64) -> Option<tempfile::NamedTempFile> {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(len).unwrap();
    let made = Command::new(program).args(options).arg(image.path()).output();
    if !made.is_ok_and(|made| made.status.success()) {
        println!("skipped: no {program}");
        return None;
    }
    Some(image)
}

/// The beginning of a command that sees a file system which nobody else sees. `mount` mounts it on `$0`, which
/// is `dir`, in a namespace by `unshare`. None where that is not permitted.
pub fn in_mount(dir: &Path, unshare: &str, mount: &str) -> Option<Command> {
    let probe = Command::new("unshare").args([unshare, "sh", "-c", mount, text(dir)]).output().ok()?;
    if !probe.status.success() {
        println!("skipped: {mount}: {}", String::from_utf8_lossy(&probe.stderr).trim());
        return None;
    }
    let mut command = Command::new("unshare");
    command.args([unshare, "sh", "-c", &format!("{mount} && exec \"$@\""), text(dir)]);
    Some(command)
}

/// A server whose data directory is on a file system of its own, of which a file takes 8 MiB. The path is where to
/// see it. See [`in_mount`].
pub fn serve_on(dir: &Path, unshare: &str, mount: &str, options: &str) -> Option<(Server, PathBuf)> {
    let mount = format!("{mount} && head -c 8M /dev/zero > \"$0/ballast\"");
    let mut command = in_mount(dir, unshare, &mount)?;
    command.args([BINARY, "serve", "--listen", "127.0.0.1:0", "--data-dir", text(&dir.join("data"))]);
    command.args(["--workers", "1", "--admin", "127.0.0.1:0", "--segment-size", "2MiB"]);
    command.args(options.split_whitespace());
    let server = Server::spawn(command, 1);
    // The mount is seen by the server alone, and by whoever looks through its eyes.
    let seen = PathBuf::from(format!("/proc/{}/root{}", server.pid(), text(dir)));
    assert!(seen.join("ballast").exists());
    Some((server, seen))
}
