"""A file that changes under its reader: never half of one content and half of another."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data.formats import SourceError
from data.sources import open_source

CHANGED = r"was changed while it was read; run again$"
ROWS = 20_000


def table(start: int = 0) -> pa.Table:
    numbers = range(start, start + ROWS)
    return pa.table({"a": numbers, "b": [f"text {number}" for number in numbers]})


def written(path: Path, rows: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".csv":
            pa.csv.write_csv(rows, path)
        case ".feather":
            pa.feather.write_feather(rows, str(path), compression="uncompressed")
        case ".jsonl":
            path.write_text(rows.to_pandas().to_json(orient="records", lines=True))
        case _:
            pq.write_table(rows, path, row_group_size=1000)
    return path


def replaced(path: Path) -> None:
    """Another file takes the name, as tools that write a file anew have it."""
    written(path.with_stem("new"), table(7)).replace(path)


def grown(path: Path) -> None:
    with path.open("ab") as file:
        file.write(path.read_bytes()[-40:])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "feather", "parquet"])
@pytest.mark.parametrize("change", [replaced, grown])
def test_a_change_between_two_batches_is_an_error(
    tmp_path: Path, suffix: str, change: object
) -> None:
    path = written(tmp_path / f"t.{suffix}", table())
    batches = open_source(path).batches(100)
    next(batches)
    assert callable(change)
    change(path)
    with pytest.raises(SourceError, match=f"t.{suffix} {CHANGED}"):
        list(batches)


@pytest.mark.parametrize("where", ["t.csv", "."])
def test_what_was_hashed_is_what_is_read(tmp_path: Path, where: str) -> None:
    path = written(tmp_path / "t.csv", table())
    source = open_source(tmp_path / where)
    assert source.digest
    replaced(path)
    with pytest.raises(SourceError, match=f"t.csv {CHANGED}"):
        list(source.batches())


def test_a_digest_of_a_file_that_changed_is_an_error(tmp_path: Path) -> None:
    source = open_source(written(tmp_path / "t.parquet", table()))
    replaced(tmp_path / "t.parquet")
    with pytest.raises(SourceError, match=CHANGED):
        source.digest  # noqa: B018  # it is read here


def test_a_file_that_vanished_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", table())
    source = open_source(path)
    path.unlink()
    with pytest.raises(SourceError, match=CHANGED):
        list(source.batches())


def test_a_file_that_was_only_read_goes_on(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", table())
    batches = open_source(path).batches(100)
    next(batches)
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns + 10**9, stat.st_mtime_ns))
    assert sum(map(len, batches)) == ROWS - 100
