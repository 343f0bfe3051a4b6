//! `ringpost doctor` finds faults that the tests create. Each finding has its level and its fix, and the exit code
//! agrees with what `serve` does under the same fault.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::kept::{expect_sound, serve, text};
use crate::common::refuse::{refuse, refuse_io_uring};
use crate::common::requirement::{CONTROL_GROUPS, MOUNTS, NETWORK_NAMESPACE, is_root, tried};
use crate::common::{BINARY, Ended, Server, round_trip, run, wait_until};
use serde_json::Value;

/// A place to run in: words in front of the command, and changes to the process before it starts.
struct Place {
    before: Vec<String>,
    filter: Option<i32>,
    /// A copy of the binary that every user can run. The original may be in a directory that only root can access.
    binary: Option<(tempfile::TempDir, PathBuf)>,
}

impl Place {
    fn here() -> Place {
        Place { before: Vec::new(), filter: None, binary: None }
    }

    fn behind(words: &[&str]) -> Place {
        Place { before: words.iter().map(|word| (*word).to_owned()).collect(), ..Place::here() }
    }

    /// A place in its own namespaces, after a shell script has run there. Returns `None` if that is not permitted.
    fn within(namespaces: &str, script: &str) -> Option<Place> {
        let requirement = if namespaces.contains('n') { NETWORK_NAMESPACE } else { MOUNTS };
        requirement.check(tried(Command::new("unshare").args([namespaces, "sh", "-ec", script])))?;
        Some(Place::behind(&["unshare", namespaces, "sh", "-ec", &format!("{script}\nexec \"$@\""), "sh"]))
    }

    /// A place of the user `nobody`.
    fn unprivileged() -> Place {
        Place::of_user("65534", "--core=0")
    }

