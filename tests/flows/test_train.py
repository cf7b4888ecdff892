"""The weights that a run keeps are the best by the bound that it was trained for."""

from pathlib import Path

from flows.reporting.records import Records
from flows.reporting.sections import training_charts
from flows.runs import read_metrics, read_record
from flows.settings import Home
from tests.faults.small import spec_of, trained, written

WEIGHTED = ('training.objective="iwae"', "training.samples=8")


def test_of_a_weighted_bound_the_best_weights_are_those_of_that_bound(tmp_path: Path) -> None:
    """By the ELBO, which the encoder gives away for it, the best would be among the first."""
    home = Home(tmp_path / "home")
    run = trained(spec_of(written(tmp_path), *WEIGHTED), home)
    rows, record = read_metrics(run.metrics), read_record(run.record("trained"))
    best = max(rows, key=lambda row: row["valid/iwae_nats"])
    assert (best["step"], best["valid/iwae_nats"]) == (
        record["best_step"],
        record["valid_bound_nats"],
    )
    assert all(row["valid/elbo_nats"] < row["valid/iwae_nats"] for row in rows)
    charts = training_charts(Records.of(home, run, run.record("trained")))
    assert "valid, IWAE" in str(charts[0])
