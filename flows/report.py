"""The last stage: one self-contained HTML file about a run, written when something has changed."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from data.publication import canonical_json, digest_of, locked, replace_file
from data.working_copy import share
from flows.reporting.records import Records, newest_run
from flows.runs import RunFolder, Stage, read_record
from flows.settings import Home
from flows.spec import Spec

logger = logging.getLogger(__name__)

LAYOUT = 2  # raised when equal records give another page


def write_report(spec: Spec, home: Home, run_path: str) -> Stage:
    """Write the report of a run, measured as the spec asks, or find it up to date.

    It is drawn from the run's records, model and snapshot and from what is published now; a
    record beside it says from which, so that it is drawn again when one of them has changed.
    """
    started = perf_counter()
    folder = RunFolder(Path(run_path))
    records = Records.of(home, folder, folder.evaluation(spec))
    sources = digest_of({"records": records.digest(), "layout": LAYOUT})
    with locked(folder.path / ".lock"):
        reused = folder.report.exists() and _sources(folder) == sources
        if not reused:
            fidelity = _write(records, sources)
            _copy_to_mlflow(home, records, fidelity)
    value = read_record(folder.record("report")) | {"path": str(folder.report)}
    return Stage("report", value, reused=reused, elapsed_s=perf_counter() - started)


def write_latest_report(home: Home, name: str) -> Path:
    """Write the report of the run of `name` that was measured last; return its path.

    Raises:
        NotFoundError: no run of `name` has been measured.
    """
    folder, evaluation = newest_run(home, name)
    records = Records.of(home, folder, evaluation)
    with locked(folder.path / ".lock"):
        _write(records, digest_of({"records": records.digest(), "layout": LAYOUT}))
    return folder.report


def _copy_to_mlflow(
    home: Home, records: Records, fidelity: Sequence[Mapping[str, Any]]
) -> None:
    """Let MLflow's page of the run show the report; without MLflow the file is enough."""
    from flows import tracking

    if records.registration is None:
        return
    try:
        run, folder = records.registration["mlflow_run"], records.folder
        tracking.log_artifact(home, run, folder.report)
        tracking.log_files(home, run, folder.figures)
        if fidelity:
            tracking.log_table(home, run, "evaluation/fidelity.json", fidelity)
    except tracking.TrackingError as error:
        logger.warning("the report is not in MLflow: %s", error)


def _sources(folder: RunFolder) -> str | None:
    record = folder.record("report")
    return str(read_record(record)["sources"]) if record.exists() else None


def _write(records: Records, sources: str) -> list[dict[str, Any]]:
    """Write the page and its figures; return what the page says of each column's fidelity."""
    from flows.reporting.page import render  # jinja and pillow: only where a page is drawn

    page = render(records)
    folder = records.folder
    folder.figures.mkdir(exist_ok=True)
    for old in folder.figures.iterdir():
        if old.name not in page.figures:
            old.unlink()
    for name, content in page.figures.items():
        replace_file(folder.figures / name, content)
    html = page.html.encode()
    replace_file(folder.report, html)
    value: Mapping[str, Any] = {"sources": sources, "bytes": len(html)}
    replace_file(folder.record("report"), canonical_json(value).encode())
    share(*folder.figures.iterdir(), folder.report, folder.record("report"))
    return page.fidelity
