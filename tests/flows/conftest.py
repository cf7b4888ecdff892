"""One finished run for all tests that look at what a run leaves behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from tests.flows.stack import Stack, latents_up

TIMEOUT_S = 240  # an embedded server's cold start, on a busy machine


@dataclass(frozen=True)
class Finished:
    """What `latents run` printed, and where."""

    home: Path
    source: Path
    summary: Mapping[str, Any]
    arguments: tuple[str, ...]


def latents(
    *arguments: str | Path, home: str | Path, server: str | None = None
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
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One `latents up` for the session: Prefect's server, MLflow's, a worker, a watcher."""
    with latents_up(tmp_path_factory.mktemp("stack") / "home") as servers:
        yield servers


@pytest.fixture(scope="session")
def prefect_server(stack: Stack) -> str:
    """The address of the API of the session's Prefect server."""
    return stack.prefect


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
