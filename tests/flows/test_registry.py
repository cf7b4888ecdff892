"""The registry as it is governed: evidence, aliases, twins, a server that was down, imposters."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from data.features import open_features
from flows import tracking
from flows.settings import Home
from flows.vault import fetched
from tests.flows.conftest import Finished, digits_table, latents
from tests.flows.stack import Stack
from vae_engine.artifact import ArtifactError

SMALL = (
    "--set", "training.epochs=4",
    "--set", "evaluation.importance_samples=20",
)  # fmt: skip


@pytest.fixture
def version(finished: Finished) -> tracking.Registered:
    return tracking.versions(Home(finished.home), "digits")[0]


def test_a_version_carries_what_it_was_made_of(
    finished: Finished, version: tracking.Registered
) -> None:
    summary = finished.summary
    info = mlflow.models.get_model_info("models:/digits/1")

    assert version.tags["latents.fingerprint"] == summary["fingerprint"]
    assert version.tags["latents.digest"] == summary["model"]["digest"]
    assert version.tags["latents.publication"] == summary["publication"]["id"]
    assert version.tags["latents.run_id"] == summary["run_id"]
    assert "latents.git_commit" in version.tags
    assert [column.name for column in info.signature.inputs] == ["image"]
    assert info.saved_input_example_info is not None


def test_the_input_example_is_nobodys_row_and_the_model_takes_it(
    finished: Finished, version: tracking.Registered
) -> None:
    tracking.client(Home(finished.home))
    model = mlflow.pyfunc.load_model("models:/digits/1")

    served = model.predict(model.input_example)

    assert len(served) == 3
    assert served.notna().all(axis=None)
    shown = {tuple(image) for image in model.input_example["image"]}
    assert not shown & {tuple(image) for image in digits_table()["image"].to_pylist()}


def test_the_gates_evidence_is_a_table(
    finished: Finished, version: tracking.Registered
) -> None:
    client = tracking.client(Home(finished.home))
    run = client.get_run(version.tags["mlflow_run"])
    table = client.load_table(run.info.experiment_id, "gate.json", run_ids=[run.info.run_id])

    assert list(table["name"]) == ["no collapse", "better than independent columns"]
    assert table["passed"].all()
    assert table["nats"][1] > table["stderr"][1] > 0


def test_the_evaluation_is_tables_and_figures_of_the_run(
    finished: Finished, version: tracking.Registered
) -> None:
    client = tracking.client(Home(finished.home))
    run = client.get_run(version.tags["mlflow_run"])

    estimates, active = (
        client.load_table(
            run.info.experiment_id, f"evaluation/{name}.json", run_ids=[run.info.run_id]
        )
        for name in ("estimates", "latents")
    )
    figures = [file.path for file in client.list_artifacts(run.info.run_id, "figures")]

    elbo = estimates.set_index("estimate").loc["elbo"]
    assert elbo["nats"] == pytest.approx(finished.summary["elbo"]["nats"])
    assert elbo["stderr"] == pytest.approx(run.data.metrics["test/elbo_nats_stderr"])
    assert active["active"].sum() == finished.summary["active_units"]
    assert {"figures/elbo.svg", "figures/pareto-k.svg", "figures/samples-0.png"} <= {*figures}
    shown = {table["path"] for table in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert {"gate.json", "evaluation/estimates.json", "evaluation/columns.json"} <= shown


def damaged(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def resealed(folder: Path) -> None:
    from vae_engine.artifact import seal

    damaged(folder)
    seal(folder)


@pytest.mark.parametrize("tamper", [damaged, resealed])
def test_a_tampered_artifact_is_refused(
    finished: Finished,
    version: tracking.Registered,
    tmp_path: Path,
    tamper: Callable[[Path], None],
) -> None:
    """Though its own sums may agree: the registry's digest is what decides."""
    home = Home(finished.home)
    copy = tmp_path / "stored"
    tracking.download_model(version, home, copy)
    (stored,) = (path.parent for path in copy.rglob("SHA256SUMS"))
    tamper(stored)

    with pytest.raises(ArtifactError, match=r"was changed|is not the one with digest"):
        fetched(Home(tmp_path / "home"), replace(version, source=str(copy)))


def test_another_programs_model_is_not_loaded(
    finished: Finished, version: tracking.Registered, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="was not registered by this program"):
        fetched(Home(tmp_path), replace(version, digest=""))


