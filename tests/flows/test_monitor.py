"""New data against the champion's: as they were, or moved, in columns and in the model's eyes."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import tracking
from flows.exits import DRIFTED
from flows.lookup import NotFoundError
from flows.monitor import monitor
from flows.runs import read_record
from flows.settings import Home
from flows.spec import load_spec
from tests.flows.conftest import Finished, digits_table, latents


def other_digits(path: Path, *, darker: bool) -> Path:
    """The digits under other keys; with `darker`, a third of the ink is missing."""
    table = digits_table()
    if darker:
        ink = table["image"].combine_chunks().values.to_numpy() * 2 // 3
        images = pa.FixedSizeListArray.from_arrays(pa.array(ink.astype("uint8")), 64)
        table = table.set_column(1, "image", images)
    keys = pa.array([f"new-{key}" for key in table["id"].to_pylist()])
    pq.write_table(table.set_column(0, "id", keys), path)
    return path


def test_rows_of_the_same_kind_have_not_drifted(finished: Finished, tmp_path: Path) -> None:
    home, spec = Home(finished.home), load_spec(str(finished.source))

    same = monitor(spec, home)
    others = monitor(spec, home, str(other_digits(tmp_path / "new.parquet", darker=False)))

    assert not same["drifted"]
    assert not any(column["drifted"] for column in others["columns"])
    assert "image.mean" in {column["name"] for column in others["columns"]}
    assert others["model"]["rows"][1] == 1797  # all of them are new to the model


def test_rows_that_moved_are_told_with_numbers(finished: Finished, tmp_path: Path) -> None:
    darker = other_digits(tmp_path / "darker.parquet", darker=True)

    done = latents("monitor", finished.source, "--source", darker, "--json", home=finished.home)

    found = json.loads(done.stdout)
    assert done.returncode == DRIFTED == 7, done.stderr
    assert found["verdict"].startswith("drift: ")
    assert "image.mean" in found["verdict"]
    assert [column["drifted"] for column in found["columns"] if column["name"] == "label"] == [
        False
    ]
    assert found["model"]["elbo_drifted"]
    assert abs(found["model"]["elbo_shift_nats"]) > 5 * found["model"]["elbo_shift_nats_stderr"]
    home = Home(finished.home)
    assert read_record(home.runs / finished.summary["run_id"] / "drift.json") == found
    metrics = tracking.run_metrics(home, finished.summary["model"]["mlflow_run"])
    assert metrics["drift/columns"] >= 1
    assert metrics["drift/elbo_shift_nats"] == found["model"]["elbo_shift_nats"]


def test_a_person_sees_a_table_and_a_verdict(finished: Finished) -> None:
    done = latents("monitor", finished.source, home=finished.home)

    assert done.returncode == 0, done.stderr
    assert "image" in done.stdout
    assert "no drift" in done.stdout


def test_rows_that_break_the_contract_have_drifted_too(
    finished: Finished, tmp_path: Path
) -> None:
    table = digits_table().drop_columns(["label"])
    ink = table["image"].combine_chunks().values.to_numpy() * 9
    images = pa.FixedSizeListArray.from_arrays(pa.array(ink.astype("uint8")), 64)
    path = tmp_path / "bright.parquet"
    pq.write_table(table.set_column(1, "image", images), path)

    found = monitor(load_spec(str(finished.source)), Home(finished.home), str(path))

    assert found["drifted"]
    assert found["model"] is None
    assert any("image" in breach for breach in found["breaches"])


def test_without_a_champion_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    source = other_digits(tmp_path / "lonely.parquet", darker=False)

    with pytest.raises(NotFoundError, match="'lonely' has no champion"):
        monitor(load_spec(str(source)), Home(tmp_path))
