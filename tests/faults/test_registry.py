"""RELIABILITY 2a: MLflow down, slow, locked, cut off or raced: what was trained is registered once."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

from data.features import latest_of
from flows import tracking
from flows.evaluate import evaluate_model
from flows.promotion import promote
from flows.register import register_model
from flows.runs import RunFolder
from flows.settings import Home
from flows.spec import Spec
from tests.faults.conftest import Cases
from tests.faults.crashes import begun, in_child, killed, succeeds, wait
from tests.faults.effort import WHOLE, whole_or
from tests.faults.proxy import Fault, cut_after, faulty
from tests.faults.small import Place, published, spec_of, trained, written
from tests.flows.services import free_port
from tests.flows.stack import wait_for
from vae_engine.artifact import ArtifactError

HELD_S = 8.0
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return spec_of(written(tmp_path_factory.mktemp("source")))


@pytest.fixture(scope="module")
def measured(
    spec: Spec, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, Path, dict[str, Any]]:
    """A home with a trained and measured run, which no registry has heard of."""
    home = Home(tmp_path_factory.mktemp("measured") / "home")
    run = trained(spec, home)
    evaluation = dict(evaluate_model(spec, str(run.path)).value)
    return Place.save(home.root), run.path, evaluation


Measured = tuple[Place, Path, dict[str, Any]]


def register(spec: Spec, at: Measured, address: str | None = None) -> None:
    if address is not None:
        os.environ |= {"MLFLOW_TRACKING_URI": address, **IMPATIENT}
    register_model(spec, Home(at[0].path), str(at[1]), at[2])


def refused(spec: Spec, at: Measured, address: str, within_s: float) -> None:
    started = time.monotonic()
    with pytest.raises(tracking.TrackingError, match="run the same command again"):
        register(spec, at, address)
    assert time.monotonic() - started < within_s


def registered_once(spec: Spec, at: Measured, address: str | None = None) -> None:
    register(spec, at, address)
    home = Home(at[0].path)
    (version,) = tracking.versions(home, "small")
    assert "champion" in version.aliases
    client = tracking.client(home)
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert len(run.data.params) > 10
    assert RunFolder(at[1]).record("gate").exists()


def test_mlflow_down_or_slow(spec: Spec, measured: Measured, cases: Cases) -> None:
    """A clear error within a bound, nothing lost; when it answers, one version."""
    measured[0].restore()
    faults: tuple[Fault, ...] = whole_or(get_args(Fault), ("refuse", "503"))
    for fault in faults:
        with faulty(fault) as address:
            succeeds(partial(refused, spec, measured, address, 30.0))
        cases("2a MLflow down/slow")
        assert RunFolder(measured[1]).record("trained").exists()
        assert not RunFolder(measured[1]).record("gate").exists()
    succeeds(partial(registered_once, spec, measured))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """MLflow's own server; its start takes long, so that it is for the whole suite."""
    if not WHOLE:
        pytest.skip("a server of MLflow's starts under make faults")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
             "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
             "--artifacts-destination", str(folder / "artifacts")],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(partial(_answers, port), "MLflow's server", timeout_s=120)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(port: int) -> bool:
    import urllib.error
    import urllib.request

    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).read())
    except (urllib.error.URLError, OSError):
        return False


def test_mlflow_cut_off_in_the_middle(
    spec: Spec, measured: Measured, server: int, cases: Cases
) -> None:
    """Each attempt gets some bytes further; what came of all of them is one version."""
    measured[0].restore()
    for passing in range(1_000, 60_000, 4_000):
        with cut_after(passing, server) as address:
            status = in_child(partial(register, spec, measured, address))
        cases("2a MLflow cut off after n bytes")
        if status == 0:
            break
    succeeds(partial(registered_once, spec, measured, f"http://127.0.0.1:{server}"))


