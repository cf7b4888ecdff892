"""Stage 1: check the source against its contract and keep it as an immutable snapshot."""

from time import perf_counter
from typing import Any

from data.snapshot import Snapshot, ingest, open_snapshot
from data.working_copy import bring, bring_published, prove, push, settle_new
from flows.executor import engine
from flows.runs import Stage
from flows.settings import Home
from flows.spec import Spec


def ingest_dataset(spec: Spec, home: Home) -> Stage:
    """Make the snapshot of the spec's data set, or find it.

    Raises:
        data.formats.SourceError: the source is missing, empty or damaged.
        data.checking.ContractError: the table breaks its contract; all breaches are listed.
        flows.executor.ShardError: some rows could not be looked at on Ray, or not be written.
    """
    started = perf_counter()
    folder = home.datasets / spec.dataset.name
    prove(folder)
    bring(folder, ".index/*.json")
    bring_published(folder)
    with engine(spec.execution, "ingest") as mapper:
        snapshot = ingest(**source_settings(spec, home), mapper=mapper)
    push(snapshot.path)
    for kind in ("contract-*.json", "*.json"):  # the contract first, as it was written
        settle_new(folder / ".index", kind)
    snapshot = open_snapshot(snapshot.path, reused=snapshot.reused)
    return Stage(
        "ingest", describe(snapshot), reused=snapshot.reused, elapsed_s=perf_counter() - started
    )


def source_settings(spec: Spec, home: Home) -> dict[str, Any]:
    """What `data.snapshot` is asked for: the same settings find a snapshot and make it."""
    dataset = spec.dataset
    columns = dict(dataset.columns)
    if dataset.split.column is not None:
        columns[dataset.split.column] = {"kind": "split"}
    return {
        "source": dataset.source,
        "name": dataset.name,
        "root": home.datasets,
        "overrides": columns,
        "key": dataset.key,
        "label": dataset.label,
        "split": (dataset.split.valid, dataset.split.test),
        "query": dataset.query,
        "csv": dataset.csv.model_dump(exclude_none=True) or None,
        "extra": dataset.extra,
        "contract_version": dataset.contract_version,
    }


def describe(snapshot: Snapshot) -> dict[str, Any]:
    """What later stages and the summary need to know of a snapshot."""
    return {
        "path": str(snapshot.path),
        "name": snapshot.name,
        "fingerprint": snapshot.fingerprint,
        "rows": snapshot.rows,
        "split_rows": snapshot.split_rows,
        "label": snapshot.contract.label,
    }
