"""A data set so small that hundreds of runs on it take minutes, and the stages as plain calls."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.encode import encode_dataset
from flows.evaluate import evaluate_model
from flows.ingest import ingest_dataset
from flows.register import register_model
from flows.runs import RunFolder
from flows.settings import Home
from flows.spec import Spec, load_spec
from flows.train import train_model

ROWS = 300
PART_ROWS = 100
SETTINGS = (
    "training.epochs=20",
    "training.batch_rows=50",
    "training.learning_rate=0.02",
    "training.patience=1000",
    "model.hidden=[4]",
    "model.latents=2",
    "evaluation.importance_samples=5",
    "evaluation.rows=64",
)


def table(rows: int = ROWS, *, gap_at: int | None = None) -> pa.Table:
    """Four columns with two factors behind them, gaps in the last, and a key."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(4000, 2)) @ random.normal(size=(2, 4))
    x = (factors + 0.1 * random.normal(size=(4000, 4)))[:rows]
    x[::17, 3] = np.nan
    if gap_at is not None:
        x[gap_at, 0] = np.nan
    columns = {f"x{k}": pa.array(x[:, k], from_pandas=True) for k in range(4)}
    return pa.table({"id": np.arange(rows), **columns})


def spec_of(source: Path, *overrides: str) -> Spec:
    return load_spec(str(source), [*SETTINGS, *overrides])


def written(folder: Path, rows: int = ROWS) -> Path:
    """The table as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "small.parquet"
    pq.write_table(table(rows), path)
    return path


def registered(spec: Spec, home: Home) -> tuple[str, Mapping[str, Any]]:
    """Run the stages up to the registry; give the snapshot's folder and the registration."""
    snapshot = ingest_dataset(spec, home).value["path"]
    run = train_model(spec, home, snapshot).value["path"]
    evaluation = evaluate_model(spec, run).value
    return snapshot, register_model(spec, home, run, evaluation).value


def published(spec: Spec, home: Home) -> Path:
    """Run all stages but the report; give the publication's folder."""
    snapshot, registration = registered(spec, home)
    return Path(encode_dataset(spec, home, snapshot, registration).value["path"])


def trained(spec: Spec, home: Home) -> RunFolder:
    snapshot = ingest_dataset(spec, home).value["path"]
    return RunFolder(Path(train_model(spec, home, snapshot).value["path"]))


def contents(folder: Path, pattern: str = "*") -> dict[str, str]:
    """The sha256 of every file under `folder`, by its relative path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


@dataclass(frozen=True)
class Place:
    """A folder that is brought back to what it was when it was saved, at the same path.

    Records and registries hold absolute paths: a copy elsewhere would lead back to the first.
    """

    path: Path
    saved: Path

    @classmethod
    def save(cls, path: Path) -> "Place":
        saved = path.with_name(f"{path.name}-saved")
        shutil.copytree(path, saved)
        return cls(path, saved)

    def restore(self) -> None:
        shutil.rmtree(self.path)
        shutil.copytree(self.saved, self.path)
