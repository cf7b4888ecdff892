import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from data.formats import READ_BYTES, SourceError, open_file

TABLE = pa.table({"n": [1, 2, None], "x": [0.5, None, 2.5], "s": ["a", "b,c", None]})


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


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet", "t.npy"])
def test_a_file_of_zero_bytes_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()

    with pytest.raises(SourceError, match=r"is empty \(0 bytes\); write it again"):
        open_file(tmp_path / name)


def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"x")

    with pytest.raises(SourceError, match=r"no known format; known suffixes: .arrow, .csv"):
        open_file(tmp_path / "t.xlsx")


def csv(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_of_a_csv_is_found(tmp_path: Path, delimiter: str) -> None:
    path = csv(tmp_path, f"a{delimiter}b\n1{delimiter}2\n")

    assert rows_of(path) == [{"a": 1, "b": 2}]


FILLER = "x" * 1000
LATE = READ_BYTES // len(FILLER) + 10  # rows of filler, so that the next lies in a later block


@pytest.mark.parametrize(
    ("late", "kind"), [("2.5", "double"), ("x", "string"), ("99999999999999999999", "double")]
)
def test_a_late_change_of_type_widens_the_column(tmp_path: Path, late: str, kind: str) -> None:
    """RELIABILITY 2b, late type change: Arrow types a CSV by its first block alone."""
    path = csv(tmp_path, "a,b\n" + f"1,{FILLER}\n" * LATE + f"{late},x\n")

    assert str(open_file(path).schema.field("a").type) == kind
    assert sum(len(batch) for batch in open_file(path).read()) == LATE + 1


def test_a_column_that_is_empty_at_first_gets_its_type_later(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b\n" + f",{FILLER}\n" * LATE + "x,x\n")

    assert str(open_file(path).schema.field("a").type) == "string"


def test_quoted_line_breaks_stay_in_their_cell(tmp_path: Path) -> None:
    assert rows_of(csv(tmp_path, 'a,b\n"x\ny",1\n')) == [{"a": "x\ny", "b": 1}]


def test_empty_cells_are_null_and_quoted_ones_are_text(tmp_path: Path) -> None:
    rows = rows_of(csv(tmp_path, 'a,b\n,1\n"",2\nNA,3\n"NA",4\n'))

    assert [row["a"] for row in rows] == [None, "", None, "NA"]


CSV_TROUBLE = {
    "ragged": (b"a,b\n1\n", "Expected 2 columns, got 1"),
    "latin-1": ("a,b\n1,\u00fc\n".encode("latin-1"), "'b' is not UTF-8; convert the file"),
    "UTF-16": ("a,b\n1,2\n".encode("utf-16"), "cannot be read"),
}


@pytest.mark.parametrize("what", CSV_TROUBLE)
def test_a_csv_in_trouble_is_refused_without_its_values(tmp_path: Path, what: str) -> None:
    content, message = CSV_TROUBLE[what]

    with pytest.raises(SourceError, match=message):
        open_file(csv(tmp_path, content))


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert rows_of(csv(tmp_path, b"\xef\xbb\xbfa,b\n1,2\n")) == [{"a": 1, "b": 2}]


def test_json_lines_may_differ_in_fields_and_widen(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [f'{{"a": 1, "b": "{FILLER}"}}\n'] * LATE
    path.write_text("".join(lines) + '{"a": 1.5, "c": "x"}\n')
    types = {field.name: str(field.type) for field in open_file(path).schema}

    assert types == {"a": "double", "b": "string", "c": "string"}
    assert sum(len(batch) for batch in open_file(path).read()) == LATE + 1


def save(tmp_path: Path, array: np.ndarray) -> Path:
    np.save(tmp_path / "t.npy", array)
    return tmp_path / "t.npy"


def save_all(tmp_path: Path, **arrays: Any) -> Path:
    np.savez(tmp_path / "t.npz", **arrays)
    return tmp_path / "t.npz"


def test_a_matrix_is_a_column_of_lists(tmp_path: Path) -> None:
    rows = rows_of(save(tmp_path, np.arange(6.0).reshape(3, 2)))

    assert rows == [{"x": [0, 1]}, {"x": [2, 3]}, {"x": [4, 5]}]


def test_images_are_bytes_with_a_shape(tmp_path: Path) -> None:
    reader = open_file(save(tmp_path, np.arange(24, dtype=np.uint8).reshape(2, 3, 4)))
    field = reader.schema.field("image")

    assert (field.type, field.metadata) == (pa.binary(12), {b"image_shape": b"[3, 4]"})
    assert [row["image"] for row in rows_of(tmp_path / "t.npy")] == [
        bytes(range(12)),
        bytes(range(12, 24)),
    ]


def test_arrays_of_an_npz_are_columns(tmp_path: Path) -> None:
    path = save_all(tmp_path, label=np.array(["u", "v"]), x=np.eye(2, dtype=np.float32))

    assert rows_of(path) == [{"label": "u", "x": [1, 0]}, {"label": "v", "x": [0, 1]}]


def test_fields_of_a_structured_array_are_columns(tmp_path: Path) -> None:
    array = np.array([(1, 0.5), (2, 1.5)], dtype=[("a", "i4"), ("b", "f8")])

    assert rows_of(save(tmp_path, array)) == [{"a": 1, "b": 0.5}, {"a": 2, "b": 1.5}]


def test_arrays_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"different lengths \{'a': 2, 'b': 3\}"):
        open_file(save_all(tmp_path, a=np.zeros(2), b=np.zeros(3)))


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(SourceError, match="Python objects in dtype"):
        open_file(tmp_path / "t.npy")