    /// A place of this user, with this limit.
    fn of_user(user: &str, limit: &str) -> Place {
        let mut words = vec!["prlimit", limit];
        let (user, group) = (format!("--reuid={user}"), format!("--regid={user}"));
        if is_root() {
            words.extend(["setpriv", &user, &group, "--clear-groups"]);
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = dir.path().join("ringpost");
        fs::copy(BINARY, &copy).unwrap();
        Place { binary: Some((dir, copy)), ..Place::behind(&words) }
    }

    /// Checks that the server starts here.
    fn starts(&self, options: &[&str]) {
        let mut server = Server::spawn(self.command("serve", options), 1);
        server.signal(libc::SIGKILL);
        server.reap();
    }

    fn run(&self, subcommand: &str, options: &[&str]) -> Ended {
        run(self.command(subcommand, options))
    }

    fn command(&self, subcommand: &str, options: &[&str]) -> Command {
        let binary = self.binary.as_ref().map_or(BINARY, |(_, path)| text(path));
        let words: Vec<&str> = self.before.iter().map(String::as_str).chain([binary, subcommand]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(options);
        if !options.contains(&"--listen") {
            command.args(["--listen", "0.0.0.0:0"]);
        }
        if let Some(errno) = self.filter {
            refuse_io_uring(&mut command, errno);
        }
        command
    }

    fn doctor(&self, options: &[&str]) -> Report {
        let ended = self.run("doctor", &[&["--json"], options].concat());
        let json = serde_json::from_str(&ended.stdout);
        let json: Value = json.unwrap_or_else(|error| panic!("{error}: {}{}", ended.stdout, ended.log));
        let code = i32::from(!json["serve_would_start"].as_bool().unwrap());
        assert_eq!(ended.status.code(), Some(code), "{json:#}");
        Report(json)
    }

    /// Checks a fault with which `serve` does not start, and says so as doctor does. Returns the finding.
    fn stops_serve(&self, options: &[&str], check: &str) -> Value {
        let report = self.doctor(options);
        let finding = report.finding(check);
        assert_eq!((&finding["level"], &finding["stops_serve"]), (&"problem".into(), &true.into()), "{finding:#}");
        let ended = self.run("serve", options);
        assert_eq!(ended.status.code(), Some(1), "{finding:#} {}", ended.log);
        finding
    }
}

struct Report(Value);

impl Report {
    fn findings(&self) -> impl Iterator<Item = &Value> {
        let groups = self.0["groups"].as_array().unwrap().iter();
        groups.flat_map(|group| group["findings"].as_array().unwrap())
    }

    fn finding(&self, check: &str) -> Value {
        let found = self.findings().find(|finding| finding["check"] == check);
        found.unwrap_or_else(|| panic!("no finding about {check} in {:#}", self.0)).clone()
    }

    /// Checks a fault with which `serve` starts. Returns the finding.
    fn advice(&self, check: &str) -> Value {
        let finding = self.finding(check);
        assert_eq!((&finding["level"], &finding["stops_serve"]), (&"advice".into(), &false.into()), "{finding:#}");
        assert!(!finding["fix"].as_array().unwrap().is_empty(), "{finding:#}");
        finding
    }

    fn is_ok(&self, check: &str) {
        let finding = self.finding(check);
        assert_eq!((&finding["level"], &finding["fix"]), (&"ok".into(), &Value::Array(Vec::new())), "{finding:#}");
    }
}

/// Fails unless one of the fixes that the finding names contains this.
fn fixed_by(finding: &Value, command: &str) {
    let commands = finding["fix"].as_array().unwrap();
    assert!(commands.iter().any(|fix| fix.as_str().unwrap().contains(command)), "{command}: {finding:#}");
}

/// Returns a directory on a disk. `/tmp` may be in memory.
fn on_disk() -> tempfile::TempDir {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Returns all names below a directory.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let below: Vec<_> = names.iter().filter(|path| path.is_dir()).flat_map(|path| self::names(path)).collect();
    names.extend(below);
    names.sort();
    names
}

#[test]
fn a_good_host_has_no_findings_and_no_file_is_left_behind() {
    let dir = on_disk();
    let options = ["--data-dir", text(dir.path()), "--workers", "1", "--segment-size", "4MiB", "--max-memory", "64MiB"];
    let before = names(dir.path());
    let settings = "echo 4096 > /proc/sys/net/core/somaxconn; echo 1 > /proc/sys/net/ipv4/tcp_migrate_req; \
                    ulimit -n $(ulimit -Hn)";
    let Some(place) = Place::within("-rn", settings) else { return };
    for missing in [false, true] {
        let below = dir.path().join("a/b");
        let mut options = options;
        if missing {
            options[1] = text(&below);
        }
        let report = place.doctor(&options);
        // These depend on the host of the tests.
        let of_the_host = ["open files", "sync time", "clock source", "quota", "file system"];
        for finding in report.findings().filter(|finding| finding["level"] != "ok") {
            assert!(of_the_host.contains(&finding["check"].as_str().unwrap()), "{finding:#}");
            assert_eq!(finding["level"], "advice", "{finding:#}");
        }
        assert_eq!(names(dir.path()), before);
        let human = place.run("doctor", &options);
        assert_eq!(human.status.code(), Some(0), "{}", human.stdout);
        assert!(human.stdout.contains("`ringpost serve` with these options would start"), "{}", human.stdout);
        assert!(human.stdout.contains("\n  ok       engine  "), "{}", human.stdout);
        assert_eq!(human.log, "", "stdout holds more than the report");
    }
}

/// io_uring is refused. With `auto` the server runs on epoll, with `uring` it does not start, and with `epoll` the
/// finding is not asked for.
fn is_refused(place: &Place, check: &str, expected: &str, fix: &str) {
    let strict = place.stops_serve(&["--engine", "uring"], "engine");
    assert!(strict["found"].as_str().unwrap().contains(expected), "{strict:#}");
    fixed_by(&strict, fix);
    fixed_by(&place.stops_serve(&["--engine", "uring"], check), fix);
    let report = place.doctor(&["--engine", "auto"]);
    fixed_by(&report.advice(check), fix);
    let engine = report.advice("engine");
    assert!(engine["found"].as_str().unwrap().starts_with("epoll, because "), "{engine:#}");
    assert!(engine["found"].as_str().unwrap().contains(expected), "{engine:#}");
    assert_eq!(report.0["serve_would_start"], true);
    let epoll = place.doctor(&["--engine", "epoll"]);
    epoll.is_ok("engine");
    epoll.is_ok(check);
}

#[test]
fn a_seccomp_filter_is_found() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let place = Place { filter: Some(errno), ..Place::here() };
        let expected = "seccomp filter refuses io_uring_setup";
        is_refused(&place, "seccomp", expected, "--security-opt seccomp=scripts/seccomp-ringpost.json");
    }
}

#[test]
fn a_kernel_that_does_not_know_the_flags_is_found() {
    let place = Place { filter: Some(libc::EINVAL), ..Place::here() };
    is_refused(&place, "ring flags", "SINGLE_ISSUER (since Linux 6.0)", "Linux 6.0 or later");
}

#[test]
#[ignore = "turns off io_uring on the whole host for a moment; as root: \
            cargo test --test operations the_sysctl -- --ignored --test-threads=1"]
