"""RELIABILITY 2a, torn or corrupt part: refused where it is read, made again where it is written."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.features import open_features
from data.publication import FormatError, PartRecord, Staging
from data.snapshot import ingest, open_snapshot
from flows.settings import Home
from tests.faults.conftest import Cases
from tests.faults.effort import whole_or
from tests.faults.small import table
from tests.flows.test_encode import encoded, encoder_of

FLIPS, CUTS = whole_or(600, 60), whole_or(60, 10)


def damages(whole: bytes) -> list[bytes]:
    """The file with a bit flipped at places all over it, and cut short at others."""
    flips = range(0, len(whole), max(1, len(whole) // FLIPS))
    cuts = range(0, len(whole), max(1, len(whole) // CUTS))
    flipped = [
        whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :]
        for place in flips
    ]
    return [*flipped, *(whole[:place] for place in cuts)]


def test_a_torn_part_in_staging_is_written_anew(tmp_path: Path, cases: Cases) -> None:
    """A flip in bytes that carry no meaning may stay: then the cells are what they were."""
    rows = table(60)
    staging = Staging(tmp_path, "abc")
    record = staging.write_part(0, rows, {})
    part = staging.path / record.path
    whole = part.read_bytes()
    for torn in damages(whole):
        cases("2a torn or corrupt part, resumed")
        part.write_bytes(torn)
        again: PartRecord = staging.write_part(0, rows, {})
        assert again == record or part.read_bytes() == torn
        assert pq.read_table(part).equals(pq.read_table(pq_source(whole, tmp_path)))
        part.write_bytes(whole)


def pq_source(content: bytes, folder: Path) -> Path:
    path = folder / "whole.parquet"
    path.write_bytes(content)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    snapshot = ingest(table(60), name="t", root=home.datasets, key="id")
    encoded(home, snapshot, encoder_of(home.root, snapshot))
    return home


def test_a_torn_published_part_is_refused(home: Home, cases: Cases) -> None:
    features = open_features("t", home=home.root)
    (part,) = (features.path / "data").iterdir()
    whole, rows = part.read_bytes(), features.to_arrow()
    for torn in damages(whole):
        cases("2a torn or corrupt part, read")
        part.write_bytes(torn)
        with pytest.raises(FormatError, match="is not the file that was published"):
            open_features("t", home=home.root, verify=True)
        try:
            found = open_features("t", home=home.root).to_arrow()
        except (FormatError, KeyError, ValueError, UnicodeDecodeError):
            continue
        assert found.num_rows == rows.num_rows
        for name in set(found.column_names) & set(rows.column_names):
            assert found[name].cast(rows[name].type).equals(rows[name])


def test_a_torn_part_of_a_snapshot_is_not_trained_on(home: Home, cases: Cases) -> None:
    (manifest,) = home.datasets.glob("t/*/manifest.json")
    snapshot = open_snapshot(manifest.parent)
    part = snapshot.parts[0].path
    whole, rows = part.read_bytes(), snapshot.table()
    for torn in damages(whole):
        cases("2a torn or corrupt part, trained on")
        part.write_bytes(torn)
        with pytest.raises(FormatError, match="is not the file"):
            open_snapshot(snapshot.path).verify()
        try:
            found = open_snapshot(snapshot.path).table()
        except (FormatError, KeyError, ValueError):
            continue
        assert found.num_rows == rows.num_rows
