"""RELIABILITY 2a, Prefect server lost, flow killed: the work goes on, and nobody waits for a ghost."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, temporary_settings

import flows.server
from data.features import list_publications, open_features
from flows.server import ServerError, check_server
from flows.settings import Home
from tests.faults.conftest import Cases
from tests.faults.effort import WHOLE
from tests.faults.proxy import faulty
from tests.faults.small import ROWS, written
from tests.flows.services import free_port
from tests.flows.stack import Stack, wait_for

TEMPLATE = Path(flows.server.__file__).parent / "templates" / "alert.yaml"
NOBODY = "http://127.0.0.1:9/api"
# Enough that the server is lost long before the end, and that the model passes its gate.
SETTINGS = (
    "training.epochs=100",
    "training.learning_rate=0.01",
    "training.patience=100000",
    "model.latents=2",
)


@contextmanager
def prefect_server(home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server of the test's own, which it may kill."""
    port = free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "prefect", "server", "start"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        env=os.environ
        | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/health"), "Prefect's server")
        yield process, f"http://127.0.0.1:{port}/api"
    finally:
        process.kill()
        process.wait()


def answers(address: str) -> bool:
    try:
        return bool(urllib.request.urlopen(address, timeout=5).read() == b"true")
    except (urllib.error.URLError, OSError):
        return False


def begun(source: Path, home: Home, server: str) -> subprocess.Popen[str]:
    chosen = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "flows.cli", "run", str(source), *chosen, "--json"]
    return subprocess.Popen(
        [*command, "--home", str(home.root)],
        env=os.environ | {"PREFECT_API_URL": server, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not WHOLE, reason="a server, and a run that loses it: make faults")
def test_prefect_server_lost_in_the_middle(tmp_path: Path, cases: Cases) -> None:
    source, home = written(tmp_path, 600), Home(tmp_path / "home")
    with prefect_server(tmp_path / "prefect") as (server, address):
        run = begun(source, home, address)
        wait_for(lambda: list(home.runs.glob("*/checkpoints/*")) or run.poll(), "a checkpoint")
        server.send_signal(signal.SIGKILL)
        said, complained = run.communicate(timeout=240)
    cases("2a Prefect server lost")

    assert run.returncode == 0, complained
    assert "is gone; the run goes on without it" in complained
    (found,) = list_publications(home.root)
    features = open_features(
        source.stem, home=home.root, publication=found.publication, verify=True
    )
    assert features.rows == 2 * ROWS
    assert json.loads(said)["publication"]["id"] == found.publication

    again = begun(source, home, NOBODY)
    said, complained = again.communicate(timeout=60)
    assert again.returncode == 0, complained
    stages = json.loads(said)["stages"]
    assert {stage["status"] for stage in stages.values()} == {"reused"}


def test_prefect_server_lost_before_the_run(tmp_path: Path, cases: Cases) -> None:
    """Told before anything is imported that takes time, and with two ways out."""
    started = time.perf_counter()
    run = begun(written(tmp_path), Home(tmp_path / "home"), NOBODY)
    said, complained = run.communicate(timeout=60)
    cases("2a Prefect server lost")

    assert run.returncode == 2
    assert json.loads(said) == {
        "error": f"Prefect at {NOBODY} does not answer: [Errno 111] Connection refused\n"
        "Start it, or unset PREFECT_API_URL: a run without it starts a server of its own.",
        "exit_code": 2,
    }
    assert complained.startswith(f"error Prefect at {NOBODY} does not answer")
    assert time.perf_counter() - started < 30


def test_prefect_server_that_says_nothing(
    monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    monkeypatch.setattr(flows.server, "ANSWER_S", 0.2)
    cases("2a Prefect server lost")

    with (
        faulty("hang") as address,
        temporary_settings({PREFECT_API_URL: f"{address}/api"}),
        pytest.raises(ServerError, match=r"127\.0\.0\.1:\d+/api does not answer: .*"),
    ):
        check_server()


@pytest.mark.skipif(not WHOLE, reason="a server, and seconds of silence: make faults")
def test_flow_killed_is_told_by_its_silence(tmp_path: Path, cases: Cases) -> None:
    """The automation of our template, whose ten minutes are ten seconds here; no worker lives."""
    source, home = written(tmp_path, 600), Home(tmp_path / "home")
    silent = yaml.safe_load(TEMPLATE.read_text())["automations"][1]
    silent["trigger"]["within"] = 10
    with prefect_server(tmp_path / "prefect") as (_, address):
        server = Stack(home.root, address, "")
        server.ask("automations/", silent)
        run = begun(source, home, address)
        wait_for(lambda: server.events("prefect.flow-run.heartbeat"), "a sign of life")
        run.kill()
        run.communicate()
        (left,) = server.ask("flow_runs/filter", {})
        ended = server.ended(left["id"])
    cases("2a flow killed")

    assert left["state_type"] == "RUNNING"
    assert ended["state_type"] == "CRASHED"
    assert ended["state"]["message"] == silent["actions"][0]["message"]
