"""`latents up`: Prefect's server, MLflow's, a worker and a watcher for one home, on this machine.

All listen on the loopback interface alone. They are ours from start to end: what this process
started is what it stops, and when it dies by force, the kernel stops them.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from data.publication import replace_file
from flows.prefect_database import ensure_database
from flows.settings import HOME_VARIABLE, LOGGERS, NO_PICKLES, POOL, Home, check_registry

LOOPBACK = "127.0.0.1"
PREFECT_PORT, MLFLOW_PORT = 4200, 5000  # the usual ones, where they are free
START_S = 240.0  # a first start makes two databases; it took 85 s on a busy machine
STOP_S = 60.0  # a run in training saves a checkpoint first
LOOK_S = 0.3
SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)
PREFECT, WORKER = "prefect", "worker"

SETTINGS = {
    **NO_PICKLES,
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_EXTRA_LOGGERS": LOGGERS,
    "PREFECT_WORKER_QUERY_SECONDS": "3",
    # With the default, in memory, a restart forgets who holds a place, and the place is
    # never free again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
        "prefect.server.concurrency.lease_storage.filesystem"
    ),
    # Its job runners are for language models: seven processes, 1.5 GB.
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


class StartError(RuntimeError):
    """A server did not start, or died; the message has the end of its log."""


@dataclass(frozen=True)
class Child:
    """One process of ours and where it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def died(self) -> StartError:
        """What to say when it ended though nobody asked it to."""
        end = self.log.read_text("utf-8", errors="replace")[-1500:]
        return StartError(
            f"{self.name} ended ({self.process.returncode}); {self.log} ends in:\n{end}"
        )


@contextmanager
def running(
    home: Home,
    *,
    prefect_port: int | None = None,
    mlflow_port: int | None = None,
    watch_every_s: float = 10.0,
) -> Iterator[tuple[dict[str, str], list[Child]]]:
    """Start everything, give its addresses and processes when healthy, stop it at the end.

    What PREFECT_API_URL or MLFLOW_TRACKING_URI names is used and not started: on a machine
    that has both, this is a worker.

    Raises:
        StartError: a port is taken, a server did not start, or another one runs for this home.
        HomeError: the home is in a bucket, and MLflow's server would keep its versions in a
            file of this machine.
    """
    if "MLFLOW_BACKEND_STORE_URI" not in os.environ:
        check_registry(home)
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as ending:
        lock = ending.enter_context(_sole(home))
        children: list[Child] = []
        ending.callback(_stop, children)
        environment = {**os.environ, **SETTINGS, HOME_VARIABLE: home.address}
        start = _Starter(home, environment, lock, children, ending)

        prefect = os.environ.get("PREFECT_API_URL") or start.prefect(prefect_port)
        mlflow = os.environ.get("MLFLOW_TRACKING_URI") or start.mlflow(mlflow_port)
        _wait(children, f"{prefect}/health")
        _wait(children, f"{mlflow}/health")
        ours = {"PREFECT_API_URL": prefect, "MLFLOW_TRACKING_URI": mlflow}
        environment |= ours
        if any(child.name == PREFECT for child in children):
            from flows.orphans import mark_crashed  # prefect's client: a second to import

            mark_crashed(prefect, POOL)
        start.worker()
        _wait(children, f"{prefect}/work_pools/{POOL}/workers/filter", holds=b'"ONLINE"')
        start.watcher(watch_every_s)

        base = prefect.removesuffix("/api")
        addresses = {
            "prefect": base,
            "mlflow": mlflow,
            "worker": f"{base}/work-pools/work-pool/{POOL}",
        }
        record = {"environment": ours, "pids": [child.process.pid for child in children]}
        replace_file(home.servers, json.dumps(record).encode())
        ending.callback(home.servers.unlink, missing_ok=True)
        yield addresses, children


def watch_over(children: list[Child]) -> None:
    """Return never; raise when one of them ends.

    Raises:
        StartError: a child ended by itself.
    """
    while True:
        for child in children:
            if child.process.poll() is not None:
                raise child.died()
        time.sleep(1.0)


@contextmanager
def _sole(home: Home) -> Iterator[IO[str]]:
    """Be the only one that runs servers for this home."""
    with home.servers_lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            known = home.servers.read_text("utf-8") if home.servers.exists() else "starting"
            raise StartError(f"servers run for {home.root} already: {known}") from None
        yield lock