fn the_sysctl_is_found() {
    let guardian = "
        setting=/proc/sys/kernel/io_uring_disabled
        before=$(cat $setting)
        trap 'echo $before > $setting' EXIT
        trap : INT TERM HUP
        echo 2 > $setting
        timeout -s KILL 10 \"$@\"";
    let place = Place::behind(&["bash", "-c", guardian, "bash"]);
    is_refused(&place, "io_uring switch", "kernel.io_uring_disabled is 2", "sysctl -w kernel.io_uring_disabled=0");
}

#[test]
fn too_little_locked_memory_is_found() {
    // A user without other processes, because the kernel counts all rings of a user, including those of tests that run
    // at the same time.
    let user = |limit| Place::of_user("54321", limit);
    // Room for the ring of a probe, but not for those of the shards, which need 136 KiB each.
    let place = user("--memlock=204800:204800");
    let finding = place.stops_serve(&["--workers", "2", "--engine", "uring"], "locked memory");
    fixed_by(&finding, "prlimit --pid $$ --memlock=");
    fixed_by(&finding, "docker run --ulimit memlock=");
    let smaller = ["--workers", "2", "--ring-entries", "256", "--engine", "uring"];
    place.doctor(&smaller).is_ok("locked memory");
    // A lack of resources is not hidden by another engine.
    user("--memlock=4096:4096").stops_serve(&["--engine", "auto"], "locked memory");
}

#[test]
fn too_few_open_files_are_found() {
    let options = ["--workers", "2", "--engine", "uring"];
    let limited = |limit: u32| Place::behind(&["prlimit", &format!("--nofile={limit}:{limit}")]);
    let few = limited(20).stops_serve(&options, "open files");
    let means = few["means"].as_str().unwrap();
    let needed = means.strip_prefix("2 shards need ").expect(means).split(' ').next().unwrap().parse().unwrap();
    // With one descriptor fewer the server does not start, with this number it does.
    limited(needed - 1).stops_serve(&options, "open files");
    limited(needed).doctor(&options).advice("open files");
    limited(needed).starts(&options);
    fixed_by(&few, "prlimit --pid $$ --nofile=");
    fixed_by(&few, "docker run --ulimit nofile=");
    let some = limited(256);
    let advice = some.doctor(&options).advice("open files");
    let room =
        advice["means"].as_str().unwrap().split(' ').find_map(|word| word.parse::<u32>().ok()).expect("a number");
    assert!((150..256 - needed).contains(&room), "{advice:#}");
    some.doctor(&["--workers", "2", "--max-connections", "100"]).is_ok("open files");
    let asked = some.doctor(&["--workers", "2", "--engine", "uring", "--max-connections", "5000"]).advice("open files");
    let enough = 5000 + 256 - room;
    fixed_by(&asked, &format!("--nofile={enough}:{enough}"));
    // The soft limit does not matter, because the server raises it.
    let soft = Place::behind(&["prlimit", "--nofile=8:256"]).doctor(&["--workers", "2", "--max-connections", "100"]);
    soft.is_ok("open files");
    soft.is_ok("engine");
}

#[test]
fn unfavorable_network_settings_are_found() {
    let script = "echo 128 > /proc/sys/net/core/somaxconn; echo 0 > /proc/sys/net/ipv4/tcp_migrate_req";
    let Some(place) = Place::within("-rn", script) else { return };
    let report = place.doctor(&["--workers", "2", "--backlog", "1000"]);
    fixed_by(&report.advice("backlog"), "sysctl -w net.core.somaxconn=1000");
    fixed_by(&report.advice("migration"), "sysctl -w net.ipv4.tcp_migrate_req=1");
    let fewer = place.doctor(&["--workers", "1", "--backlog", "128"]);
    fewer.is_ok("backlog");
    fewer.is_ok("migration");
}

#[test]
fn addresses_that_can_not_be_used_are_found() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let taken = format!("127.0.0.1:{port}");
    let busy = Place::here().stops_serve(&["--listen", &taken], "listen");
    fixed_by(&busy, &format!("ss -ltnp 'sport = :{port}'"));
    let admin = Place::here().stops_serve(&["--admin", &taken], "admin");
    assert!(admin["means"].as_str().unwrap().contains("--admin"), "{admin:#}");
    drop(holder);
    Place::here().doctor(&["--listen", &taken]).is_ok("listen");
    // This address is reserved for documentation (RFC 5737), so no host has it.
    let elsewhere = Place::here().stops_serve(&["--listen", "192.0.2.1:8888"], "listen");
    fixed_by(&elsewhere, "ip -brief address");
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if first.trim().parse::<u32>().unwrap() > 80 {
        let privileged = Place::unprivileged().stops_serve(&["--listen", "127.0.0.1:80"], "listen");
        fixed_by(&privileged, "sysctl -w net.ipv4.ip_unprivileged_port_start=80");
    }
}

