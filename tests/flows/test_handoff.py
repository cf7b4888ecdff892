"""What a spec leaves open."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from data.encoding import EncodedColumn
from data.preprocessing import fit_preprocessor
from data.snapshot import open_snapshot
from flows.handoff import device, likelihood_of, model_config, training_plan
from flows.ingest import ingest_dataset
from flows.settings import Home
from flows.spec import Spec, SpecError, load_spec
from vae_engine.config import Column, ModelConfig, TrainingPlan
from vae_engine.evaluation import ElboReport, evaluate
from vae_engine.statistics import Statistics
from vae_engine.training import fit, minibatches, new_state


def spec(training: dict[str, Any]) -> Spec:
    dataset = {"name": "numbers", "source": "numbers.csv"}
    return Spec.model_validate({"dataset": dataset, "training": training})


def numbers(
    features: int = 10, image: tuple[int, int, int] | None = None, **shape: Any
) -> ModelConfig:
    column = Column(name="x", likelihood="gaussian", width=features, image=image)
    return ModelConfig(columns=(column,), latents=4, hidden=(8,), **shape)


@pytest.mark.parametrize(
    ("said", "rate", "schedule"),
    [
        ({}, 3e-3, "cosine"),
        ({"learning_rate": 1e-4}, 1e-4, "constant"),
        ({"schedule": "constant"}, 1e-3, "constant"),
        ({"optimizer": "adagrad"}, 1e-3, "constant"),
        ({"epochs": 3, "objective": "iwae"}, 3e-3, "cosine"),
    ],
)
def test_rate_and_schedule_are_chosen_together_or_not_at_all(
    said: dict[str, Any], rate: float, schedule: str
) -> None:
    """A spec that names one of them, or an optimizer, has the engine's defaults for the others."""
    plan = training_plan(spec(said), numbers(10), rows=10_000)

    assert (plan.learning_rate, plan.schedule) == (rate, schedule)


@pytest.mark.parametrize(
    ("said", "features", "share"),
    [
        ({}, 10, 0.1),
        ({"steps": 50, "beta": 2.0}, 10, 0.1),
        ({}, 784, 0.0),
        ({"warmup_steps": 0}, 10, 0.0),
        ({"learning_rate": 1e-4}, 10, 0.0),
        ({"objective": "iwae"}, 10, 0.0),
    ],
)
def test_a_table_is_warmed_up_and_given_time(
    said: dict[str, Any], features: int, share: float
) -> None:
    """Unless the spec says how, paces the training itself, or has another bound."""
    plan = training_plan(spec(said), numbers(features), rows=10_000)

    assert plan.warmup_steps == round(share * plan.total_steps(10_000))
    assert plan.patience == (10 if features > 200 else 50)


@pytest.mark.parametrize(
    ("said", "shape", "nats", "steps"),
    [
        ({}, {}, 0.1, 300),
        ({"warmup_steps": 0}, {}, 0.1, 300),
        ({"free_steps": 20}, {}, 0.1, 20),
        ({"free_nats": 0.2}, {}, 0.2, None),
        ({"free_nats": 0.2, "free_steps": 20}, {}, 0.2, 20),
        ({"free_nats": 0.0}, {}, 0.0, None),
        ({"beta": 4.0}, {}, 0.0, None),
        ({"learning_rate": 1e-4}, {}, 0.0, None),
        ({"objective": "iwae"}, {}, 0.0, None),
        ({}, {"features": 784}, 0.0, None),
        ({}, {"prior": "mixture"}, 0.0, None),
        ({}, {"posterior": "full"}, 0.0, None),
        ({}, {"upper_latents": 2}, 0.0, None),
        ({}, {"image": (2, 5, 1)}, 0.0, None),
    ],
)
def test_the_latents_of_a_table_are_free_at_first(
    said: dict[str, Any], shape: dict[str, Any], nats: float, steps: int | None
) -> None:
    plan = training_plan(spec({"steps": 500, **said}), numbers(**shape), rows=10_000)

    assert (plan.free_nats, plan.free_steps) == (nats, steps)


def circles(rows: int, seed: int) -> Tensor:
    """Four columns: two pairs, each the place on a circle of its own, with noise of 0.1."""
    generator = torch.Generator().manual_seed(seed)
    angles = 2 * math.pi * torch.rand(rows, 2, generator=generator)
    places = math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], -1).flatten(1)
    return places + 0.1 * torch.randn(rows, 4, generator=generator)


