"""The folder of a run: what it holds, and records that say that a stage is done.

    runs/<run id>/
      plan.json            the resolved settings, the snapshot, the engine's version
      preprocessor.json    fitted on the train split
      metrics.jsonl        a line each epoch; MLflow has a copy
      checkpoints/  best/  the last two states, and the one with the best validation ELBO
      model/               the artifact; written once, complete
      trained.json  evaluation-<digest>.json  registration.json  finished-<digest>.json
      report.html  figures/

A record is written last and atomically: where it exists, its stage is done.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, get_args

from data.publication import canonical_json, digest_of, replace_file
from data.working_copy import bring, settle
from flows.settings import Home
from flows.spec import Spec

StageName = Literal["ingest", "train", "evaluate", "register", "encode", "report"]
STAGES: tuple[StageName, ...] = get_args(StageName)
ARITHMETIC = 1  # raised when equal settings no longer give equal weights
MEASURES = 3  # raised when equal settings no longer give the same evaluation record


@dataclass(frozen=True)
class RunFolder:
    """One run's folder, named by what the training depends on."""

    path: Path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def home(self) -> Path:
        """The home that the run is in."""
        return self.path.parents[1]

    @property
    def snapshot(self) -> Path:
        """The snapshot that the run learns from: in this home, wherever that is now."""
        plan = read_record(self.plan)
        return self.home / "datasets" / plan["spec"]["dataset"]["name"] / plan["fingerprint"]

    @property
    def plan(self) -> Path:
        """Resolved settings."""
        return self.path / "plan.json"

    @property
    def preprocessor(self) -> Path:
        """The fitted map between columns and the model's inputs."""
        return self.path / "preprocessor.json"

    @property
    def metrics(self) -> Path:
        """One JSON line each epoch."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Where training resumes from."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation ELBO so far."""
        return self.path / "best"

    @property
    def model(self) -> Path:
        """The artifact."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def figures(self) -> Path:
        """The report's charts and pictures, each a file."""
        return self.path / "figures"

    def evaluation(self, spec: Spec) -> Path:
        """The record of the evaluation that a spec asks for."""
        asked = {"settings": spec.evaluation.model_dump(mode="json"), "measures": MEASURES}
        return self.record(f"evaluation-{digest_of(asked)[:12]}")

    def record(self, name: str) -> Path:
        """The record of a stage."""
        return self.path / f"{name}.json"


def folder_of(spec: Spec, home: Home, fingerprint: str) -> RunFolder:
    """The folder of the run that a spec and a snapshot lead to.

    It is named by all that the weights depend on, so that the same command finds the same
    folder, finished or half way, and another setting finds another.
    """
    identity = {
        "fingerprint": fingerprint,
        "model": spec.model.model_dump(mode="json"),
        "training": spec.training.model_dump(mode="json"),
        "arithmetic": ARITHMETIC,
    }
    return RunFolder(home.runs / f"{spec.dataset.name}-{digest_of(identity)[:12]}")


@dataclass(frozen=True)
class Stage:
    """What a stage did: its record, whether it was there already, and how long it took."""

    name: str
    value: Mapping[str, Any]
    reused: bool
    elapsed_s: float

    @property
    def status(self) -> str:
        """`ran` or `reused`."""
        return "reused" if self.reused else "ran"


def once(name: str, record: Path, work: Callable[[], Mapping[str, Any]]) -> Stage:
    """Return the record of a stage; do the work and write the record if there is none.

    In a home in a bucket, the record that was there first is the record.
    """
    started = perf_counter()
    bring(record.parent, record.name)
    reused = record.exists()
    if not reused:
        value = dict(work())
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_file(record, canonical_json(value).encode())
    settle(record)
    elapsed_s = perf_counter() - started
    return Stage(name, read_record(record), reused=reused, elapsed_s=elapsed_s)


def read_record(path: Path) -> dict[str, Any]:
    """The JSON object in `path`."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
