from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.formats import SourceError
from data.sources import open_source, rebatched


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12))
def test_rebatching_keeps_rows_and_order(sizes: list[int], rows: int) -> None:
    whole = pa.table({"x": np.arange(sum(sizes))})
    ends = np.cumsum([0, *sizes])
    batches = [pa.record_batch({"x": np.arange(start, end)}) for start, end in pairwise(ends)]
    cut = list(rebatched(iter(batches), rows))

    assert pa.Table.from_batches(cut, whole.schema).equals(whole)
    assert all(len(batch) == rows for batch in cut[:-1])
    assert all(0 < len(batch) <= rows for batch in cut)


def test_row_ids_are_file_name_and_position(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [5, 6, 7]}), tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")

    for rows in (1, 2, 3):
        batches = list(source.batches(rows, row_id=True))
        ids = pa.Table.from_batches(batches)["row_id"].to_pylist()
        assert ids == ["t.parquet:0", "t.parquet:1", "t.parquet:2"]


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"x": [1, 2], "s": ["a", None]}),
        pd.DataFrame({"x": [1, 2], "s": ["a", None]}),
        pl.DataFrame({"x": [1, 2], "s": ["a", None]}),
    ],
    ids=["pyarrow", "pandas", "polars"],
)
def test_tables_in_memory_are_sources(table: object) -> None:
    source = open_source(table)

    rows = pa.Table.from_batches(source.batches()).to_pylist()
    assert rows == [{"x": 1, "s": "a"}, {"x": 2, "s": None}]
    assert source.digest == open_source(pa.table({"x": [1, 2], "s": ["a", None]})).digest


def test_two_files_with_two_dictionaries_say_the_same(tmp_path: Path) -> None:
    """RELIABILITY 2b, dictionary types: decode by value, never by code."""
    for name, order in (("a", ["u", "v"]), ("b", ["v", "u"])):
        codes = pa.array([order.index("u")], pa.int8())
        column = pa.DictionaryArray.from_arrays(codes, order)
        pq.write_table(pa.table({"x": column}), tmp_path / f"{name}.parquet")
    one, other = (
        pa.Table.from_batches(open_source(tmp_path / f"{name}.parquet").batches())
        for name in ("a", "b")
    )

    assert one.equals(other)
    assert one.schema.field("x").type == pa.string()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(
        SourceError, match=r"^nowhere.csv does not exist; the working folder is"
    ):
        open_source("nowhere.csv")


def test_columns_that_share_a_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,a,b\n1,2,3\n")

    with pytest.raises(SourceError, match=r"columns that share a name: \['a'\]; rename them"):
        open_source(tmp_path / "t.csv").schema  # noqa: B018


def test_a_name_that_arrow_would_cut_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a\0b": [1]}), tmp_path / "t.parquet")

    with pytest.raises(SourceError, match="has a NUL in a column's name; rename it"):
        open_source(tmp_path / "t.parquet").schema  # noqa: B018


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(SourceError, match="a list is no source; give a path, or a pyarrow"):
        open_source([1, 2])


def test_a_cell_of_megabytes_is_refused(tmp_path: Path) -> None:
    """RELIABILITY 2b, huge strings."""
    (tmp_path / "t.csv").write_text("a,b\n1," + "x" * 3_000_000 + "\n2,y\n")

    with pytest.raises(SourceError) as caught:
        list(open_source(tmp_path / "t.csv").batches())
    assert str(caught.value) == (
        "t.csv: column 'b' has a cell of 3,000,000 bytes; the limit is 1,048,576: "
        "leave the column out, or shorten it"
    )


def test_an_arrow_file_is_not_held_to_its_promise_of_no_nulls(tmp_path: Path) -> None:
    promised = pa.schema([pa.field("x", pa.float64(), nullable=False)])
    table = pa.table([pa.array([0.5, None])], schema=promised)
    with pa.ipc.new_file(tmp_path / "t.arrow", promised) as file:
        file.write_table(table)

    source = open_source(tmp_path / "t.arrow")
    assert pa.Table.from_batches(source.batches())["x"].to_pylist() == [0.5, None]
