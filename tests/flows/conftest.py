"""One finished run for all tests that look at what a run leaves behind."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

TIMEOUT_S = 240  # an embedded server's cold start, on a busy machine


@dataclass(frozen=True)
class Finished:
    """What `latents run` printed, and where."""

    home: Path
    source: Path
    summary: Mapping[str, Any]
    arguments: tuple[str, ...]


def latents(
    *arguments: str | Path, home: Path, server: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, as a user does.

    Without the URL of a `server`, a run with work to do starts Prefect's embedded one.
    """
    environment = {k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
    if server is not None:
        environment["PREFECT_API_URL"] = server
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments), "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env=environment,
    )


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One real Prefect server for the session, on loopback; gives the URL of its API."""
    folder = tmp_path_factory.mktemp("prefect")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_for(f"{url}/health", server, folder / "server.log")
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the Prefect server did not start:\n{log.read_text()[-2000:]}")


def digits_table() -> pa.Table:
    """1,797 digits of 8 × 8 pixels from 0 to 16, with labels and a key that is not the order."""
    digits = load_digits()
    images = digits.images.astype("uint8").reshape(-1, 64)
    flat = pa.array(images.ravel())
    return pa.table(
        {
            "id": [f"digit-{(7 * row) % 1797:04d}" for row in range(len(images))],
            "image": pa.FixedSizeListArray.from_arrays(flat, 64),
            "label": pa.array(digits.target, pa.int64()),
        }
    )


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a Parquet file, and nothing else: everything is to be inferred."""
    path = tmp_path_factory.mktemp("source") / "digits.parquet"
    pq.write_table(digits_table(), path)
    return path


@pytest.fixture(scope="session")
def finished(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole run through the embedded Prefect server and MLflow's sqlite store."""
    home = tmp_path_factory.mktemp("run") / "home"
    arguments = ("run", str(digits), "--set", "training.epochs=12", "--json")
    done = latents(*arguments, home=home)
    assert done.returncode == 0, done.stderr
    return Finished(home, digits, json.loads(done.stdout), arguments)
