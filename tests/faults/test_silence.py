"""RELIABILITY I6, I7 and 2c: what goes wrong is said, and what is changed is counted.

The counts of a manifest add up: every row that went in is one row that came out, and every cell
that is not as it was is in one count.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.checking import Checker
from data.contract import ColumnContract, Contract
from data.features import open_features
from data.snapshot import Snapshot, ingest
from flows.encode import publish
from flows.evaluate import evaluate_model
from flows.exits import exit_code
from flows.gate import GateError
from flows.ingest import ingest_dataset
from flows.measurements import metrics
from flows.register import register_model
from flows.runs import RunFolder, read_metrics, read_record
from flows.settings import Home
from flows.spec import Spec, load_spec
from flows.train import train_model
from tests.faults.conftest import Cases
from tests.faults.effort import WHOLE, whole_or
from vae_engine.divergence import DivergedError
from vae_engine.encoding import Encoder
from vae_engine.evaluation import Total

QUICK = ["training.epochs=2", "model.hidden=[8]", "model.latents=2", "evaluation.rows=200"]
QUICK += ["evaluation.importance_samples=20", 'evaluation.estimators=["importance"]']


def table(rows: int = 400) -> pa.Table:
    random = np.random.default_rng(0)
    x = random.normal(size=rows)
    columns = {"x": x, "y": x + random.normal(size=rows), "z": random.normal(size=rows)}
    return pa.table({"id": np.arange(rows), **columns})


def spec_of(folder: Path, rows: pa.Table, *settings: str) -> Spec:
    source = folder / "t.parquet"
    pq.write_table(rows, source)
    return load_spec(str(source), ["dataset.key=id", *QUICK, *settings])


def measured(spec: Spec, home: Home) -> tuple[RunFolder, dict[str, Any]]:
    snapshot = ingest_dataset(spec, home).value["path"]
    run = train_model(spec, home, snapshot).value["path"]
    return RunFolder(Path(run)), dict(evaluate_model(spec, run).value)


def encoder_of(folder: RunFolder) -> dict[str, Any]:
    digest = read_record(folder.record("trained"))["digest"]
    artifact = str(folder.model)
    return {"name": "t", "version": 1, "digest": digest, "folder": artifact, "champion": True}


POLICIES = Contract(
    name="t",
    columns=(
        ColumnContract(name="id", kind="key", dtype="int64"),
        ColumnContract(
            name="n", kind="continuous", dtype="double", nulls="allow", infinite="null"
        ),
        ColumnContract(
            name="c", kind="continuous", dtype="double", min=0, max=1, outside="clip"
        ),
        ColumnContract(
            name="w", kind="categorical", dtype="string", categories=("a", "b"), max_unknown=1.0
        ),
        ColumnContract(
            name="v", kind="vector", dtype="double", length=2, nulls="allow", infinite="null"
        ),
    ),
)
CELL = st.one_of(st.floats(), st.none())


@settings(max_examples=whole_or(40, 15))
@given(
    st.lists(
        st.tuples(
            CELL,
            st.floats(-1, 2),
            st.sampled_from("abcd"),
            st.one_of(st.none(), st.tuples(CELL, CELL).map(list)),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 7),
)
def test_every_cell_that_changed_is_in_one_count(rows: list[Any], step: int) -> None:
    """RELIABILITY I7: imputed, clipped and unknown cells, in whatever batches rows come."""
    n, c, w, v = (list(column) for column in zip(*rows, strict=True))
    kinds = [pa.int64(), pa.float64(), pa.float64(), pa.string(), pa.list_(pa.float64(), 2)]
    cells = [range(len(rows)), n, c, w, v]
    raw = pa.table(
        [pa.array(each, kind) for each, kind in zip(cells, kinds, strict=True)],
        names=["id", "n", "c", "w", "v"],
    )
    checker = Checker(POLICIES)
    kept = pa.concat_tables(
        checker.add(raw.slice(start, step)) for start in range(0, len(raw), step)
    )
    entries = [entry for cell in v if cell is not None for entry in cell]
    infinite = [value is not None and math.isinf(value) for value in n]
    expected = {
        "n.null": sum(value is None or not math.isfinite(value) for value in n),
        "n.infinite": sum(infinite),
        "c.clipped": sum(not 0 <= value <= 1 for value in c),
        "w.unknown": sum(value not in "ab" for value in w),
        "v.null": sum(value is None for value in v),
        "v.null_entries": sum(e is None or not math.isfinite(e) for e in entries),
        "v.infinite": sum(e is not None and math.isinf(e) for e in entries),
    }

    assert checker.breaches() == []
    assert checker.tolerated() == {name: count for name, count in expected.items() if count}
    assert len(kept) == len(raw)
    assert kept["n"].null_count == expected["n.null"]
    same = sum(a == b for a, b in zip(kept["c"].to_pylist(), c, strict=True))
    assert same == len(c) - expected["c.clipped"]


def test_counts_of_a_publication_add_up_to_the_rows_that_went_in(
    tmp_path: Path, cases: Cases
) -> None:
    """RELIABILITY I6, I7: from the source to the features, rows and cells."""
    rows = 400
    random = np.random.default_rng(1)
    x, words = random.normal(size=rows), random.choice(["a", "b", "c"], rows)
    source = pa.table(
        {
            "id": np.arange(rows),
            "x": pa.array(np.where(np.arange(rows) % 10 == 3, np.nan, x), from_pandas=True),
            "w": words,
            "flat": np.full(rows, 7.5),
        }
    )
    spec = spec_of(tmp_path, source)
    home = Home(tmp_path / "home")
    folder, _ = measured(spec, home)
    snapshot = Snapshot(folder.snapshot, read_record(folder.snapshot / "manifest.json"))
    stage = publish(spec.encoding, home, snapshot, encoder_of(folder))
    features = open_features("t", home=home.root, verify=True)
    cases("I6 one row in, one row out", rows)
    cases("I7 counted in the manifest", 40)

    assert sum(snapshot.split_rows.values()) == snapshot.rows == rows == stage.value["rows"]
    assert snapshot.manifest["counts"] == {"x.null": 40}
    assert snapshot.manifest["ignored"] == ["flat"]
    assert features.manifest["counts"] == {"x.null": 40}
    assert sum(part["rows"] for part in features.manifest["parts"]) == rows
    assert features.to_arrow(["id"])["id"].to_pylist() == list(range(rows))
    assert np.isfinite(features.to_numpy("z_mean")).all()
    assert np.isfinite(features.to_numpy("z_stddev")).all()


def test_a_row_that_is_impossible_is_counted_and_decides(tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY I7: a cell so far out that its density is no float; no record was written."""
    rows = table()
    spec = spec_of(tmp_path, rows)
    home = Home(tmp_path / "home")
    split = ingest(rows, name="probe", root=tmp_path, key="id").table()["split"].to_pylist()
    x = rows["x"].to_numpy().copy()
    x[[k for k, name in enumerate(split) if name == "test"][:2]] = 1e25
    spec = spec_of(tmp_path, rows.set_column(1, "x", pa.array(x)))
    folder, record = measured(spec, home)
    kept = [value for value in record["log_marginal_per_row"] if value is not None]
    cases("I7 impossible rows", 2)

    assert json.loads(folder.evaluation(spec).read_bytes()) == record
    for name in ("elbo", "log_marginal", "independent"):
        assert record[name]["impossible_rows"] == 2
    assert record["log_marginal_per_row"].count(None) == 2
    assert record["log_marginal"]["nats"] == pytest.approx(np.mean(kept))
    assert record["log_marginal"]["rows"] == len(kept) + 2
    assert all(math.isfinite(value) for value in record["metrics"].values())
    assert record["metrics"]["test/impossible_rows"] == 2


