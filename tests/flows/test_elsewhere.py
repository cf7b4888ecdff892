"""Stages on another device: what is done there is what is done on the host."""

import threading
from pathlib import Path

import pytest
import torch

from flows.estimates import log_marginal
from flows.handoff import Rows
from flows.ingest import ingest_dataset
from flows.runs import RunFolder, folder_of, read_record
from flows.settings import Home
from flows.spec import EvaluationSection, load_spec
from flows.train import train_together
from tests.vae_engine.elsewhere import pretended
from tests.vae_engine.rows import random_model, sampled, table
from vae_engine.artifact import load_model
from vae_engine.distributed import ALONE

SETTINGS = ["training.optimizer=adagrad", "training.epochs=1", "model.hidden=[8]"]


@pytest.mark.parametrize("rows", ["in memory", "on disk"])
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_training_elsewhere_is_that_on_the_host(
    digits: Path, tmp_path: Path, rows: str
) -> None:
    kept = ["training.memory_bytes=0"] if rows == "on disk" else []
    home = Home(tmp_path)

    def trained(device: str) -> RunFolder:
        spec = load_spec(str(digits), [*SETTINGS, *kept, f"training.device={device}"])
        snapshot = ingest_dataset(spec, home).value
        train_together(spec, home, snapshot["path"], ALONE, threading.Event())
        return folder_of(spec, home, snapshot["fingerprint"])

    here = trained("cpu")
    with pretended():
        there = trained("meta")

    found, expected = (read_record(run.record("trained")) for run in (there, here))
    assert found["steps"] == expected["steps"]
    assert found["valid_bound_nats"] == pytest.approx(expected["valid_bound_nats"], rel=1e-3)
    assert load_model(there.model, digest=found["digest"])


@pytest.mark.parametrize("asked", [{}, {"tolerance_nats": 0.05}])
def test_log_marginals_that_are_estimated_elsewhere_come_back(asked: dict[str, float]) -> None:
    settings = EvaluationSection(importance_samples=200, **asked)
    model, x = random_model(table()), sampled(table(), 30)
    rows = Rows(x, torch.arange(30))
    nats, expected = log_marginal(settings, model, rows)
    with pretended():
        found, record = log_marginal(settings, model.to("meta"), rows.on("meta"))
        assert found.device.type == "cpu"
        values = found.tolist()

    assert values == pytest.approx(nats.tolist(), abs=1e-3)
    assert record["mean_samples"] == expected["mean_samples"]
    assert record["nats"] == pytest.approx(expected["nats"], abs=1e-3)
