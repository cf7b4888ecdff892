import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from data.csv_dialect import CsvDialect
from data.formats import SourceError
from data.snapshot import ingest
from data.sources import Source, open_source

Rows = dict[str, Any]


def written(root: Path, files: dict[str, Rows]) -> Path:
    for name, columns in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[path.suffix](pa.table(columns), path)
    return root


WRITERS: dict[str, Callable[[pa.Table, Path], None]] = {
    ".parquet": pq.write_table,
    ".csv": lambda table, path: pa.csv.write_csv(table, path),
    ".jsonl": lambda table, path: table.to_pandas().to_json(path, orient="records", lines=True),
}


def rows_of(source: Source) -> list[dict[str, Any]]:
    return list(pa.Table.from_batches(source.batches(), source.schema).to_pylist())


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_files_follow_each_other_by_name(tmp_path: Path, suffix: str) -> None:
    files = {f"{name}.{suffix}": {"x": [k, k + 10]} for k, name in enumerate("bac")}
    written(tmp_path, files)
    expected = [1, 11, 0, 10, 2, 12]

    for where in (tmp_path, f"{tmp_path}/*.{suffix}", f"{tmp_path}/**/*.{suffix}"):
        assert [row["x"] for row in rows_of(open_source(where))] == expected


def test_rows_are_named_by_their_file(tmp_path: Path) -> None:
    written(tmp_path, {"2024/b.parquet": {"x": [1]}, "2023/a.parquet": {"x": [2, 3]}})
    batches = open_source(tmp_path).batches(row_id=True)

    ids = pa.Table.from_batches(batches)["row_id"].to_pylist()
    assert ids == ["2023/a.parquet:0", "2023/a.parquet:1", "2024/b.parquet:0"]


def test_partitions_are_columns_of_text(tmp_path: Path) -> None:
    """A reader that makes 7 of "007" cannot make "007" of 7."""
    written(
        tmp_path,
        {
            "code=007/day=2024-01-01/a.parquet": {"x": [1, 2]},
            "code=8/day=a%20b/a.parquet": {"x": [3]},
            "code=__HIVE_DEFAULT_PARTITION__/day=c/a.parquet": {"x": [4]},
        },
    )

    rows = rows_of(open_source(tmp_path))
    assert [(row["x"], row["code"], row["day"]) for row in rows] == [
        (1, "007", "2024-01-01"),
        (2, "007", "2024-01-01"),
        (3, "8", "a b"),
        (4, None, "c"),
    ]


def test_a_column_is_not_in_the_path_too(tmp_path: Path) -> None:
    written(tmp_path, {"x=1/a.parquet": {"x": [1]}})

    with pytest.raises(SourceError, match=r"x=1/a.parquet has \['x'\] as columns and in its"):
        rows_of(open_source(tmp_path))


def test_all_files_are_partitioned_alike(tmp_path: Path) -> None:
    written(tmp_path, {"k=1/a.parquet": {"x": [1]}, "z/a.parquet": {"x": [1]}})

    with pytest.raises(SourceError, match=r"z/a.parquet is partitioned by \[\], k=1/a.parquet"):
        open_source(tmp_path)


def test_files_with_other_columns_are_named_and_nothing_is_filled(tmp_path: Path) -> None:
    """RELIABILITY 2b, column missing: a data set over drifting files fills it with nulls."""
    written(
        tmp_path,
        {
            "a.parquet": {"height": [1.5], "n": [1]},
            "b.parquet": {"heigth": [1.5], "n": [1]},
            "c.parquet": {"height": [1.5], "n": ["one"]},
            "d.parquet": {"n": [1], "height": [2.5]},
        },
    )

    with pytest.raises(SourceError) as caught:
        rows_of(open_source(tmp_path))
    assert str(caught.value) == (
        f"{tmp_path}: 2 of 4 files have other columns than a.parquet:\n"
        "  b.parquet: no column 'height', did you mean 'heigth'?; one more column 'heigth'\n"
        "  c.parquet: column 'n' is string, not int64\n"
        "Write all files alike; a missing column is not filled with nulls."
    )


def test_time_zones_are_not_mixed(tmp_path: Path) -> None:
    """RELIABILITY 2b, timestamps: mixed zones are an error."""
    for name, zone in (("a", "UTC"), ("b", "Europe/Berlin"), ("c", None)):
        times = pa.array([0], pa.timestamp("us", zone))
        pq.write_table(pa.table({"t": times}), tmp_path / f"{name}.parquet")

    with pytest.raises(SourceError, match=r"b.parquet: column 't' is timestamp\[us, tz=Europe"):
        rows_of(open_source(tmp_path))


def test_order_and_dictionaries_may_differ(tmp_path: Path) -> None:
    """RELIABILITY 2b, dictionary types: decode by value, never by code."""
    for name, order in (("a", ["u", "v"]), ("b", ["v", "u"])):
        codes = pa.array([order.index("u")], pa.int8())
        columns = {"k": pa.DictionaryArray.from_arrays(codes, order), "x": pa.array([1])}
        names = sorted(columns, reverse=name == "b")
        pq.write_table(pa.table({k: columns[k] for k in names}), tmp_path / f"{name}.parquet")

    assert rows_of(open_source(tmp_path)) == [{"k": "u", "x": 1}] * 2


