"""A training that explodes is given one second chance, at a tenth of its rate."""

from pathlib import Path

import pytest

import flows.train
from flows.exits import exit_code
from flows.ingest import ingest_dataset
from flows.runs import folder_of, read_metrics, read_record
from flows.settings import Home
from flows.spec import Spec
from flows.train import train_model
from tests.faults.small import contents, spec_of, trained, written
from vae_engine.divergence import ExplodedError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def too_fast(folder: Path, rate: float) -> Spec:
    settings = (f"training.learning_rate={rate}", "training.epochs=20", "training.patience=100")
    return spec_of(written(folder), *settings)


def test_a_training_that_explodes_goes_on_at_a_tenth_of_its_rate(
    tmp_path: Path, home: Home
) -> None:
    """Its record says so, and its metrics are those of the second way alone."""
    run = trained(too_fast(tmp_path, 10.0), home)
    record, metrics = read_record(run.record("trained")), read_metrics(run.metrics)

    assert record["rewound_at"] > 1
    assert record["steps"] == 100
    assert [row["train/learning_rate"] for row in metrics] == [1.0] * len(metrics)
    assert [row["step"] for row in metrics] == sorted({row["step"] for row in metrics})
    other = trained(too_fast(tmp_path, 10.0), Home(tmp_path / "again"))
    assert contents(other.model) == contents(run.model)


def test_a_second_explosion_ends_it(tmp_path: Path, home: Home) -> None:
    with pytest.raises(ExplodedError, match="training diverged at step") as caught:
        trained(too_fast(tmp_path, 1e6), home)

    assert exit_code(caught.value) == 4
    assert not list(home.runs.glob("*/trained.json"))


def test_a_run_that_is_resumed_remembers_its_second_chance(
    tmp_path: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the first validation after it: the next explosion is the second all the same."""
    spec = too_fast(tmp_path, 10.0)
    snapshot = ingest_dataset(spec, home)
    straight = trained(spec, Home(tmp_path / "straight"))

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(flows.train, "advance", dies)
        with pytest.raises(KeyboardInterrupt):
            train_model(spec, home, snapshot.value["path"])
    train_model(spec, home, snapshot.value["path"])
    run = folder_of(spec, home, snapshot.value["fingerprint"])
    record = read_record(run.record("trained"))

    assert (record["resumed"], record["rewound_at"]) == (1, 25)
    assert contents(run.model) == contents(straight.model)