def test_totals_count_what_they_leave_out_of_the_mean() -> None:
    parts = [Total.of(torch.tensor(values)) for values in ([1.0, -math.inf], [3.0, 5.0])]
    total = parts[0] + parts[1]

    assert (total.mean, total.rows, total.impossible) == (3.0, 4, 1)
    assert total.stderr == pytest.approx(Total.of(torch.tensor([1.0, 3.0, 5.0])).stderr)
    assert math.isnan(Total.of(torch.tensor([-math.inf])).mean)
    assert math.isnan(Total.of(torch.tensor([math.nan, 1.0])).mean)


def test_no_metric_is_infinite() -> None:
    """RELIABILITY 2c, inf in metrics: MLflow would keep 1.8e308 for it."""
    record = {
        "elbo": {"nats": -3.0, "stderr": math.nan},
        "log_marginal": {"nats": -math.inf, "stderr": 0.1, "impossible_rows": 2},
        "active_units": 2,
        "untrusted_fraction": 0.0,
        "probe": [],
    }

    kept = metrics(record)

    assert kept["test/elbo_nats"] == -3
    assert kept["test/impossible_rows"] == 2
    assert "test/log_marginal_nats" not in kept
    assert all(map(math.isfinite, kept.values()))


def test_what_diverges_is_not_registered(tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2c, exploding loss: exit code 4, no record, no model, no publication."""
    cases("2c exploding loss")
    spec = spec_of(tmp_path, table(), "training.learning_rate=1e6", "training.epochs=50")
    home = Home(tmp_path / "home")

    with pytest.raises(DivergedError, match="training diverged at step") as caught:
        measured(spec, home)
    assert exit_code(caught.value) == 4
    assert not list(home.runs.glob("*/trained.json"))
    assert not list(home.runs.glob("*/model"))
    for logged in home.runs.glob("*/metrics.jsonl"):
        assert all(
            math.isfinite(value) for row in read_metrics(logged) for value in row.values()
        )


@pytest.mark.skipif(not WHOLE, reason="a registry takes its time: make faults")
def test_a_collapsed_posterior_is_registered_and_not_published(
    tmp_path: Path, cases: Cases
) -> None:
    """RELIABILITY 2c, posterior collapse: exit code 5, no champion, nothing for readers."""
    cases("2c posterior collapse")
    spec = spec_of(tmp_path, table(), "training.beta=1e4", "training.epochs=30")
    home = Home(tmp_path / "home")
    folder, record = measured(spec, home)

    with pytest.raises(GateError, match="0 active units, 1 asked for") as caught:
        register_model(spec, home, str(folder.path), record)
    assert exit_code(caught.value) == 5
    assert record["active_units"] == 0
    assert not folder.record("registration").exists()
    assert list(home.features.rglob("*")) == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_not_published(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    """RELIABILITY I7: whatever made it, it stops before the first part, with a way out."""
    cases("I7 NaN and Inf never published")
    spec = spec_of(tmp_path, table(), "training.epochs=1")
    home = Home(tmp_path / "home")
    snapshot = ingest_dataset(spec, home).value["path"]
    folder = RunFolder(Path(train_model(spec, home, snapshot).value["path"]))

    class Broken(Encoder):
        def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean = torch.zeros(len(x), 2)
            mean[len(x) // 2, 1] = value
            return mean, torch.ones(len(x), 2)

    monkeypatch.setattr("flows.row_encoder.Encoder", Broken)
    with pytest.raises(FloatingPointError, match="the encoder gave values that are not finite"):
        publish(
            spec.encoding,
            home,
            Snapshot(folder.snapshot, read_record(folder.snapshot / "manifest.json")),
            encoder_of(folder),
        )
    assert not list(home.features.rglob("manifest.json"))
