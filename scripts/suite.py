"""The standard suite of workloads, for `bench` and `compare`. Each run has a new server and two CPUs: the server's and
the load's.

`ringpost bench` measures everything, and checks every ack. The sink is `discard`, unless the server's command or
RINGPOST_SINK sets another one, so that network and disk are measured separately.
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
# Variables for `serve`, unless the environment sets them.
DEFAULTS = {"RINGPOST_SINK": "discard"}
INSIDE = "RINGPOST_SUITE_INSIDE_NAMESPACE"

# Name: description, and options of `ringpost bench`.
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
    """Runs this script again in its own network namespace, if that is allowed. There, no firewall or connection
    tracking of the host slows down every packet."""
    if INSIDE in os.environ:
        return
    if not shutil.which("unshare") or not shutil.which("ip"):
        note("running without a network namespace: `unshare` (util-linux) or `ip` (iproute2) is missing")
        return
    root = ["unshare", "-n"] if os.geteuid() == 0 else ["unshare", "-rn"]
    if subprocess.run(root + ["true"], stderr=subprocess.DEVNULL).returncode != 0:
        note("running without a network namespace: `unshare -n` is not allowed here")
        return
    script = 'ip link set lo up && exec "$@"'
    environment = {**os.environ, INSIDE: "1"}
    os.execvpe(root[0], root + ["sh", "-c", script, "sh", sys.executable] + sys.argv, environment)


def cpus():
    """Returns one CPU for the server and one for the load."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        note("server and load share one CPU and disturb each other; compare only CPU time")
    return allowed[0], allowed[-1]


def build():
    if not shutil.which("cargo"):
        fail("cargo is missing; install a Rust toolchain, or name a binary")
    subprocess.run(["cargo", "build", "--release", "--quiet", "--locked"], cwd=ROOT, check=True)


def pinned(cpu):
    return lambda: os.sched_setaffinity(0, {cpu})


def data_parent():
    """Returns the directory for the journals of runs. It is on the disk of the build, because /tmp may be memory."""
    path = os.path.join(ROOT, "target", "data")
    os.makedirs(path, exist_ok=True)
    return path


class Server:
    """A server with one shard, started by `command`: a binary and options of `serve`. Its journal is new, and removed
    at the end, unless RINGPOST_DATA_DIR or --data-dir names another directory."""

    def __init__(self, command, cpu):
        words = shlex.split(command)
        if not os.access(words[0], os.X_OK):
            fail(f"there is no program {words[0]}; build it (cargo build --release), or name another")
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
            fail(f"`{command}` did not start:\n{self.log.read()}")

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
    """Runs `ringpost bench` against a new server, and returns its report as a dictionary."""
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
    """Returns the server's CPU time per request: the scheduler's exact count, if there is one."""
    server = report["server"]
    return server["scheduled_ns_per_request"] or server["cpu"]["ns_per_request"]


def machine():
    """Returns a description of this machine, in one line."""
    model = "unknown CPU"
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"Linux {os.uname().release}, {os.cpu_count()} CPUs ({model})"
