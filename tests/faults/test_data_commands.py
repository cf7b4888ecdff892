"""What the command line says of bad data: exit code 3, where, how many, and never a value."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults.conftest import Cases
from tests.faults.effort import WHOLE
from tests.faults.hostile import HOSTILE

SECRET = "4815162342.5"  # a cell, which is not to be shown
TABLE = pa.table({"id": [f"k{n}" for n in range(60)], "x": np.arange(60) * 1.5})
SPEC = """
[dataset]
source = "t.parquet"
key = "id"
extra = "refuse"
columns.above = { kind = "continuous", max = 100 }
columns.word = { kind = "categorical", categories = ["u", "v"], max_unknown = 0.1 }
columns.gap = { kind = "continuous", nulls = "refuse" }
columns.endless = { kind = "continuous" }
columns.text = { kind = "continuous", dtype = "double" }
"""


def latents(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        env={k: v for k, v in os.environ.items() if k != "PREFECT_API_URL"}
        | {"COLUMNS": "400"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.skipif(not WHOLE, reason="a run through Prefect takes its time: make faults")
def test_every_breach_is_told_at_once_and_no_value(tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2b, NaN, infinite, wrong dtype, unseen category, duplicate keys, by a command."""
    x = TABLE["x"].to_numpy()
    bad = {
        "above": np.where(x > 80, float(SECRET), x),
        "word": [SECRET] * 7 + ["u"] * 53,
        "gap": np.where(x == 3, np.nan, x),
        "endless": np.where(x == 6, -np.inf, x),
        "text": [SECRET] * 60,
    }
    keys = [*TABLE["id"].to_pylist()[:58], "k0", "k1"]
    pq.write_table(pa.table({"id": keys, "x": x, **bad}), tmp_path / "t.parquet")
    (tmp_path / "t.toml").write_text(SPEC)
    done = latents("ingest", tmp_path / "t.toml", "--json", "--home", tmp_path / "home")
    cases("2b through the command line", 6)

    assert done.returncode == 3, done.stderr
    answer = json.loads(done.stdout)
    assert answer["exit_code"] == 3
    for said in (
        "t.parquet breaks contract 't' (version 1) in 6 places:",
        "above: 6 × above max (rows k54, k55, k56, k57, k0, ...); correct them",
        "word: 7 × unknown category (rows k0, k1, k2, k3, k4, ...); correct them",
        "gap: 1 × null (rows k2); fill them",
        "endless: 1 × infinite (rows k4); make them null or finite",
        "text: is string, the contract says double",
        "id: 2 × duplicate key (rows number 58, number 59); make keys unique",
    ):
        assert said in answer["error"]
    assert SECRET not in done.stdout + done.stderr
    assert not list((tmp_path / "home" / "datasets").rglob("*.parquet"))
    logs = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert not [path for path in logs if SECRET.encode() in path.read_bytes()]


def cut(folder: Path) -> Path:
    pq.write_table(TABLE, folder / "t.parquet")
    whole = (folder / "t.parquet").read_bytes()
    (folder / "t.parquet").write_bytes(whole[: len(whole) // 2])
    return folder / "t.parquet"


def endless_brackets(folder: Path) -> Path:
    (folder / "t.jsonl").write_text(
        '{"id": []}\n{"id": ' + "[" * 200_000 + "]" * 200_000 + "}\n"
    )
    return folder / "t.jsonl"


def ragged(folder: Path) -> Path:
    (folder / "t.csv").write_text(f"a,b\n1,2\n{SECRET}\n")
    return folder / "t.csv"


def hostile(what: str) -> Callable[[Path], Path]:
    name, write, _ = HOSTILE[what]

    def make(folder: Path) -> Path:
        write(folder / name)
        return folder if name.endswith(".png") else folder / name

    return make


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cut short": (cut, r"t\.parquet cannot be read: "),
    "brackets without end": (endless_brackets, r"t\.jsonl ends its reader \(exit status -11\)"),
    "ragged": (
        ragged,
        r"t\.csv cannot be read: CSV parse error: Row #3: Expected 2 columns, got 1",
    ),
    "objects in an array": (hostile("objects in an array"), "Python objects in dtype"),
    "a giant picture": (hostile("a picture of 3,600 million pixels"), "would unpack to more"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_told_in_a_few_lines(what: str, tmp_path: Path, cases: Cases) -> None:
    """RELIABILITY 2b, corrupt footer, hostile files, ragged, by a command."""
    cases("2b through the command line")
    make, said = BAD[what]
    done = latents("init", make(tmp_path), "--home", tmp_path / "home")

    assert done.returncode == 3
    assert re.search(said, " ".join(done.stderr.split()))
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stderr
    assert done.stdout == ""
