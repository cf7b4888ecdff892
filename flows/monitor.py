"""`latents monitor`: are new data still what the champion was trained on?

Two views: column by column against the champion's train rows (`data.drift`), and as the model
sees them (`flows.model_drift`). Rows that break the contract have drifted too; the model is not
asked about them.

    drift.json     {"verdict", "drifted", "breaches", "columns": [{"name", "distance", "drifted",
                    ...}], "model": {"elbo_shift_nats", "elbo_shift_nats_stderr", ...} or null}
"""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.drift import ColumnDrift, DriftReport, baseline_of, drift_of
from data.publication import canonical_json, replace_file
from data.recipe import Recipe
from data.snapshot import open_snapshot
from data.working_copy import share
from flows import tracking
from flows.events import DRIFTED, announce
from flows.ingest import ingest_dataset, source_settings
from flows.lookup import NotFoundError, near
from flows.model_drift import model_drift
from flows.run_copies import bring_run
from flows.runs import RunFolder
from flows.settings import Home
from flows.spec import Spec, load_spec, override
from flows.tracking import CHAMPION, Registered
from flows.vault import fetched


def monitor(spec: Spec, home: Home, source: str | None = None) -> dict[str, Any]:
    """Compare the spec's source as it is now, or `source`, with the champion's snapshot.

    Raises:
        NotFoundError: there is no champion, or its run is not in this home.
        SourceError: the new data cannot be read.
    """
    champion = _champion(home, spec.model_name)
    folder = RunFolder(home.runs / champion.tags.get("latents.run_id", ""))
    bring_run(folder)
    if not folder.plan.exists():
        raise NotFoundError(
            f"{champion.name} version {champion.version} was not trained in this home, so its "
            f"train rows are not here to compare with"
        )
    if source is not None:
        there = load_spec(source).dataset.source  # as a spec would have it: absolute
        spec = override(spec, {"dataset.source": there})
    before = open_snapshot(folder.snapshot)
    opened = Recipe(**source_settings(spec, home)).opened
    report = drift_of(opened, before, baseline_of(before))
    seen = None
    if not report.breaches:
        now = open_snapshot(Path(ingest_dataset(spec, home).value["path"]))
        seen = model_drift(fetched(home, champion), before, now)
    found = {
        "verdict": verdict(report, seen),
        "drifted": report.verdict == "drifted" or (seen is not None and seen["drifted"]),
        "time_ms": int(time.time() * 1000),
        "dataset": spec.dataset.name,
        "source": opened.describe,
        "rows": report.rows,
        "champion": {"name": champion.name, "version": champion.version},
        "fingerprint": before.fingerprint,
        "columns": [_column(column) for column in report.columns],
        "breaches": [str(breach) for breach in report.breaches],
        "model": seen,
    }
    _tell(home, folder, champion, found)
    return found


def _champion(home: Home, name: str) -> Registered:
    champions = [found for found in tracking.versions(home, name) if CHAMPION in found.aliases]
    if not champions:
        raise NotFoundError(
            f"{name!r} has no champion to hold new data against"
            f"{near(name, tracking.model_names(home))}"
        )
    return champions[0]


def _column(column: ColumnDrift) -> dict[str, Any]:
    said = {key: value for key, value in asdict(column).items() if key not in ("column", "psi")}
    drifted = column.verdict == "drifted"
    return {"name": column.column, "distance": column.psi, "drifted": drifted, **said}


def verdict(report: DriftReport, seen: Mapping[str, Any] | None) -> str:
    """One sentence: what has moved, and by how much."""
    said = []
    if report.breaches:
        said.append(f"the contract is broken in {len(report.breaches)} places")
    moved = _named(report, "drifted")
    if moved:
        said.append(f"{len(moved)} of {len(report.columns)} columns moved ({_listed(moved)})")
    if seen is not None and seen["elbo_drifted"]:
        change = f"{seen['elbo_shift_nats']:+.2f} ± {seen['elbo_shift_nats_stderr']:.2f}"
        said.append(f"the model's ELBO moved by {change} nats")
    if seen is not None and seen["latent_drifted"]:
        k = seen["most_moved_latent"]
        change = f"{seen['latent_shift'][k]:+.2f} ± {seen['latent_shift_stderr'][k]:.2f}"
        said.append(f"latent {k} moved by {change} standard deviations")
    watched = _named(report, "watch")
    worth = f"; worth watching: {_listed(watched)}" if watched else ""
    return ("drift: " + "; ".join(said) if said else "no drift") + worth


def _named(report: DriftReport, found: str) -> list[str]:
    return [column.column for column in report.columns if column.verdict == found]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _tell(home: Home, folder: RunFolder, champion: Registered, found: dict[str, Any]) -> None:
    """Keep the record, log its numbers on the champion's run, and tell Prefect if it is there."""
    replace_file(folder.record("drift"), canonical_json(found).encode())
    share(folder.record("drift"))
    columns, seen = found["columns"], found["model"]
    numbers: dict[str, float] = {
        "drift/columns": sum(column["drifted"] for column in columns),
        "drift/breaches": len(found["breaches"]),
        "drift/largest_psi": max((column["distance"] for column in columns), default=0.0),
    }
    if seen is not None:
        names = ("elbo_shift_nats", "elbo_shift_nats_stderr", "elbo_ks")
        numbers |= {f"drift/{name}": seen[name] for name in names}
        numbers["drift/largest_latent_ks"] = max(seen["latent_ks"])
    row = {"step": 0, "time_ms": found["time_ms"], **numbers}
    tracking.log_metrics(home, champion.tags["mlflow_run"], [row])
    if found["drifted"] and os.environ.get("PREFECT_API_URL"):
        payload = {"verdict": found["verdict"], "model_version": champion.version, **numbers}
        announce(DRIFTED, found["dataset"], payload)