@dataclass(frozen=True)
class _Starter:
    """Starts each of the four; logs go to the home."""

    home: Home
    environment: dict[str, str]
    lock: IO[str]
    children: list[Child]
    claims: ExitStack

    def prefect(self, wanted: int | None) -> str:
        ensure_database(self.environment)
        port = _port(wanted, PREFECT_PORT, self.claims)
        self._start(PREFECT, ["prefect", "server", "start", "--host", LOOPBACK, "--port", port])
        return f"http://{LOOPBACK}:{port}/api"

    def mlflow(self, wanted: int | None) -> str:
        port = _port(wanted, MLFLOW_PORT, self.claims)
        # By the environment: an address with a password is for no list of processes.
        store = f"sqlite:///{self.home.root / 'mlflow.db'}"
        self.environment.setdefault("MLFLOW_BACKEND_STORE_URI", store)
        self.environment.setdefault("MLFLOW_DEFAULT_ARTIFACT_ROOT", self.home.artifacts)
        # Artifacts are read and written where they lie, with and without this server.
        command = ["mlflow", "server", "--no-serve-artifacts", "--workers", "1"]
        self._start("mlflow", [*command, "--host", LOOPBACK, "--port", port])
        return f"http://{LOOPBACK}:{port}"

    def worker(self) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}"
        self._start(
            "worker",
            ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name],
        )

    def watcher(self, every_s: float) -> None:
        command = ["flows.cli", "watch", "--every", str(every_s)]
        self._start("watcher", [*command, "--home", self.home.address])

    def _start(self, name: str, module: list[str]) -> None:
        log = self.home.root / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for us: we stop them in order
                pass_fds=[self.lock.fileno()],
                preexec_fn=_ours,
            )
        self.children.append(Child(name, process, log))


def _ours() -> None:
    """Run in the child before its program: it ends with us, and when it is asked to.

    A shell without job control starts us with SIGINT ignored, which children inherit; Prefect's
    worker turns SIGTERM into SIGINT, and would never end.
    """
    ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _port(wanted: int | None, usual: int, claims: ExitStack) -> str:
    """The port to listen on: the one asked for, or the usual one, or any that is free.

    Between a look at a port and its server's start another `latents up` may take it, and then
    answer for it: a name that only one process can hold at a time says whose it is.
    """
    for port in [wanted] if wanted else [usual, *[0] * 10]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            free = probe.getsockname()[1]
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0latents-up-{free}")  # abstract: no file, gone with the process
        except OSError:
            claim.close()
            continue
        claims.enter_context(claim)
        return str(free)
    raise StartError(f"port {wanted or usual} of {LOOPBACK} is taken; name another, or none")


def _wait(children: list[Child], address: str, *, holds: bytes = b"") -> None:
    """Wait until `address` answers with what it should hold, while our processes live."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for child in children:
            if child.process.poll() is not None:
                raise child.died()
        if _answers(address, holds):
            return
        time.sleep(LOOK_S)
    logs = ", ".join(str(child.log) for child in children)
    raise StartError(f"{address} did not answer in {START_S:.0f} s; see {logs}")


def _answers(address: str, holds: bytes) -> bool:
    request = urllib.request.Request(
        address, data=b"{}" if holds else None, headers={"Content-Type": "application/json"}
    )
    if login := os.environ.get("PREFECT_API_AUTH_STRING"):
        request.add_header("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return holds in answer.read()
    except (urllib.error.URLError, OSError):
        return False


def _stop(children: list[Child]) -> None:
    """End what we started, the last first: a worker needs its server to say goodbye."""
    for child in reversed(children):
        if child.name == WORKER:
            _end_runs(child)
        _signal(child, signal.SIGTERM)
        try:
            child.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _signal(child, signal.SIGKILL)
            child.process.wait()


def _end_runs(worker: Child) -> None:
    """Ask the worker's runs to end, and let them save and say so while the servers live.

    A worker that stops takes its runs with it unheard: they would count as running, and hold
    the place of the next.
    """
    runs = _children_of(worker.process.pid)
    for run in runs:
        with suppress(ProcessLookupError):
            os.kill(run, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while time.monotonic() < deadline and any(Path(f"/proc/{run}").exists() for run in runs):
        time.sleep(LOOK_S)


def _children_of(parent: int) -> list[int]:
    """The processes whose parent this is, as the kernel lists them."""
    listed = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(pid) for path in listed for pid in path.read_text().split()]


def _signal(child: Child, number: int) -> None:
    """Signal the child's whole group, if the child lives: a run under a worker is in it."""
    if child.process.poll() is None:
        os.killpg(child.process.pid, number)
