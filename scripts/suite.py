"""The standard suite, and how one run of it is made: a fresh server on one CPU, the load on another.

`bench` and `compare` share it. Everything is measured by `ringpost bench`, which checks every ack.
The sink is `discard`, unless the server's command or RINGPOST_SINK says otherwise: network and disk are
measured apart.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BINARY = os.path.join(ROOT, "target", "release", "ringpost")
ADDRESS = "127.0.0.1:8899"
START_TIMEOUT_S = 10
# What `serve` would take from its environment, unless it is said there.
DEFAULTS = {"RINGPOST_SINK": "discard"}
INSIDE = "RINGPOST_SUITE_INSIDE_NAMESPACE"

# Name: what it is, and the options of `ringpost bench` for it.
WORKLOADS = {
    "a": ("1 connection, window 1", "--connections 1 --window 1"),
    "b": ("64 connections, window 1", "--connections 64 --window 1"),
    "c": ("1,000 connections, window 1", "--connections 1000 --window 1"),
    "d": ("100 connections, window 64", "--connections 100 --window 64"),
    "e": ("100 connections, window 1,024", "--connections 100 --window 1024"),
    "f": ("16 connections, window 4, 16 KiB", "--connections 16 --window 4 --payload 16384"),
    "g": ("churn, 32 at a time", "--churn --connections 32"),
    "h": ("9,000 idle connections", "--idle 9000"),
}


def fail(message):
    print(f"{os.path.basename(sys.argv[0])}: {message}", file=sys.stderr)
    sys.exit(1)


def note(message):
    print(message, file=sys.stderr, flush=True)


def enter_namespace():
    """Goes on in a network namespace of its own, where it may: there no firewall or connection
    tracking of the host costs every packet."""
    if INSIDE in os.environ:
        return
    if not shutil.which("unshare") or not shutil.which("ip"):
        note("without a network namespace: `unshare` (util-linux) or `ip` (iproute2) is missing")
        return
    root = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if subprocess.run(root + ["true"], stderr=subprocess.DEVNULL).returncode != 0:
        note("without a network namespace: `unshare -n` is not allowed here")
        return
    script = 'ip link set lo up && exec "$@"'
    environment = {**os.environ, INSIDE: "1"}
    os.execvpe(root[0], root + ["sh", "-c", script, "sh", sys.executable] + sys.argv, environment)


def cpus():
    """One CPU for the server and one for the load."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        note("one CPU for both server and load: they disturb each other, compare only CPU time")
    return allowed[0], allowed[-1]


def build():
    if not shutil.which("cargo"):
        fail("cargo is missing: install a Rust toolchain, or name a built binary")
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked"], cwd=ROOT, check=True)


def pinned(cpu):
    return lambda: os.sched_setaffinity(0, {cpu})


def data_parent():
    """Where journals of runs are kept: on the disk of the build, for /tmp may be memory."""
    path = os.path.join(ROOT, "target", "data")
    os.makedirs(path, exist_ok=True)
    return path


class Server:
    """A server of one worker, started by `command`: a binary and options of `serve`. If it has a journal,
    that is a new one, thrown away at the end; RINGPOST_DATA_DIR or --data-dir keeps it elsewhere."""

    def __init__(self, command, cpu):
        words = shlex.split(command)
        if not os.access(words[0], os.X_OK):
            fail(f"{words[0]} is no program; build it, or name another")
        self.log = tempfile.TemporaryFile("w+")
        self.data = tempfile.TemporaryDirectory(prefix="ringpost-", dir=data_parent())
        self.process = subprocess.Popen(
            [words[0], "serve", "--workers", "1", "--listen", ADDRESS] + words[1:],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**DEFAULTS, "RINGPOST_DATA_DIR": self.data.name, **os.environ},
            preexec_fn=pinned(cpu),
        )
        if not self.process.stdout.readline().startswith("listening on "):
            self.process.wait(START_TIMEOUT_S)
            self.log.seek(0)
            fail(f"`{command}` does not serve:\n{self.log.read()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.data.cleanup()


def measure(command, options, seconds, warmup=1.0, load=BINARY, html=None):
    """One run against a fresh server: the report of `ringpost bench`, as a dictionary."""
    server_cpu, load_cpu = cpus()
    with Server(command, server_cpu) as server, tempfile.NamedTemporaryFile("r") as report:
        words = [load, "bench", "--addr", ADDRESS, "--pid", str(server.process.pid), "--json", report.name]
        words += ["--duration", f"{round(seconds * 1000)}ms", "--warmup", f"{round(warmup * 1000)}ms"]
        words += shlex.split(options) + (["--html", html] if html else [])
        run = subprocess.run(words, capture_output=True, text=True, preexec_fn=pinned(load_cpu))
        if run.returncode != 0:
            fail(f"`{shlex.join(words)}` failed ({run.returncode}):\n{run.stdout}{run.stderr}")
        return json.load(report)


def server_ns(report):
    """The server's CPU time per request: the scheduler's exact count where there is one."""
    server = report["server"]
    return server["scheduled_ns_per_request"] or server["cpu"]["ns_per_request"]


def machine():
    """One line on where this was measured."""
    model = "unknown CPU"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"Linux {os.uname().release}, {os.cpu_count()} CPUs ({model})"
