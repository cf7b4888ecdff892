"""Where things live and how the libraries below us are switched on: the machine's settings.

A home is one folder that holds everything a run makes; it stands for a place in a bucket where
it is the working copy of one (`data.working_copy`). `prepare_environment` must run before
prefect or mlflow is imported: both read the environment at import.
"""

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOME_VARIABLE = "LATENTS_HOME"
DEFAULT_HOME = "latents-home"
SCHEME = "s3://"
PRIVATE = 0o027  # what files are made without: nothing for others, no writing for the group
POOL = "latents"  # the work pool of deployments, and what `latents up` runs a worker for
LOGGERS = "flows,data,vae_engine"  # whose log lines Prefect's pages show

# What every process of ours has, be it started by a person, a worker or a container.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
    # Waiting threads sleep: where another process wants the core, one that spins for its
    # turn makes a product ten times as slow.
    "OMP_WAIT_POLICY": "PASSIVE",
}
NO_PICKLES = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


class HomeError(ValueError):
    """The address of a home is none, anyone may write to it, or its registry is not for all."""


@dataclass(frozen=True)
class Home:
    """The folder that holds data sets, runs, features and the embedded servers' files."""

    root: Path

    @property
    def address(self) -> str:
        """Where others find this home: its folder, or `s3://bucket/prefix`."""
        return _outside(self.root)

    @property
    def datasets(self) -> Path:
        """Snapshots: `<name>/<fingerprint>/`."""
        return self.root / "datasets"

    @property
    def runs(self) -> Path:
        """Checkpoints, metrics and reports: `<run id>/`."""
        return self.root / "runs"

    @property
    def features(self) -> Path:
        """Publications: `<name>/model_version=v<k>/publication=<id>/`."""
        return self.root / "features"

    @property
    def tracking_uri(self) -> str:
        """MLFLOW_TRACKING_URI where it is set, else a sqlite file in this home.

        Raises:
            HomeError: this home is in a bucket, where no such file can be.
        """
        check_registry(self)
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> str:
        """MLflow's artifacts, where no server looks after them."""
        return _outside(self.root / "mlartifacts")

    @property
    def servers(self) -> Path:
        """Where the servers are that `latents up` runs for this home."""
        return self.root / "servers.json"

    @property
    def servers_lock(self) -> Path:
        """Locked for as long as `latents up` runs; the kernel lets go when it dies."""
        return self.root / ".servers.lock"


def _outside(path: Path) -> str:
    from data.working_copy import place_of  # arrow: not for those who ask for help only

    return str(place_of(path))


def check_registry(home: Home) -> None:
    """Make sure that whoever works in this home will know the same model versions.

    Raises:
        HomeError: it is in a bucket, and no registry is named.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI") and home.address.startswith(SCHEME):
        raise HomeError(
            f"{home.address} is for several machines, and without MLFLOW_TRACKING_URI its model "
            f"versions would be known to this one alone. Set it to the address of your MLflow "
            f"server; or, if there is only this machine, to a file: "
            f"MLFLOW_TRACKING_URI=sqlite:////absolute/path/mlflow.db"
        )


def resolve_home(option: str | Path | None) -> Home:
    """The home given on the command line, else $LATENTS_HOME, else ./latents-home.

    Of a home in a bucket it is the working copy of this machine.

    Raises:
        HomeError: it is no address of a home.
    """
    chosen = str(option or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)
    if not chosen.startswith(SCHEME):
        return Home(Path(chosen).expanduser().resolve())
    from data.working_copy import working_copy

    try:
        return Home(working_copy(chosen))
    except ValueError as error:
        raise HomeError(str(error)) from None


def prepare_environment(home: Home, *, debug: bool = False) -> None:
    """Point Prefect and MLflow into `home`, and keep both quiet and off the network.

    What the user has set in the environment stays as it is, with one exception: pickles are
    never deserialized. Where `latents up` runs for this home, its servers are used. What this
    process writes from now on is not for others to read.

    Raises:
        HomeError: anyone may write to the home.
    """
    os.umask(os.umask(PRIVATE) | PRIVATE)
    home.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.root.stat().st_mode & stat.S_IWOTH:
        raise HomeError(
            f"anyone may write to the home {home.root}, and so change what it holds; "
            f"take that away: chmod o-w {home.root}"
        )
    defaults = {
        **QUIET,
        **running_servers(home),
        "PREFECT_HOME": str(home.root / "prefect"),
        "PREFECT_LOGGING_LEVEL": "INFO" if debug else "CRITICAL",  # our errors say it
        "PREFECT_LOGGING_INTERNAL_LEVEL": "ERROR" if debug else "CRITICAL",
        # A cold start with its migrations took 27 s on a busy two-core machine; the
        # library gives up after 20.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ |= NO_PICKLES


def running_servers(home: Home) -> Mapping[str, str]:
    """The environment of who uses the servers that `latents up` runs now; empty without them."""
    if not home.servers.exists():
        return {}
    with home.servers_lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return dict(json.loads(home.servers.read_text("utf-8"))["environment"])
    return {}  # nobody holds the lock: what the file says is of a run that has ended
