"""RELIABILITY 2b, corrupt footer, hostile files: damaged copies of a file of every format.

They are read by a process of their own, one after the other, as `latents` would: it may refuse
and it may read, but it may not end, hang, or raise what nobody explains. Where a format has
checksums, what it reads is what was written. Parquet's footer has none: what it says is held
against the contract, and the footers of our own files against a sha256.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Cases
from tests.faults.effort import whole_or
from tests.faults.files import CHECKSUMMED, WRITERS, damaged, source_of
from tests.faults.reading import Reader

COPIES = whole_or(60, 5)  # of each format
LONGEST_S = 30.0


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_are_refused_or_read(
    name: str, tmp_path: Path, reader: Reader, cases: Cases
) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    whole = path.read_bytes()
    written = reader.read(source_of(path))["digest"]
    path.write_bytes(whole[: 2 * len(whole) // 3])
    assert "refused" in reader.read(source_of(path))
    for copy in damaged(whole, COPIES, seed=0):
        path.write_bytes(copy)
        found = reader.read(source_of(path))
        assert "raised" not in found, found["raised"]
        assert found["took_s"] < LONGEST_S
        if "refused" in found:
            assert str(tmp_path) in found["refused"]  # it names the file
        elif name in CHECKSUMMED:
            assert found["digest"] == written
    cases("2b hostile files", COPIES + 1)
