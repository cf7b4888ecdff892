"""RELIABILITY 2b, hostile files: those made by hand to hurt whoever reads them, of every format.

A process reads them as `latents` does. Its own memory stays bounded, as a child takes the blow:
that child's bounds are 4 GiB of address space, a time, and a length of what it writes. For two
things a child would add nothing, and the bound is tried here as it is: a `.npy` file is mapped
after its header (10,000 characters, by a parser of literals), and the dialect of a CSV is told by
expressions that take a time in proportion to the text.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

import data.formats
import data.quarantine
from data.formats import SourceError
from data.sources import open_source
from tests.faults.conftest import Cases
from tests.faults.effort import whole_or
from tests.faults.files import source_of, sqlite
from tests.faults.hostile import HOSTILE, LARGE, many_scans
from tests.faults.reading import Reader

LONGEST_S = 30.0
MOST_BYTES = 600 << 20


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.mark.parametrize("what", whole_or(HOSTILE | LARGE, HOSTILE))
def test_hostile_files_are_refused_in_bounded_time_and_memory(
    what: str, tmp_path: Path, reader: Reader, cases: Cases
) -> None:
    name, write, why = (HOSTILE | LARGE)[what]
    write(tmp_path / name)

    found = reader.read(source_of(tmp_path / name))
    cases("2b hostile files")

    assert why in found["refused"]
    assert str(tmp_path) in found["refused"]
    assert found["took_s"] < LONGEST_S
    assert found["peak_bytes"] < MOST_BYTES


def test_a_picture_that_takes_for_ever_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    many_scans(tmp_path / "t.jpg")
    monkeypatch.setattr(data.quarantine, "PATIENCE_S", 0.1)
    monkeypatch.setattr(data.quarantine, "BYTES_A_SECOND", 1 << 30)
    cases("2b hostile files")

    with pytest.raises(SourceError, match=r"t\.jpg is not read within 0 s; write it again"):
        open_source(tmp_path).schema  # noqa: B018


def test_an_answer_that_grows_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cases: Cases
) -> None:
    """A database answers into a file, which may be as long as its own size allows."""
    sqlite(tmp_path / "t.db")
    monkeypatch.setattr(data.formats, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(data.formats, "MAX_EXPANSION", 1)
    query = "select a.id from t a cross join t b cross join t c order by a.id"
    cases("2b hostile files")

    with pytest.raises(SourceError, match="answers with too many bytes for its size"):
        open_source(source_of(tmp_path / "t.db"), query=query).schema  # noqa: B018
