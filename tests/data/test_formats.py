import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import data.formats
from data.blocks import RangeFile
from data.files import file_reader
from data.formats import Reader, Reading, SourceError, parquet_in

TABLE = pa.table({"n": [1, 2, None], "x": [0.5, None, 2.5], "s": ["a", "b,c", None]})


def open_file(path: Path) -> Reader:
    return file_reader(path, Reading())


def rows_of(path: Path) -> list[dict[str, Any]]:
    reader = open_file(path)
    return list(pa.Table.from_batches(reader.read(), reader.schema).to_pylist())


def write_stream(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


def write_json_lines(table: pa.Table, path: Path) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    "t.parquet": pq.write_table,
    "t.feather": pa.feather.write_feather,
    "t.arrow": write_stream,
    "t.jsonl": write_json_lines,
    "t.csv": lambda table, path: pa.csv.write_csv(table, path),
    "t.tsv": lambda table, path: pa.csv.write_csv(
        table, path, pa.csv.WriteOptions(delimiter="\t")
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_written_is_read(tmp_path: Path, name: str) -> None:
    WRITERS[name](TABLE, tmp_path / name)

    assert rows_of(tmp_path / name) == TABLE.to_pylist()


@pytest.mark.parametrize("name", WRITERS)
def test_the_digest_changes_exactly_when_the_bytes_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](TABLE, path)
    before = open_file(path).digest()

    assert open_file(path).digest() == before
    WRITERS[name](TABLE.slice(0, 2), path)
    assert open_file(path).digest() != before


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_was_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    """RELIABILITY 2b, corrupt footer. Text cut between two lines is a shorter table."""
    path = tmp_path / name
    WRITERS[name](TABLE, path)
    path.write_bytes(path.read_bytes()[:-12])
    if path.suffix in (".csv", ".tsv"):
        path.write_text(path.read_text() + '\n1,2,3,"')

    with pytest.raises(SourceError, match=r"cannot be read: .*write it again"):
        rows_of(path)


@pytest.mark.parametrize("place", range(8, 120, 7))
def test_a_damaged_page_of_our_own_parquet_is_refused(tmp_path: Path, place: int) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(TABLE, path, write_page_checksum=True, compression="none")
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 1
    path.write_bytes(damaged)

    try:
        rows = rows_of(path)
    except SourceError:
        return
    assert rows == TABLE.to_pylist()  # the byte means nothing


def test_a_row_group_is_not_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be as large as the file, and the file larger than memory."""
    monkeypatch.setattr(data.formats, "READ_ROWS", 1000)
    monkeypatch.setattr(data.formats, "STREAM_BYTES", 1 << 12)
    path = tmp_path / "t.parquet"
    table = pa.table({"x": range(100_000), "y": range(100_000)})
    pq.write_table(
        table, path, compression="none", use_dictionary=False, data_page_size=1 << 12
    )
    content, asked = path.read_bytes(), list[int]()

    def fetch(start: int, length: int) -> bytes:
        asked.append(length)
        return content[start : start + length]

    opened = parquet_in(pa.PythonFile(RangeFile(fetch, len(content))), path, len(content))
    asked.clear()
    batches = opened.read()
    next(batches)

    assert sum(asked) < len(content) / 4
    assert sum(map(len, batches)) == 99_000


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.npy"])
def test_a_file_of_zero_bytes_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(SourceError, match=r"is empty \(0 bytes\); write it again"):
        open_file(tmp_path / name)


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"x")

    with pytest.raises(SourceError, match=r"no known format; known suffixes: .arrow, .csv"):
        open_file(tmp_path / "t.xlsx")


def test_json_lines_may_differ_in_fields_and_widen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.formats, "READ_BYTES", 1000)
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1, "b": "y"}\n' * 100 + '{"a": 1.5, "c": "x"}\n')
    types = {field.name: str(field.type) for field in open_file(path).schema}

    assert types == {"a": "double", "b": "string", "c": "string"}
    assert sum(len(batch) for batch in open_file(path).read()) == 101
