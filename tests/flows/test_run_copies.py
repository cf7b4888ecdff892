import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data.bucket import S3Path
from data.publication import file_digest
from data.working_copy import place_of, working_copy
from flows.run_copies import (
    Uploads,
    bring_checkpoint,
    bring_run,
    bring_training,
    forget_checkpoint,
    share_training,
)
from flows.runs import RunFolder, once, read_record
from tests.data.stores import object_store
from tests.faults.small import contents

Runs = Callable[[str], RunFolder]  # the run on a machine, by the machine's name


@pytest.fixture(scope="module", autouse=True)
def store() -> Iterator[str]:
    with object_store("bucket") as address:
        yield address


@pytest.fixture
def run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Runs:
    def of(machine: str) -> RunFolder:
        monkeypatch.setenv("LATENTS_CACHE", str(tmp_path / machine))
        return RunFolder(working_copy(f"s3://bucket/{request.node.name}") / "runs" / "r")

    return of


def written(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def at_step(run: RunFolder, step: int) -> None:
    """What a training has on its disk after a step."""
    written(run.checkpoints / f"step-{step:09d}" / "state.json", f"state {step}")
    written(run.best / f"step-{step:09d}" / "state.json", f"best {step}")
    written(run.metrics, f'{{"step": {step}}}\n')
    written(run.plan, '{"spec": {"dataset": {"name": "t"}}, "fingerprint": "f"}')


def trained(run: RunFolder, weights: str) -> str:
    """What a trained run has; the digest of its artifact."""
    at_step(run, 9)
    written(run.preprocessor, "{}")
    written(run.model / "model.safetensors", weights)
    return file_digest(written(run.model / "SHA256SUMS", f"sum of {weights}"))


def test_a_checkpoint_is_found_by_another_machine(run_on: Runs) -> None:
    here, there = run_on("a"), run_on("b")
    for step in (1, 2):
        at_step(here, step)
    Uploads(here).upload()

    at_step(there, 1)
    bring_checkpoint(there)
    found = contents(there.path)
    assert found["metrics.jsonl"] == contents(here.path)["metrics.jsonl"]
    assert [path.name for path in there.checkpoints.iterdir()] == ["step-000000002"]
    at_step(there, 3)
    kept = contents(there.path)
    bring_checkpoint(there)
    assert contents(there.path) == kept  # of a later step than the one in the bucket

    forget_checkpoint(here)
    bring_checkpoint(run_on("c"))
    assert not run_on("c").path.exists()


def test_checkpoints_are_brought_when_they_are_due(
    run_on: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_on("a")
    place = place_of(run.path / "checkpoint.tar")
    assert isinstance(place, S3Path)
    at_step(run, 1)
    uploads = Uploads(run)
    uploads.offer()
    assert not place.exists()
    uploads.due = 0.0
    uploads.offer()
    assert place.metadata() == {"step": "1"}
    assert uploads.due > 0.0


def test_a_store_that_does_not_answer_stops_no_training(
    run_on: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_on("a")
    at_step(run, 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("data.bucket.ATTEMPTS", 1)
    Uploads(run).upload()

    assert "the checkpoint is on this machine only" in caplog.text
    assert list(run.path.glob(".packed-*")) == []


def test_of_two_trainings_the_first_holds(run_on: Runs) -> None:
    """Its artifact, its metrics and its plan, whatever the other machine had."""
    runs = {name: run_on(name) for name in "ab"}
    for name, run in runs.items():
        digest = trained(run, name)
        share_training(run, digest)
        stage = once("train", run.record("trained"), lambda digest=digest: {"digest": digest})  # type: ignore[misc]
        bring_training(run, stage.value["digest"])

    late = run_on("c")
    bring_run(late)
    for run in (*runs.values(), late):
        assert (run.model / "model.safetensors").read_text() == "a"
        assert read_record(run.record("trained")) == {"digest": trained_digest("a")}


def trained_digest(weights: str) -> str:
    import hashlib

    return hashlib.sha256(f"sum of {weights}".encode()).hexdigest()


def test_a_drift_record_is_brought_as_it_is_now(run_on: Runs) -> None:
    here, there = run_on("a"), run_on("b")
    for state in (1, 2):
        place = place_of(here.record("drift"))
        assert isinstance(place, S3Path)
        place.replace(json.dumps({"state": state}).encode())
        bring_run(there)
        assert read_record(there.record("drift")) == {"state": state}


def test_a_run_on_a_disk_is_left_alone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "r")
    digest = trained(run, "a")
    before = contents(tmp_path)

    Uploads(run).upload()
    share_training(run, digest)
    bring_training(run, "another")
    for act in (bring_run, bring_checkpoint, forget_checkpoint):
        act(RunFolder(run.path))
    assert contents(tmp_path) == before