def test_a_column_that_is_all_null_in_one_file_has_the_type_of_the_others(
    tmp_path: Path,
) -> None:
    written(
        tmp_path,
        {"a.parquet": {"x": pa.nulls(1), "y": [1]}, "b.parquet": {"x": [1.5], "y": [2]}},
    )

    assert [row["x"] for row in rows_of(open_source(tmp_path))] == [None, 1.5]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_text_files_share_the_widest_type(tmp_path: Path, suffix: str) -> None:
    written(tmp_path, {f"a.{suffix}": {"x": [1, 2]}, f"b.{suffix}": {"x": [0.5]}})

    assert [row["x"] for row in rows_of(open_source(tmp_path))] == [1.0, 2.0, 0.5]


def test_text_in_one_csv_is_text_in_all_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("zip,x\n01234,1\n")
    (tmp_path / "b.csv").write_text("zip,x\nW1A,2\n")

    assert rows_of(open_source(tmp_path)) == [{"zip": "01234", "x": 1}, {"zip": "W1A", "x": 2}]


def test_numbers_in_one_json_file_and_text_in_another_are_refused(tmp_path: Path) -> None:
    written(tmp_path, {"a.jsonl": {"x": [1]}, "b.jsonl": {"x": ["one"]}})

    with pytest.raises(SourceError, match=r"b.jsonl: column 'x' is string, not int64"):
        rows_of(open_source(tmp_path))


def test_csv_files_are_written_alike(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("n;x\n1;2\n")
    (tmp_path / "b.csv").write_text("n;x\n1;2,5\n")
    assert open_source(tmp_path).csv == CsvDialect("utf-8", ";", ",")
    assert [row["x"] for row in rows_of(open_source(tmp_path))] == [2.0, 2.5]
    (tmp_path / "c.csv").write_text("n,x\n1,2\n")

    with pytest.raises(SourceError, match=r"c.csv has delimiter ',', a.csv has ';'; write all"):
        rows_of(open_source(tmp_path))


def test_hidden_and_foreign_files_are_left_out(tmp_path: Path) -> None:
    written(
        tmp_path,
        {"a.parquet": {"x": [1]}, ".b.parquet": {"x": [2]}, "_t/c.parquet": {"x": [3]}},
    )
    (tmp_path / "README.md").write_text("what this is")

    assert rows_of(open_source(tmp_path)) == [{"x": 1}]


def test_a_folder_of_several_formats_is_refused(tmp_path: Path) -> None:
    written(tmp_path, {"a.parquet": {"x": [1]}, "b.csv": {"x": [1]}})

    with pytest.raises(
        SourceError, match=r"several formats \(1 .csv, 1 .parquet\); name those"
    ):
        open_source(tmp_path)


@pytest.mark.parametrize("where", ["", "/*.parquet"])
def test_a_folder_of_nothing_is_refused(tmp_path: Path, where: str) -> None:
    with pytest.raises(SourceError, match="holds no file of a known format; known suffixes"):
        open_source(f"{tmp_path}{where}")


def test_links_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    """RELIABILITY 2d, symlinks."""
    secret = written(tmp_path / "secret", {"s.parquet": {"x": [1]}}) / "s.parquet"
    inside = written(tmp_path / "in", {"a.parquet": {"x": [1]}})
    (inside / "b.parquet").symlink_to(inside / "a.parquet")
    assert len(rows_of(open_source(inside))) == 2
    (inside / "c.parquet").symlink_to(secret)

    with pytest.raises(SourceError, match=r"c.parquet is a link that leaves .*; copy the file"):
        open_source(inside)


def test_a_folder_is_ingested_like_a_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = {
        f"site={site}/a.parquet": {"a": random.normal(size=50), "b": random.normal(size=50)}
        for site in ("01", "02", "10")
    }
    snapshot = ingest(written(tmp_path / "in", files), name="t", root=tmp_path)

    assert snapshot.rows == 150
    assert snapshot.contract["site"].categories == ("01", "02", "10")


def test_a_folder_may_hold_packed_files_and_a_note_beside_them(tmp_path: Path) -> None:
    """What one file's gaps are marked by, another's may be: the dialect has the marks of all."""
    for year, suffix, text in (
        (1, ".csv.gz", "a,b\n1,x\n?,y\n"),
        (2, ".csv", "a,b\n1.5,x\n-,y\n"),
    ):
        path = tmp_path / f"year={year}" / f"part{suffix}"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(text.encode()) if suffix == ".csv.gz" else text.encode())
    (tmp_path / "README.txt").write_text("Two years of a and b.\n")

    source = open_source(tmp_path)
    rows = pa.Table.from_batches(source.batches(), source.schema).to_pylist()
    assert [row["a"] for row in rows] == [1.0, None, 1.5, None]
    assert [row["year"] for row in rows] == ["1", "1", "2", "2"]
    assert source.csv == CsvDialect(nulls=("-", "?"))
