"""RELIABILITY 2a, kill -9 at every persistence operation: all or nothing, and a rerun as if never killed."""

from pathlib import Path

import pytest

from data.checking import ContractError
from data.snapshot import Snapshot, ingest, open_snapshot
from tests.faults.conftest import Cases
from tests.faults.crashes import deaths
from tests.faults.effort import whole_or
from tests.faults.small import PART_ROWS, ROWS, contents, table


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.snapshot.PART_ROWS", PART_ROWS)


def ingested(root: Path) -> Snapshot:
    return ingest(table(), name="t", root=root)


def kept(root: Path) -> dict[str, str]:
    """What lies in a store of data sets, but for the workshop."""
    return {
        name: digest
        for name, digest in contents(root / "t").items()
        if not Path(name).name.startswith(".tmp-")
    }


def test_kill_9_in_ingest(tmp_path: Path, cases: Cases) -> None:
    """The snapshot is absent or complete; what the index remembers is complete, too."""
    whole = tmp_path / "whole"
    first = ingested(whole)

    for root in deaths(tmp_path, ingested, every=whole_or(1, 3)):
        cases("I1 a reader sees all or nothing")
        cases("I2 kill -9 and again: the same bytes")
        cases("2a kill -9 in ingest")
        for manifest in root.glob("t/*/manifest.json"):
            open_snapshot(manifest.parent).verify()
            assert contents(manifest.parent) == contents(first.path)
        assert contents(ingested(root).path) == contents(first.path)
        with pytest.raises(ContractError, match="x0"):
            ingest(table(ROWS + 1, gap_at=ROWS), name="t", root=root)
        assert kept(root) == kept(whole)
