"""The summary of a run: one JSON object for scripts, a table for people, a record for next time."""

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

from data.bucket import opened
from data.publication import canonical_json, digest_of, replace_file
from data.snapshot import find_snapshot
from flows import runs
from flows.ingest import source_settings
from flows.runs import RunFolder, Stage, folder_of
from flows.settings import Home
from flows.spec import Spec

MEASURED = (
    "elbo",
    "log_marginal",
    "bounds",
    "independent",
    "factor_analysis",
    "active_units",
    "latents",
    "probe",
)


def of(spec: Spec, stages: Mapping[str, Stage]) -> dict[str, Any]:
    """The summary of the stages that ran; a finished run's is kept for `finished`."""
    snapshot = stages["ingest"].value
    values = {name: stage.value for name, stage in stages.items()}
    summary: dict[str, Any] = {
        "dataset": snapshot["name"],
        "fingerprint": snapshot["fingerprint"],
        "rows": {"in": snapshot["rows"], **snapshot["split_rows"]},
        "label": snapshot["label"],
        "run_id": values.get("train", {}).get("run_id"),
        "stages": {
            name: {"status": stage.status, "seconds": round(stage.elapsed_s, 3)}
            for name, stage in stages.items()
        },
    }
    if "evaluate" in values:
        measured = values["evaluate"]
        summary |= {name: measured.get(name) for name in MEASURED}
    if "register" in values:
        registered = values["register"]
        shown = ("name", "version", "aliases", "digest", "verdict", "mlflow_run")
        summary["model"] = {name: registered[name] for name in shown}
    if "encode" in values:
        summary["publication"] = dict(values["encode"])
    if "report" in values:
        summary["report"] = values["report"]["path"]
        _keep(spec, Path(values["train"]["path"]), summary)
    return summary


def _record(spec: Spec, folder: Path) -> Path:
    asked = spec.model_dump(mode="json", exclude={"execution"})
    return RunFolder(folder).record(f"finished-{digest_of(asked)[:12]}")


def _keep(spec: Spec, folder: Path, summary: Mapping[str, Any]) -> None:
    replace_file(_record(spec, folder), canonical_json(summary).encode())


def finished(spec: Spec, home: Home) -> dict[str, Any] | None:
    """The kept summary, if the source, the champion and all that was made are as they were.

    None where anything has changed, or was never made: then the pipeline has work to do.
    """
    started = perf_counter()
    snapshot = find_snapshot(**source_settings(spec, home))
    if snapshot is None:
        return None
    record = _record(spec, folder_of(spec, home, snapshot.fingerprint).path)
    if not record.exists():
        return None
    summary = runs.read_record(record)
    made = [opened(summary["publication"]["path"]) / "manifest.json", Path(summary["report"])]
    if not all(path.exists() for path in made) or _aliases(home, summary) is None:
        return None
    summary["model"]["aliases"] = _aliases(home, summary)
    elapsed_s = round(perf_counter() - started, 3)
    summary["stages"] = {
        name: {"status": "reused", "seconds": elapsed_s if name == "ingest" else 0.0}
        for name in runs.STAGES
    }
    return summary


def _aliases(home: Home, summary: Mapping[str, Any]) -> list[str] | None:
    """The aliases of the run's version now; None if the champion is not who encoded."""
    from flows import tracking

    versions = tracking.versions(home, summary["model"]["name"])
    encoder = summary["publication"]["model_version"]
    if not any(v.version == encoder and tracking.CHAMPION in v.aliases for v in versions):
        return None
    return next(
        (list(v.aliases) for v in versions if v.version == summary["model"]["version"]), None
    )