def test_an_artifact_is_fetched_whole_and_kept(
    finished: Finished, version: tracking.Registered
) -> None:
    home = Home(finished.home)

    folder = fetched(home, version)

    assert (folder / "preprocessor.json").exists()
    assert fetched(home, replace(version, source="gone")) == folder


def test_trained_while_the_registry_is_down_it_is_registered_later(
    digits: Path, tmp_path: Path, prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:canary-secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    down = latents("run", digits, *SMALL, home=tmp_path, server=prefect_server)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert down.returncode == 6, down.stderr
    assert "run the same command again" in down.stderr
    assert "canary-secret" not in down.stderr
    assert len(list(tmp_path.glob("runs/*/evaluation-*.json"))) == 1

    registered = latents(
        "register", digits, *SMALL, "--json", home=tmp_path, server=prefect_server
    )
    again = latents("run", digits, *SMALL, "--json", home=tmp_path, server=prefect_server)

    assert registered.returncode == again.returncode == 0, registered.stderr + again.stderr
    summary = json.loads(registered.stdout)
    assert summary["model"]["version"] == 1
    assert summary["stages"]["train"]["status"] == "reused"
    assert json.loads(again.stdout)["publication"]["rows"] == 1797
    assert len(tracking.versions(Home(tmp_path), "digits")) == 1


def start(*arguments: str | Path, home: Path, stack: Stack) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, arguments), "--home", str(home)],
        env=os.environ
        | {"PREFECT_API_URL": stack.prefect, "MLFLOW_TRACKING_URI": stack.mlflow},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_twins_make_one_publication_and_one_version(stack: Stack, digits: Path) -> None:
    name = ("--set", "dataset.name=twins", "--json")
    runs = [start("run", digits, *SMALL, *name, home=stack.home, stack=stack) for _ in "ab"]
    outputs = [run.communicate(timeout=240) for run in runs]

    assert [run.returncode for run in runs] == [0, 0], outputs
    summaries = [json.loads(out) for out, _ in outputs]
    assert summaries[0]["publication"]["id"] == summaries[1]["publication"]["id"]
    assert len(list(stack.home.glob("features/twins/*/publication=*"))) == 1
    assert len(tracking.versions(Home(stack.home), "twins")) == 1


def test_a_twin_on_another_machine_adopts_the_version(
    finished: Finished, version: tracking.Registered, tmp_path: Path
) -> None:
    """Both saw no version and made one each; the later of the two gives way."""
    home = Home(finished.home)
    run = version.tags["mlflow_run"]
    tracking.client(home).create_model_version(
        "digits", version.source, run, tags={tracking.DIGEST_TAG: version.digest}
    )
    try:
        assert len(tracking.versions(home, "digits")) == 2
        found = tracking.with_digest(home, "digits", version.digest)
        assert found is not None
        assert found.version == 1
    finally:
        tracking.client(home).delete_model_version("digits", "2")


def champion(home: Path) -> tuple[int, str]:
    features = open_features("digits", home=home)
    return features.manifest["model"]["version"], features.path.name


def test_the_better_model_is_champion_and_readers_follow(
    digits: Path, tmp_path: Path, prefect_server: str
) -> None:
    """Worse does not replace it, better does; a person may promote and roll back."""

    def run(epochs: int) -> dict[str, Any]:
        done = latents(
            "run", digits, "--json", *SMALL, "--set", f"training.epochs={epochs}",
            home=tmp_path, server=prefect_server,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    first, worse = run(4), run(1)
    assert "champion" in first["model"]["aliases"]
    assert worse["model"]["aliases"] == ["challenger"]
    assert "did not become champion: not better than the champion" in worse["model"]["verdict"]
    assert worse["publication"]["model_version"] == 1
    assert champion(tmp_path)[0] == 1

    better = run(30)
    assert "champion" in better["model"]["aliases"]
    assert champion(tmp_path)[0] == 3

    promoted = json.loads(latents("promote", "digits", "2", "--json", home=tmp_path).stdout)
    assert promoted["history"] == [1, 3, 2]
    assert champion(tmp_path) == (2, f"publication={promoted['publication']}")

    back = json.loads(latents("rollback", "digits", "--json", home=tmp_path).stdout)
    assert (back["champion"], back["before"]) == (3, 2)
    assert champion(tmp_path)[0] == 3
