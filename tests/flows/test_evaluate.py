"""The evaluation stage on a small model: every estimator, on the same rows, in one record."""

import math
from pathlib import Path
from typing import Any

import pytest

from flows.evaluate import evaluate_model
from flows.ingest import ingest_dataset
from flows.measurements import tables
from flows.settings import Home
from flows.spec import Spec, load_spec
from flows.train import train_model

TRAINING = ["training.epochs=6", "model.hidden=[32]", "model.latents=3"]
EVALUATION = [
    'evaluation.estimators=["importance", "annealing", "density", "bidirectional"]',
    "evaluation.rows=40",
    "evaluation.annealed_rows=40",
    "evaluation.importance_samples=400",
    "evaluation.temperatures=60",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("home"))


def measured(spec: Spec, home: Home) -> dict[str, Any]:
    snapshot = ingest_dataset(spec, home).value["path"]
    return dict(evaluate_model(spec, train_model(spec, home, snapshot).value["path"]).value)


@pytest.fixture(scope="module")
def record(digits: Path, home: Home) -> dict[str, Any]:
    return measured(load_spec(str(digits), [*TRAINING, *EVALUATION]), home)


def test_estimators_of_the_same_rows_agree_within_their_errors(record: dict[str, Any]) -> None:
    """IS and annealing err low, appendix D high; all of them by less than a nat with 3 latents."""
    marginal, annealed, density = (
        record[name]["nats"] for name in ("log_marginal", "annealed", "density")
    )

    assert annealed == pytest.approx(marginal, abs=1.0)
    assert density == pytest.approx(marginal, abs=1.0)
    assert record["elbo"]["rows"] > record["log_marginal"]["rows"] == 40


def test_the_bounds_hold_log_p_between_them(record: dict[str, Any]) -> None:
    """Width = upper - lower on simulated rows; each bound's error is over rows."""
    bounds = record["bounds"]

    assert bounds["width"]["nats"] == pytest.approx(
        bounds["upper"]["nats"] - bounds["lower"]["nats"], abs=1e-6
    )
    assert bounds["width"]["nats"] > -3 * bounds["width"]["stderr"]
    assert bounds["width"]["nats"] < 3


def test_what_the_latents_know_is_at_most_the_rate(record: dict[str, Any]) -> None:
    """rate = I(x; z) + KL(q(z) || p(z)), Hoffman & Johnson (2016)."""
    information = record["mutual_information"]

    assert 0 < information["nats"] <= record["rate"]["nats"] + 3 * record["rate"]["stderr"]
    assert information["nats"] < record["mutual_information_most"]["nats"]


def test_every_estimate_has_its_error_and_goes_to_the_tracker(record: dict[str, Any]) -> None:
    metrics = record["metrics"]

    for name in ("elbo", "log_marginal", "annealed", "density", "independent", "rate"):
        assert metrics[f"test/{name}_nats"] == record[name]["nats"]
        assert metrics[f"test/{name}_nats_stderr"] > 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert record["log_likelihood_per_column_stderr"]["image"] > 0
    assert 0 < record["reconstruction"]["image"]["value"] < 0.5


def test_k_of_every_row_is_counted_in_one_range(record: dict[str, Any]) -> None:
    spread = record["log_marginal"]["pareto_k"]

    assert sum(spread["rows"]) + spread["unknown_rows"] == 40
    assert len(spread["rows"]) == len(spread["edges"]) + 1
    assert record["log_marginal"]["impossible_rows"] == 0


def test_every_measurement_is_a_row_of_a_table(record: dict[str, Any]) -> None:
    found = tables(record)

    assert {row["estimate"] for row in found["estimates"]} >= {
        "elbo", "log_marginal", "annealed", "density", "bound_lower", "bound_upper",
    }  # fmt: skip
    assert [row["latent"] for row in found["latents"]] == [0, 1, 2]
    assert sum(row["active"] for row in found["latents"]) == record["active_units"]
    assert sum(row["rows"] for row in found["pareto_k"]) == 40
    (image,) = found["columns"]
    nats_per_pixel = -image["log_likelihood_nats"] / 64
    assert image["bits_per_dimension"] == pytest.approx(nats_per_pixel / math.log(2))
    for rows in found.values():
        assert len({tuple(row) for row in rows}) == 1


def test_appendix_d_refuses_five_latents_and_says_why(digits: Path, home: Home) -> None:
    settings = [*TRAINING[:2], "model.latents=5", 'evaluation.estimators=["density"]']

    record = measured(load_spec(str(digits), [*settings, "evaluation.rows=20"]), home)

    assert "density" not in record
    assert "4 at most" in record["refused"]["density"]


def test_effort_goes_where_the_error_is(digits: Path, home: Home) -> None:
    settings = [
        "evaluation.estimators=[]",
        "evaluation.rows=40",
        "evaluation.importance_samples=6400",
        "evaluation.tolerance_nats=0.1",
    ]

    marginal = measured(load_spec(str(digits), [*TRAINING, *settings]), home)["log_marginal"]

    assert 100 <= marginal["mean_samples"] < 6400
    assert marginal["tolerance_met_fraction"] > 0.5
    effort = marginal["effort"]
    assert 100 == effort["fewest_samples"] < effort["most_samples"] <= 6400
    assert effort["samples"] == pytest.approx(40 * marginal["mean_samples"])


def test_stability_trains_a_second_model(digits: Path, home: Home) -> None:
    settings = ["evaluation.estimators=[]", "evaluation.rows=20", "evaluation.stability=true"]

    record = measured(load_spec(str(digits), [*TRAINING, *settings]), home)

    assert 0.3 < record["stability"]["first_from_second"] <= 1
    assert record["metrics"]["stability/first_from_second_r2"] > 0.3
