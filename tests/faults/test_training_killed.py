"""RELIABILITY I3: a training that was killed, wherever, ends in the weights of one that was not."""

import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch
import typer

import flows.train
from flows.ingest import ingest_dataset
from flows.runs import RunFolder, read_metrics, read_record
from flows.session import session
from flows.settings import Home
from flows.spec import Spec
from flows.stopping import until
from tests.faults.conftest import Cases
from tests.faults.crashes import begun, deaths, die, in_child, killed, wait
from tests.faults.effort import whole_or
from tests.faults.small import contents, spec_of, trained, written
from tests.flows.stack import wait_for
from tests.vae_engine.rows import plan
from vae_engine import checkpoint
from vae_engine.config import Column, ModelConfig
from vae_engine.training import Batch, TrainState, new_state, train_step

STEPS, BETWEEN_CHECKPOINTS = 40, 10
EIGHT_EPOCHS = "training.epochs=8"  # of five steps
TOY = ModelConfig(
    columns=(Column(name="v", likelihood="gaussian", width=3),), latents=2, hidden=(4,)
)


@pytest.fixture(scope="module", autouse=True)
def frequent_checkpoints() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flows.train, "MIN_REPORT_STEPS", BETWEEN_CHECKPOINTS)
        yield


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Spec:
    return spec_of(written(tmp_path_factory.mktemp("source")), EIGHT_EPOCHS)


@pytest.fixture(scope="module")
def straight(spec: Spec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return outcome(trained(spec, Home(tmp_path_factory.mktemp("straight"))))


def outcome(run: RunFolder) -> dict[str, Any]:
    """What a training leaves, but for times and the number of attempts."""
    record = read_record(run.record("trained"))
    return {
        "model": contents(run.model),
        "best": [record["best_step"], record["valid_bound_nats"]],
        "metrics": [
            {k: v for k, v in row.items() if not k.startswith("time")}
            for row in read_metrics(run.metrics)
        ],
        "checkpoints": sorted(path.name for path in run.checkpoints.glob("step-*"))[-2:],
        "left": [path.name for path in run.path.rglob(".step-*")],
    }


def test_kill_9_in_train(
    spec: Spec, straight: dict[str, Any], tmp_path: Path, cases: Cases
) -> None:
    """Before each persistence operation of the stage, the checkpoints' among them."""

    home = Home(tmp_path / "home")

    def only_ingested() -> None:
        shutil.rmtree(home.root, ignore_errors=True)
        ingest_dataset(spec, home)

    for _ in deaths(lambda: trained(spec, home), prepared=only_ingested, every=whole_or(2, 29)):
        cases("2a kill -9 in train")
        cases("I3 killed in training: the same weights")
        assert outcome(trained(spec, home)) == straight


def test_kill_9_between_two_steps(
    spec: Spec, straight: dict[str, Any], tmp_path: Path, cases: Cases
) -> None:
    """Twice in one training, each time at another step."""
    for first in range(2, STEPS, whole_or(3, 15)):
        home = Home(tmp_path / str(first))
        for last in (first, first // 2 + 1):  # the second is counted from the checkpoint

            def killed_at(last: int = last, home: Home = home) -> None:
                setattr(flows.train, "until", lambda _, steps: until_death(steps, last))  # noqa: B010
                trained(spec, home)

            status = in_child(killed_at)
            assert killed(status) or status == 0
        cases("I3 killed in training: the same weights", 2)
        assert outcome(trained(spec, home)) == straight
        shutil.rmtree(home.root)


def until_death(steps: Iterable[Any], last: int) -> Iterator[Any]:
    for number, step in enumerate(steps, 1):
        yield step
        if number == last:
            die()


@pytest.mark.parametrize("grace_s", [None, 0.0, 0.02], ids=["patient", "at once", "soon"])
def test_worker_cancelled_sigterm_then_kill(
    spec: Spec,
    straight: dict[str, Any],
    tmp_path: Path,
    grace_s: float | None,
    cases: Cases,
) -> None:
    """Given time, it saves and says 143; killed before that, it resumes all the same."""
    home = Home(tmp_path / "home")

    def slow(steps: Iterable[Any], stop: Any) -> Iterator[Any]:
        for step in until(stop, steps):
            time.sleep(0.02)
            yield step

    def as_a_worker_runs_it() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(flows.train, "until", lambda stop, steps: slow(steps, stop))
            try:
                with session(str(home.root), quiet=True):
                    trained(spec, home)
            except typer.Exit as exit_:
                os._exit(exit_.exit_code)

    child = begun(as_a_worker_runs_it)
    wait_for(lambda: list(home.runs.glob("*/checkpoints/step-*")), "a checkpoint", 60)
    os.kill(child, signal.SIGTERM)
    if grace_s is not None:
        time.sleep(grace_s)
        os.kill(child, signal.SIGKILL)
    status = wait(child)

    ended = 143 if not killed(status) else None
    assert os.waitstatus_to_exitcode(status) == (ended or -signal.SIGKILL)
    assert grace_s is not None or ended == 143
    cases("2a worker cancelled: SIGTERM, then SIGKILL")
    assert outcome(trained(spec, home)) == {**straight, "checkpoints": ANY}


def stepped(to: int) -> TrainState:
    state = new_state(TOY, plan())
    x = torch.linspace(-1, 1, 12).reshape(4, 3)
    while state.step < to:
        train_step(state, Batch(x), report=False)
    return state


def test_kill_9_in_a_checkpoint(tmp_path: Path, cases: Cases) -> None:
    """The last whole one is found, and the next one saved is the one that it would have been."""
    states = {step: stepped(step) for step in (1, 2, 3)}
    whole = tmp_path / "whole"
    for step in (1, 2, 3):
        checkpoint.save(whole, states[step], {"at": step})

    folder = tmp_path / "killed"

    def first_two() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for step in (1, 2):
            checkpoint.save(folder, states[step], {"at": step})

    def saved() -> object:
        checkpoint.save(folder, states[2], {"at": 2})  # the same step again
        return checkpoint.save(folder, states[3], {"at": 3})

    for _ in deaths(saved, prepared=first_two):
        cases("2a kill -9 in a checkpoint")
        found = new_state(TOY, plan())
        extra = checkpoint.load_latest(folder, found)
        assert extra is not None
        assert extra["at"] == found.step
        assert same_weights(found, states[found.step])
        saved()
        assert contents(folder) == contents(whole)


def same_weights(one: TrainState, other: TrainState) -> bool:
    weights = other.model.state_dict()
    return all(torch.equal(t, weights[name]) for name, t in one.model.state_dict().items())
