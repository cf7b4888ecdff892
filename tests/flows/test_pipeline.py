"""One run of the whole pipeline, and everything that a user may then ask of it."""

import json
import math
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

from data.features import open_features
from flows import tracking
from flows.settings import Home
from tests.flows.conftest import Finished, digits_table, latents

Z = [f"z_mean_{index:03d}" for index in range(16)]


def test_every_row_comes_out_once_with_its_key_and_label_in_order(finished: Finished) -> None:
    table = digits_table()

    features = open_features("digits", home=finished.home, verify=True).to_arrow()

    assert features["id"].to_pylist() == table["id"].to_pylist()
    assert features["label"].to_pylist() == table["label"].to_pylist()
    assert set(features["split"].to_pylist()) == {"train", "valid", "test"}


def test_the_summary_says_what_the_contract_of_the_command_promises(finished: Finished) -> None:
    summary = finished.summary

    assert summary["rows"]["in"] == summary["publication"]["rows"] == 1797
    for name in ("elbo", "log_marginal"):
        assert summary[name].keys() >= {"nats", "stderr", "rows", "split"}
    assert summary["log_marginal"]["nats"] >= summary["elbo"]["nats"]
    assert summary["model"]["name"] == "digits"
    assert summary["model"]["version"] == 1
    assert "champion" in summary["model"]["aliases"]
    assert list(summary["stages"]) == [
        "ingest", "train", "evaluate", "register", "encode", "report",
    ]  # fmt: skip
    assert {stage["status"] for stage in summary["stages"].values()} == {"ran"}
    assert summary["probe"][0]["latents"] > summary["probe"][0]["chance"] + 0.3
    assert Path(summary["report"]).exists()


def test_what_is_printed_is_what_mlflow_and_the_manifest_hold(finished: Finished) -> None:
    summary = finished.summary
    metrics = tracking.run_metrics(Home(finished.home), summary["model"]["mlflow_run"])
    manifest = open_features("digits", home=finished.home).manifest

    for name in ("elbo", "log_marginal"):
        assert metrics[f"test/{name}_nats"] == summary[name]["nats"]
        assert metrics[f"test/{name}_nats_stderr"] == summary[name]["stderr"]
    assert manifest["model"]["digest"] == summary["model"]["digest"]
    assert manifest["fingerprint"] == summary["fingerprint"]
    assert manifest["rows"] == summary["rows"]["in"]


def test_mlflow_has_params_metrics_by_epoch_and_the_data_set(finished: Finished) -> None:
    home = Home(finished.home)
    client = tracking.client(home)
    run = client.get_run(finished.summary["model"]["mlflow_run"])
    history = client.get_metric_history(run.info.run_id, "valid/elbo_nats")

    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == "12"
    assert len(history) >= 5
    assert history[-1].value > history[0].value
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.digest == finished.summary["fingerprint"]


def test_pandas_duckdb_and_polars_read_the_folder_as_it_is(finished: Finished) -> None:
    folder = Path(finished.summary["publication"]["path"]) / "data"
    ours = open_features("digits", home=finished.home).to_numpy("z_mean")

    by_pandas = pd.read_parquet(folder)[Z].to_numpy()
    by_polars = pl.read_parquet(folder).select(Z).to_numpy()
    query = f"select {', '.join(Z)} from '{folder}/*.parquet'"
    by_duckdb = duckdb.connect().execute(query).df().to_numpy()

    np.testing.assert_array_equal(by_pandas, ours)
    np.testing.assert_array_equal(by_polars, ours)
    np.testing.assert_array_equal(by_duckdb, ours)
    assert [path.suffix for path in folder.iterdir()] == [".parquet"]


def test_the_registered_model_gives_the_published_features_of_raw_rows(
    finished: Finished,
) -> None:
    import mlflow

    tracking.client(Home(finished.home))
    model = mlflow.pyfunc.load_model("models:/digits@champion")
    frame = digits_table().slice(100, 50).select(["image"]).to_pandas()

    served = model.predict(frame)

    published = open_features("digits", home=finished.home).to_pandas().iloc[100:150]
    np.testing.assert_allclose(served[Z].to_numpy(), published[Z].to_numpy(), atol=1e-5)


def test_the_same_command_again_does_nothing_and_says_so(finished: Finished) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished.home / "features").rglob("*")}

    again = latents(*finished.arguments, home=finished.home)

    summary = json.loads(again.stdout)
    assert again.returncode == 0
    assert {stage["status"] for stage in summary["stages"].values()} == {"reused"}
    for name in ("elbo", "log_marginal", "publication", "model", "run_id", "probe"):
        assert summary[name] == finished.summary[name]
    after = {path: path.stat().st_mtime_ns for path in (finished.home / "features").rglob("*")}
    assert after == before


def test_publications_and_models_are_listed(finished: Finished) -> None:
    listed = json.loads(latents("features", "--json", home=finished.home).stdout)
    shown = json.loads(latents("features", "digits", "--json", home=finished.home).stdout)
    models = json.loads(latents("models", "digits", "--json", home=finished.home).stdout)

    assert [row["rows"] for row in listed] == [1797]
    assert listed[0]["latest"]
    assert ["z_mean_000", "float"] in shown["columns"]
    assert models[0]["elbo"]["nats"] == finished.summary["elbo"]["nats"]
    assert math.isfinite(models[0]["log_marginal"]["stderr"])


@pytest.mark.parametrize("command", ["features", "models", "report", "rollback"])
def test_a_name_that_is_not_there_offers_the_near_miss(
    finished: Finished, command: str
) -> None:
    done = latents(command, "digit", home=finished.home)

    assert done.returncode == 2
    assert "did you mean 'digits'?" in " ".join(done.stderr.split())


def test_the_doctor_finds_everything_well(finished: Finished) -> None:
    findings = json.loads(latents("doctor", "--json", home=finished.home).stdout)

    assert all(finding["ok"] for finding in findings), findings
    told = {finding["what"]: finding["detail"] for finding in findings}
    assert {"torch", "home", "mlflow store", "prefect server"} <= set(told)
    assert told["compiled steps"].startswith("by Numba ")