def test_a_warm_up_finds_what_no_line_tells_and_the_bound_alone_gives_up() -> None:
    """The columns of a circle are uncorrelated: what a pair shares has no linear beginning.

    With four seeds the warm-up brought 0.19 to 0.45 nats over columns that have nothing in
    common, 4 (log sqrt(2 pi) + 1/2 + log 1.005) = 5.70 nats; without, 0.03 at most.
    """
    x, held_out = circles(1500, 0), circles(500, 100)
    columns = tuple(Column(name=f"c{k}", likelihood="gaussian_per_row") for k in range(4))
    config = ModelConfig(columns=columns, latents=2, hidden=(32, 32))
    said = spec({"steps": 300, "batch_rows": 64, "device": "cpu", "free_nats": 0})
    warm = replace(training_plan(said, config, rows=len(x)), learning_rate=1e-2)

    def elbo_after(plan: TrainingPlan) -> float:
        state = new_state(config, plan, Statistics.of(config, x), rows=len(x))
        for _ in fit(state, minibatches(x, plan)):
            pass
        return evaluate(
            state.model, [(held_out, torch.arange(500))], samples=4, seed=0
        ).elbo.mean

    assert elbo_after(replace(warm, warmup_steps=0)) == pytest.approx(-5.70, abs=0.05)
    assert elbo_after(warm) > -5.70 + 0.1


def test_latents_that_the_bound_is_indifferent_to_stay_in_use() -> None:
    """Six columns that have nothing in common: the best bound is their entropy, whatever z says.

    6 (log sqrt(2 pi) + 1/2) = 8.51 nats. A linear map of six latents can tell them all.
    """
    x, held_out = (
        torch.randn(n, 6, generator=torch.Generator().manual_seed(n)) for n in (1500, 500)
    )
    columns = tuple(Column(name=f"c{k}", likelihood="gaussian_per_row") for k in range(6))
    config = ModelConfig(columns=columns, latents=6, hidden=(32, 32))
    by_default = training_plan(spec({"steps": 1500, "device": "cpu"}), config, rows=len(x))

    def found(plan: TrainingPlan) -> ElboReport:
        state = new_state(config, plan, Statistics.of(config, x), rows=len(x))
        for _ in fit(state, minibatches(x, plan)):
            pass
        return evaluate(state.model, [(held_out, torch.arange(500))], samples=4, seed=0)

    alone = found(replace(by_default, free_nats=0.0, free_steps=None))
    spared = found(by_default)

    assert alone.active_units < spared.active_units == 6
    assert spared.elbo.mean == pytest.approx(alone.elbo.mean, abs=0.05)


@pytest.mark.parametrize(
    ("kind", "width", "likelihood"),
    [
        ("continuous", 1, "student_t_per_row"),
        ("count", 1, "zero_inflated_negative_binomial"),
        ("count", 500, "negative_binomial"),
        ("vector", 3, "gaussian"),
    ],
)
def test_a_column_has_the_likelihood_of_its_kind(
    kind: str, width: int, likelihood: str
) -> None:
    column = EncodedColumn(name="a", kind=kind, dtype="int64", start=0, width=width)

    assert likelihood_of(column) == likelihood


@pytest.mark.parametrize(
    ("columns", "said", "components"),
    [
        (60, {}, 20),
        (20, {}, 0),
        (20, {"training.rows": 10}, 20),
        (60, {"model.principal_components": 7}, 7),
        (60, {"model.principal_components": 0}, 0),
    ],
)
def test_a_table_with_more_columns_than_rows_is_seen_by_its_components(
    columns: int, said: dict[str, Any], components: int, tmp_path: Path
) -> None:
    rows = np.random.default_rng(0).normal(size=(40, columns))
    table = pa.table({f"c{k}": rows[:, k] for k in range(columns)})

    assert chosen(table, said, tmp_path).principal_components == components


def test_a_picture_with_more_pixels_than_there_are_rows_is_seen_whole(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, 40 * 64, dtype=np.uint8)
    images = pa.FixedSizeListArray.from_arrays(pa.array(grey), 64)
    config = chosen(pa.table({"image": images}), {}, tmp_path)

    assert config.columns[0].image is not None
    assert config.principal_components == 0


def chosen(table: pa.Table, said: dict[str, Any], folder: Path) -> ModelConfig:
    """The model of a table of which a spec says so much."""
    pq.write_table(table, folder / "wide.parquet")
    settings = [f"{key}={value}" for key, value in said.items()]
    wide = load_spec(str(folder / "wide.parquet"), settings)
    ingested = ingest_dataset(wide, Home(folder / "home"))
    snapshot = open_snapshot(Path(ingested.value["path"]))
    return model_config(wide, fit_preprocessor(snapshot), snapshot)


def test_a_gpu_that_is_not_here_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert device("auto", "training.device") == "cpu"
    with pytest.raises(
        SpecError, match=r"execution\.device is 'cuda', and PyTorch sees no GPUs"
    ):
        device("cuda", "execution.device")

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert device("auto", "training.device") == "cuda"
    assert device("cuda:1", "training.device") == "cuda:1"
    with pytest.raises(SpecError, match="is 'cuda:2', and PyTorch sees 2 GPUs"):
        device("cuda:2", "training.device")