def test_mlflow_sqlite_locked(spec: Spec, measured: Measured, cases: Cases) -> None:
    """Who finds the store locked waits for a while, or is told in time; the next attempt registers.

    The pipeline's tasks try three times (`flows.pipeline.PATIENT`).
    """
    if not WHOLE:
        pytest.skip("SQLite's patience is seconds: for make faults")
    measured[0].restore()
    home = Home(measured[0].path)
    succeeds(partial(tracking.versions, home, "small"))  # makes the store

    def hold() -> None:
        connection = sqlite3.connect(home.root / "mlflow.db", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        (home.root / "held").touch()
        time.sleep(HELD_S)
        connection.execute("COMMIT")

    holder = begun(hold)
    wait_for((home.root / "held").exists, "the lock", timeout_s=30)

    def attempt() -> None:
        started = time.monotonic()
        try:
            register(spec, measured)
        except tracking.TrackingError as error:
            sys.stderr.write(str(error))
        assert time.monotonic() - started < 60

    succeeds(attempt)
    assert wait(holder) == 0
    succeeds(partial(registered_once, spec, measured))
    cases("2a MLflow sqlite locked")


@pytest.fixture(scope="module")
def three_versions(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A home whose registry has three versions of a model; the first is champion."""
    home = Home(tmp_path_factory.mktemp("versions") / "home")

    def make() -> None:
        published(spec, home)
        (version,) = tracking.versions(home, "small")
        client = tracking.client(home)
        for _ in range(2):
            client.create_model_version(
                "small", version.source, version.tags["mlflow_run"],
                tags={tracking.DIGEST_TAG: version.digest, "latents.dataset": "small"},
            )  # fmt: skip

    succeeds(make)
    return Place.save(home.root)


def test_registry_alias_race(three_versions: Place, cases: Cases) -> None:
    """Three promote at once: the alias, the journal and the readers' pointer agree in the end."""
    rounds = whole_or(5, 1)
    for _ in range(rounds):
        three_versions.restore()
        home = Home(three_versions.path)
        children = [begun(partial(promote, home, "small", version)) for version in (1, 2, 3)]

        def agree(home: Home = home) -> None:
            (champion,) = (
                found
                for found in tracking.versions(home, "small")
                if "champion" in found.aliases
            )
            journal = tracking.champions(home, "small")
            assert journal[-1] == champion.version
            assert set(journal) == {1, 2, 3}
            pointed = latest_of(home.features, "small")["champion"]
            assert pointed["model_version"] == champion.version

        assert [wait(child) for child in children] == [0, 0, 0]
        succeeds(agree)
        cases("2a registry alias race", 3)


def test_a_tampered_version_does_not_become_champion(three_versions: Place) -> None:
    """Verified first, then named: a refusal leaves the champion and its readers as they were."""
    three_versions.restore()
    home = Home(three_versions.path)
    shutil.rmtree(home.root / "models", ignore_errors=True)
    (stored,) = Path(home.artifacts).rglob("model.safetensors")
    content = bytearray(stored.read_bytes())
    content[-3] ^= 1
    stored.write_bytes(content)
    before = latest_of(home.features, "small")

    def refused() -> None:
        with pytest.raises(ArtifactError):
            promote(home, "small", 2)
        assert "champion" in tracking.versions(home, "small")[0].aliases
        assert tracking.champions(home, "small") == [1]
        assert latest_of(home.features, "small") == before

    succeeds(refused)


def test_a_store_that_was_half_made_is_made_whole(tmp_path: Path, cases: Cases) -> None:
    """MLflow makes its tables at the first call: whoever dies then must not lock out the next."""
    if not WHOLE:
        pytest.skip("making MLflow's tables again and again is for make faults")
    for delay_s in (0.2, 0.5, 0.8, 1.1, 1.4, 1.8):
        home = Home(tmp_path / str(delay_s))
        home.root.mkdir()
        child = begun(partial(tracking.versions, home, "small"))
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
        status = wait(child)
        assert status == 0 or killed(status)
        succeeds(partial(tracking.versions, home, "small"))
        cases("2a kill -9 while MLflow makes its store")
