"""A spec with a `[sweep]` table: one training for each combination of settings, one table at the end.

The experiments of the literature are such specs (`data/catalog/`). A sweep trains and measures;
it registers and publishes nothing, for its models are there to be compared.
"""

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.publication import canonical_json, digest_of, replace_file
from data.working_copy import share
from flows.evaluate import evaluate_model
from flows.ingest import ingest_dataset
from flows.runs import RunFolder, read_metrics, read_record
from flows.settings import Home
from flows.spec import Spec, override
from flows.train import train_model

CURVE = ("train/elbo_nats", "valid/elbo_nats", "time/train_s")


def members(spec: Spec) -> Iterator[tuple[dict[str, Any], Spec]]:
    """Every combination of the swept settings, and the spec that it makes."""
    for values in itertools.product(*spec.sweep.values()):
        settings = dict(zip(spec.sweep, values, strict=True))
        yield settings, override(spec, settings)


def run_sweep(spec: Spec, home: Home) -> dict[str, Any]:
    """Train and measure every member; write the table and the learning curves.

    A member that was measured before is found, so that a sweep resumes where it was killed.

    Returns:
        `dataset`, `sweep` (a row for each member), and the paths of `results` and `curves`.
    """
    rows, curves = [], []
    for settings, member in members(spec):
        snapshot = ingest_dataset(member, home).value["path"]
        trained = train_model(member, home, snapshot).value
        measured = evaluate_model(member, trained["path"]).value
        folder = RunFolder(Path(trained["path"]))
        rows.append(_row(settings, trained, measured, folder))
        curves += [{**settings, **point} for point in _curve(folder)]
    identity = digest_of(spec.model_dump(mode="json", exclude={"execution"}))[:12]
    path = home.root / "sweeps" / f"{spec.dataset.name}-{identity}"
    replace_file(path / "results.json", canonical_json(rows).encode())
    replace_file(path / "curves.csv", _as_csv(curves).encode())
    share(path / "results.json", path / "curves.csv")
    return {
        "dataset": spec.dataset.name,
        "sweep": rows,
        "results": str(path / "results.json"),
        "curves": str(path / "curves.csv"),
    }


def _row(
    settings: Mapping[str, Any],
    trained: Mapping[str, Any],
    measured: Mapping[str, Any],
    folder: RunFolder,
) -> dict[str, Any]:
    last = read_metrics(folder.metrics)[-1]
    return {
        "settings": dict(settings),
        "run_id": trained["run_id"],
        "steps": trained["steps"],
        "train_s": last["time/train_s"],
        **{name: measured[name] for name in ("elbo", "log_marginal", "active_units")},
    }


def _curve(folder: RunFolder) -> Iterator[dict[str, float]]:
    """The bound against the number of training samples that went into it: figure 2 of the paper."""
    batch_rows = read_record(folder.plan)["training"]["batch_rows"]
    for point in read_metrics(folder.metrics):
        yield {"samples": point["step"] * batch_rows, **{key: point[key] for key in CURVE}}


def _as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(
        {key: json.dumps(v) if isinstance(v, list | dict) else v for key, v in row.items()}
        for row in rows
    )
    return text.getvalue()
