//! A server on a small file system of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::NamedTempFile;

use super::kept::text;
use super::requirement::{BTRFS, EXT4, MOUNTS, tried};
use super::{BINARY, Server};

/// Returns an image of an ext4 file system, or `None` if there is no mkfs.ext4.
pub fn make_ext4(len: u64) -> Option<NamedTempFile> {
    EXT4.check(make_image("mkfs.ext4", &["-q", "-F", "-m", "0"], len))
}

/// Returns an image of a btrfs file system, which copies on write, or `None` if there is no mkfs.btrfs.
pub fn make_btrfs(len: u64) -> Option<NamedTempFile> {
    BTRFS.check(make_image("mkfs.btrfs", &["-q", "-f"], len))
}

fn make_image(program: &str, options: &[&str], len: u64) -> Result<NamedTempFile, String> {
    let image = NamedTempFile::new().unwrap();
    image.as_file().set_len(len).unwrap();
    tried(Command::new(program).args(options).arg(image.path()))?;
    Ok(image)
}

/// Returns the beginning of a command that runs in a mount namespace of its own. There, the shell command `mount` has
/// mounted a file system on `$0`, which is `dir`. `unshare` holds the options of unshare(1) for the namespace. Returns
/// `None` if this is not permitted.
pub fn in_mount(dir: &Path, unshare: &str, mount: &str) -> Option<Command> {
    MOUNTS.check(tried(Command::new("unshare").args([unshare, "sh", "-c", mount, text(dir)])))?;
    let mut command = Command::new("unshare");
    command.args([unshare, "sh", "-c", &format!("{mount} && exec \"$@\""), text(dir)]);
    Some(command)
}

/// Starts a server whose data directory is on a file system of its own, see [`in_mount`]. A file called `ballast` uses
/// 8 MiB of it. Returns the path at which other processes see the file system too.
pub fn serve_on(dir: &Path, unshare: &str, mount: &str, options: &str) -> Option<(Server, PathBuf)> {
    let mount = format!("{mount} && head -c 8M /dev/zero > \"$0/ballast\"");
    let mut command = in_mount(dir, unshare, &mount)?;
    command.args([BINARY, "serve", "--listen", "127.0.0.1:0", "--data-dir", text(&dir.join("data"))]);
    command.args(["--workers", "1", "--admin", "127.0.0.1:0", "--segment-size", "2MiB"]);
    command.args(options.split_whitespace());
    let server = Server::spawn(command, 1);
    // Other processes reach the mount only through the server's root directory.
    let seen = PathBuf::from(format!("/proc/{}/root{}", server.pid(), text(dir)));
    assert!(seen.join("ballast").exists());
    Some((server, seen))
}
