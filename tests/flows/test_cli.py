"""What a person sees who types something wrong, or hands over something broken."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.flows.conftest import latents


def parquet(folder: Path, table: pa.Table, name: str = "table.parquet") -> Path:
    path = folder / name
    pq.write_table(table, path)
    return path


def test_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout

    for command in (
        "run", "ingest", "train", "evaluate", "register", "encode", "features", "models",
        "promote", "rollback", "report", "doctor",
    ):  # fmt: skip
        assert command in text


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (
            ("run", "nowhere.parquet"),
            2,
            "neither a data file, a spec nor a name in the catalog",
        ),
        (("run", "mnist", "--set", "training.epoch=3"), 2, "did you mean 'epochs'?"),
        (("run", "mnist", "--set", "dataset.name=../up"), 2, "cannot be a name"),
        (("run", "mnist", "--set", "model.latents=0"), 2, "model.latents = 0"),
        (("features", "mnist"), 2, "no features of 'mnist' are published"),
    ],
)
def test_a_wrong_word_is_answered_in_a_few_lines(
    tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = latents(*arguments, home=tmp_path / "home")

    assert done.returncode == code
    assert done.stdout == ""
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_with_json_an_error_is_one_object_too(tmp_path: Path) -> None:
    done = latents("run", "nowhere.parquet", "--json", home=tmp_path / "home")

    assert json.loads(done.stdout)["exit_code"] == done.returncode == 2


@pytest.mark.parametrize(
    ("command", "fault"), [("run", "truncated"), ("ingest", "empty"), ("run", "useless")]
)
def test_broken_data_leave_nothing_behind(
    tmp_path: Path, prefect_server: str, command: str, fault: str
) -> None:
    home = tmp_path / "home"
    rows = pa.table({"a": [float(row) for row in range(50)], "b": ["x", "y"] * 25})
    useless = pa.table({"a": pa.nulls(50), "b": ["always the same"] * 50})
    path = parquet(tmp_path, {"empty": rows.slice(0, 0), "useless": useless}.get(fault, rows))
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-40])

    done = latents(command, path, home=home, server=prefect_server)

    assert done.returncode in {2, 3}
    assert "table" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((home / "datasets").rglob("*.parquet"))
    assert not (home / "runs").exists()