#[test]
fn too_few_cpus_are_found() {
    let one = Place::behind(&["taskset", "1"]);
    fixed_by(&one.doctor(&["--workers", "3"]).advice("allowed"), "--workers 1");
    one.doctor(&["--workers", "1"]).is_ok("allowed");
    one.doctor(&[]).is_ok("allowed");
}

/// A control group for this process. It is removed on drop.
struct ControlGroup(PathBuf);

impl ControlGroup {
    /// Creates a group that allows half a CPU. Returns `None` if groups can't be created.
    fn half_a_cpu() -> Option<ControlGroup> {
        let name = format!("ringpost-doctor-{}", std::process::id());
        let v1 = (Path::new("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", "50000");
        let v2 = (Path::new("/sys/fs/cgroup"), "cpu.max", "50000 100000");
        for (root, file, value) in [v1, v2] {
            let group = ControlGroup(root.join(&name));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(file), value).is_ok() {
                return Some(group);
            }
        }
        CONTROL_GROUPS.missing("no group with a limit of CPU time can be made");
        None
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_cpu_quota_below_the_number_of_shards_is_found() {
    let Some(group) = ControlGroup::half_a_cpu() else { return };
    let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", group.0.display());
    let report = Place::behind(&["sh", "-c", &script, "sh"]).doctor(&["--workers", "2"]);
    let advice = report.advice("quota");
    assert!(advice["found"].as_str().unwrap().contains("0.50 CPUs"), "{advice:#}");
    fixed_by(&advice, "--workers 1");
    fixed_by(&advice, "docker update --cpus 2");
}

#[test]
fn a_data_directory_in_use_is_found_and_its_server_continues() {
    let dir = on_disk();
    let server = serve(dir.path(), "--workers 2 --segment-size 4MiB");
    let mut stream = server.connect();
    round_trip(&mut stream, 1);
    let segments = || names(dir.path()).iter().filter(|name| name.extension().is_some_and(|end| end == "seg")).count();
    wait_until("the writer that was used has its next segment", || segments() == 3);
    let before = names(dir.path());
    let options = ["--data-dir", text(dir.path()), "--listen", &server.address().to_string()];
    let finding = Place::here().stops_serve(&options, "in use");
    assert!(finding["found"].as_str().unwrap().contains(&format!("process {}", server.pid())), "{finding:#}");
    fixed_by(&finding, "--data-dir DIR");
    assert_eq!(Place::here().doctor(&options).finding("listen")["level"], "problem");
    assert_eq!(names(dir.path()), before);
    round_trip(&mut stream, 2);
    assert!(server.stop().status.success());
    expect_sound(dir.path());
    let report = Place::here().doctor(&options);
    for check in ["in use", "readers", "locks"] {
        report.is_ok(check);
    }
    // An earlier version created the directory with this mode.
    let writer =
        fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path()).find(|path| path.is_dir()).unwrap();
    for path in [dir.path(), &writer] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let report = Place::here().doctor(&options);
    let finding = report.finding("readers");
    assert_eq!(finding["level"], "advice");
    fixed_by(&finding, &format!("chmod 700 {}", writer.display()));
}

#[test]
fn a_file_system_without_locks_is_found() {
    let dir = on_disk();
    let mut command = Command::new(BINARY);
    command.args(["doctor", "--json", "--listen", "127.0.0.1:0", "--data-dir", text(dir.path())]);
    refuse(&mut command, libc::SYS_flock, vec![], 0);
    let report: Value = serde_json::from_str(&run(command).stdout).unwrap();
    let groups = report["groups"].as_array().unwrap().iter();
    let mut findings = groups.flat_map(|group| group["findings"].as_array().unwrap());
    let finding = findings.find(|finding| finding["check"] == "locks").unwrap();
    assert_eq!((&finding["level"], &finding["stops_serve"]), (&"advice".into(), &false.into()), "{finding:#}");
    assert_eq!(names(dir.path()).len(), 0, "a file is left over");
}

#[test]
fn a_data_directory_without_permission_is_found() {
    let dir = on_disk();
    let place = Place::unprivileged();
    if !is_root() {
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    }
    let missing = dir.path().join("data");
    let finding = place.stops_serve(&["--data-dir", text(&missing)], "directory");
    assert!(finding["found"].as_str().unwrap().contains("Permission denied"), "{finding:#}");
    if is_root() {
        fixed_by(&finding, &format!("install -d -o 65534 -g 65534 {}", missing.display()));
        let there = place.stops_serve(&["--data-dir", text(dir.path())], "directory");
        fixed_by(&there, &format!("chown -R 65534:65534 {}", dir.path().display()));
        // A server was started there as root once.
        drop(serve(dir.path(), "--workers 1 --segment-size 4MiB"));
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mixed = place.stops_serve(&["--data-dir", text(dir.path())], "in use");
        assert!(mixed["found"].as_str().unwrap().contains("start lock"), "{mixed:#}");
        fixed_by(&mixed, "chown -R 65534:65534");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    Place::here().stops_serve(&["--data-dir", text(file.path())], "directory");
}

#[test]
fn a_read_only_file_system_is_found() {
    let dir = on_disk();
    let path = text(dir.path());
    let script = format!("mount --bind {path} {path} && mount -o remount,bind,ro {path}");
    let Some(place) = Place::within("-rm", &script) else { return };
    let finding = place.stops_serve(&["--data-dir", path], "directory");
    fixed_by(&finding, &format!("mount -o remount,rw {path}"));
    fixed_by(&finding, "docker run -v ringpost:/var/lib/ringpost");
}

#[test]
fn a_file_system_in_memory_or_of_a_container_is_found() {
    let dir = on_disk();
    let path = text(dir.path());
    let options = ["--data-dir", path, "--workers", "1", "--segment-size", "4MiB", "--min-free", "1MiB"];
    if let Some(place) = Place::within("-rm", &format!("mount -t tmpfs -o size=64m tmpfs {path}")) {
        let report = place.doctor(&options);
        assert!(report.advice("file system")["means"].as_str().unwrap().contains("gone when the host restarts"));
        report.is_ok("free space");
        report.is_ok("sync time");
    }
    let layers = format!(
        "mount -t tmpfs tmpfs {path} && cd {path} && mkdir lower upper work data \
         && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay data && cd /"
    );
    if let Some(place) = Place::within("-rm", &layers) {
        let data = format!("{path}/data");
        let options = [&["--data-dir", &data], &options[2..]].concat();
        fixed_by(&place.doctor(&options).advice("file system"), "docker run -v ringpost:/var/lib/ringpost");
    }
}

#[test]
fn too_little_space_is_found() {
    let dir = on_disk();
    let path = text(dir.path());
    let Some(place) = Place::within("-rm", &format!("mount -t tmpfs -o size=20m tmpfs {path}")) else { return };
    let options = |size| ["--data-dir", path, "--workers", "1", "--min-free", "8MiB", "--segment-size", size];
    // The server starts, acks with 1, and accepts messages once there is room. The fault does not stop it.
    let full = place.doctor(&options("64MiB")).finding("free space");
    assert_eq!((&full["level"], &full["stops_serve"]), (&"problem".into(), &false.into()), "{full:#}");
    fixed_by(&full, "ringpost serve --segment-size 5MiB --min-free 5MiB");
    fixed_by(&full, "du -xhd 2");
    place.doctor(&options("8MiB")).advice("free space");
    place.doctor(&options("4MiB")).is_ok("free space");
}

#[test]
fn a_clock_that_was_set_back_is_found() {
    let dir = on_disk();
    let server = serve(dir.path(), "--workers 1 --segment-size 4MiB");
    round_trip(&mut server.connect(), 1);
    assert!(server.stop().status.success());
    let options = ["--data-dir", text(dir.path())];
    Place::here().doctor(&options).is_ok("time of day");
    // This is the state after a server that ran in the year 2100.
    let micros = 4_102_444_800_000_000u64;
    fs::create_dir(dir.path().join(format!("{:016x}", micros << 12))).unwrap();
    let advice = Place::here().doctor(&options).advice("time of day");
    assert!(advice["means"].as_str().unwrap().contains("started at 2100-01-01"), "{advice:#}");
    fixed_by(&advice, "timedatectl set-ntp true");
}

#[test]
fn invalid_options_are_refused_as_by_serve() {
    let ended = Place::here().run("doctor", &["--ring-entries", "1000"]);
    assert_eq!((ended.status.code(), ended.stdout.as_str()), (Some(2), ""), "{}", ended.log);
    assert!(ended.log.contains("--ring-entries 1000"), "{}", ended.log);
}
