"""What bad data do, and that every row of the table of them (RELIABILITY 2b) has its test.

A test of one row names it in its docstring as "RELIABILITY 2b, <row>". The rows that are told
by a file alone are in one table here; the others are beside the code that deals with them.
"""

import datetime
import re
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import data.formats
from data.checking import Checker, ContractError, check, conform
from data.contract import ColumnContract, Contract
from data.drift import baseline_of, drift_of
from data.formats import SourceError
from data.part_rows import part_rows
from data.preprocessing import TooFewRowsError, check_splits, fit_preprocessor
from data.snapshot import Snapshot, ingest
from data.sources import open_source
from flows.exits import exit_code
from tests.faults.conftest import Cases

ROWS_OF_THE_TABLE = """
infinite
constant column
all-missing column
out-of-range pixels
wrong dtype
int64 beyond float
decimal
unseen category
column missing
reordered columns
extra columns
duplicate column names
duplicate keys
empty set
one row
header-only CSV
CSV bad encoding
late type change
int beyond int64 in CSV
ragged
UTF-16
byte order mark
zero bytes
huge strings
nested
timestamps
dictionary types
10,000 columns
decompression bomb
corrupt footer
hostile files
schema evolution
""".strip().splitlines()


@pytest.fixture(autouse=True)
def named_rows(request: pytest.FixtureRequest, cases: Cases) -> None:
    """Count each test under the rows that its docstring names."""
    said = " ".join((request.function.__doc__ or "").split())
    for row in ROWS_OF_THE_TABLE:
        if said.startswith("RELIABILITY 2b, ") and row in said:
            cases(f"2b {row}")


@pytest.mark.parametrize("row", ROWS_OF_THE_TABLE)
def test_every_row_of_the_table_has_a_test_that_names_it(row: str) -> None:
    tests = Path(__file__).parents[1].rglob("test_*.py")
    sources = [path.read_text("utf-8") for path in tests]

    said = re.compile(rf"RELIABILITY 2b, [^.]*{re.escape(row)}", re.DOTALL)
    assert any(said.search(source) for source in sources)


def number(**settings: Any) -> Contract:
    column = ColumnContract(
        **{"name": "x", "kind": "continuous", "dtype": "double", **settings}
    )
    return Contract(name="t", columns=(column,))


def found(values: Any, contract: Contract) -> dict[str, int]:
    return {breach.code: breach.count for breach in check(pa.table({"x": values}), contract)}


def counted(values: Any, contract: Contract) -> tuple[list[Any], dict[str, int]]:
    """The cells as they are kept, and what was done to them."""
    checker = Checker(contract)
    table = checker.add(pa.table({"x": values}))
    assert checker.breaches() == []
    return table["x"].to_pylist(), checker.tolerated()


@given(st.lists(st.floats(), min_size=1, max_size=20))
def test_an_infinite_cell_is_refused_or_null_and_a_nan_is_null(values: list[float]) -> None:
    """RELIABILITY 2b, NaN and infinite: by a declared policy, and counted."""
    infinite, nan = int(np.isinf(values).sum()), int(np.isnan(values).sum())

    breaches = found(values, number(nulls="allow"))
    assert breaches == ({"infinite": infinite} if infinite else {})
    kept, counts = counted(values, number(nulls="allow", infinite="null"))
    assert kept == [v if np.isfinite(v) else None for v in values]
    assert counts.get("x.infinite", 0) == infinite
    assert counts.get("x.null", 0) == infinite + nan


def test_infinite_entries_of_vectors_follow_the_same_policy() -> None:
    """RELIABILITY 2b, infinite."""
    vectors = pa.array([[1.0, float("inf")], [2.0, 3.0]], pa.list_(pa.float64(), 2))

    vector = {"kind": "vector", "length": 2}
    assert found(vectors, number(**vector)) == {"infinite": 1}
    assert found(vectors, number(**vector, infinite="null")) == {"null": 1}
    kept, counts = counted(vectors, number(**vector, infinite="null", nulls="allow"))
    assert kept == [[1.0, None], [2.0, 3.0]]
    assert counts == {"x.infinite": 1, "x.null_entries": 1}


def test_a_nan_among_the_entries_of_a_vector_is_a_null_of_its_own(tmp_path: Path) -> None:
    """RELIABILITY 2b, NaN: refused or counted in whatever it hides, and guessed from the data."""
    cells = [[1.0, float("nan")], [2.0, 3.0], None, [float("nan"), 4.0]] * 15
    vectors = pa.array(cells, pa.list_(pa.float64(), 2))
    snapshot = ingest(
        pa.table({"id": np.arange(60), "x": vectors}), name="t", root=tmp_path, key="id"
    )
    x = fit_preprocessor(snapshot).transform(snapshot.table())

    assert found(vectors, number(kind="vector", length=2)) == {"null": 45}
    assert snapshot.contract["x"].nulls == "allow"
    assert snapshot.manifest["counts"] == {"x.null": 15, "x.null_entries": 30}
    assert x.counts == snapshot.manifest["counts"]
    assert np.isnan(x.x).sum() == 2 * 15 + 30


def test_a_constant_column_is_left_out_and_listed(tmp_path: Path) -> None:
    """RELIABILITY 2b, constant column: scaled by 1 if a person insists on it."""
    table = pa.table({"same": [7.5] * 60, "x": np.arange(60) * 1.5})
    snapshot = ingest(table, name="t", root=tmp_path)
    assert snapshot.manifest["ignored"] == ["same"]
    insisted = ingest(
        table, name="t", root=tmp_path, overrides={"same": {"kind": "continuous"}}
    )

    column = fit_preprocessor(insisted).columns[0]
    assert (column.name, column.constant, column.scale) == ("same", True, 1.0)


def test_an_all_missing_column_is_refused_for_training_and_let_pass_for_encoding(
    tmp_path: Path,
) -> None:
    """RELIABILITY 2b, all-missing column."""
    good = pa.table({"a": [1.5, None, 2.5] * 20, "b": np.arange(60) * 1.5})
    contract = ingest(good, name="t", root=tmp_path).contract
    bad = good.set_column(0, "a", pa.nulls(60, pa.float64()))

    with pytest.raises(ContractError, match="a: every cell is null; nothing can be learned"):
        ingest(bad, name="t", root=tmp_path)
    assert conform(bad, contract)["a"].null_count == 60


def pixels(dtype: str, maximum: float, **settings: Any) -> Contract:
    shape = {"height": 1, "width": 2, "channels": 1}
    return number(kind="pixels", dtype=dtype, min=0, max=maximum, **shape, **settings)


def images(values: Any, kind: pa.DataType) -> pa.Array:
    return pa.array(values, pa.list_(kind, 2))


def test_out_of_range_pixels_are_refused_or_clipped() -> None:
    """RELIABILITY 2b, out-of-range pixels: clipped only by a declared policy, and counted."""
    values = images([[0.5, 1.5], [-0.1, 0.2]], pa.float32())

    assert found(values, pixels("float", 1)) == {"below_min": 1, "above_max": 1}
    kept, counts = counted(values, pixels("float", 1, outside="clip"))
    np.testing.assert_allclose(kept, [[0.5, 1], [0, 0.2]], rtol=1e-6)
    assert counts == {"x.clipped": 2}


@pytest.mark.parametrize(
    ("values", "contract"),
    [
        (images([[0.0, 1.0]], pa.float32()), pixels("uint8", 255)),
        (images([[0, 1]], pa.uint8()), pixels("float", 1)),
    ],
)
def test_pixels_of_another_scale_are_refused(values: pa.Array, contract: Contract) -> None:
    """RELIABILITY 2b, out-of-range pixels: 0 and 1 may be black and white, or two blacks."""
    with pytest.raises(ContractError, match=r"\(is full intensity 1 or 255\?\)"):
        conform(pa.table({"x": values}), contract)


def test_a_double_too_large_for_a_float_is_found_after_the_cast() -> None:
    """RELIABILITY 2b, wrong dtype: Arrow's safe cast makes inf of 1e300 without an error."""
    assert np.isinf(pa.array([1e300]).cast(pa.float32())[0].as_py())

    assert found([1e300, 1.0], number(dtype="float")) == {"infinite": 1}


@pytest.mark.parametrize(
    ("value", "ok"), [(2**53, True), (2**53 + 1, False), (-(2**60), False)]
)
def test_integers_that_no_float_holds_are_refused(value: int, ok: bool) -> None:
    """RELIABILITY 2b, int64 beyond float: NumPy rounds it in silence."""
    values = pa.array([1, value], pa.int64())

    assert found(values, number(dtype="int64")) == ({} if ok else {"inexact": 1})
    assert found(pa.array([2**53 + 1], pa.uint64()), number(dtype="uint64")) == {"inexact": 1}


def test_a_column_of_giant_integers_is_taken_for_an_identifier(tmp_path: Path) -> None:
    """RELIABILITY 2b, int64 beyond float."""
    random = np.random.default_rng(0)
    table = pa.table({"n": random.integers(0, 2**62, 90), "x": random.normal(size=90)})
    contract = ingest(table, name="t", root=tmp_path).contract

    assert contract["n"].kind == "ignore"


def test_decimals_become_doubles_and_what_is_lost_is_counted() -> None:
    """RELIABILITY 2b, decimal."""
    exact, lost = Decimal("0.10"), Decimal("12345678901234567.89")
    kept, counts = counted(pa.array([exact, lost, None]), number(nulls="allow"))

    assert kept == [0.1, 12345678901234568.0, None]
    assert counts == {"x.rounded": 1, "x.null": 1}


def test_unseen_categories_are_counted_up_to_a_share() -> None:
    """RELIABILITY 2b, unseen category."""
    words = number(kind="categorical", dtype="string", categories=("a",), max_unknown=0.5)

    assert counted(["a", "b"], words)[1] == {"x.unknown": 1}
    assert found(["b", "b", "a"], words) == {"unknown_category": 2}


def test_one_row_can_be_encoded_and_not_learned_from(tmp_path: Path) -> None:
    """RELIABILITY 2b, one row."""
    table = pa.table({"id": [1], "x": [1.5]})
    contract = ingest(
        pa.table({"id": np.arange(90), "x": np.arange(90) * 1.5}), name="t", root=tmp_path
    ).contract
    assert len(conform(table, contract)) == 1
    snapshot = ingest(table, name="t", root=tmp_path, contract=contract)

    with pytest.raises(
        TooFewRowsError, match=r"'t' has [01] rows to train on, and 2 are the least"
    ):
        fit_preprocessor(snapshot)


def test_rows_too_few_to_hold_any_out_are_refused_with_the_way_out(tmp_path: Path) -> None:
    def split(valid: float) -> Snapshot:
        table = pa.table({"id": np.arange(12), "x": np.arange(12) * 1.5})
        return ingest(table, name="t", root=tmp_path / str(valid), split=(valid, 0.3))

    check_splits(split(0.3))
    with pytest.raises(TooFewRowsError) as refused:
        check_splits(split(0.001))

    assert re.match(
        r"the 12 rows of 't' are \d+ to train on, 0 to validate and \d+ to test by",
        str(refused.value),
    )
    assert "--set dataset.split.valid=0.3" in str(refused.value)
    assert exit_code(refused.value) == 3


def written(table: pa.Table, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(table, folder / "t.parquet", **options)
        return folder / "t.parquet"

    return write


def text(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "t.csv").write_bytes(content)
        return folder / "t.csv"

    return write


TWICE = pa.table([[1], [2]], names=["a", "a"])
MAPS = pa.array([[("k", 1)]] * 3, pa.map_(pa.string(), pa.int64()))
NESTED = pa.table({"s": [{"a": {"b": 1}, "c": [1.5]}] * 3, "m": MAPS})
REFUSED: dict[str, tuple[Callable[[Path], Path], dict[str, Any], str]] = {
    "duplicate column names": (written(TWICE), {}, "columns that share a name: ['a']"),
    "duplicate column names in CSV": (
        text(b"a,a\n1,2\n"),
        {},
        "columns that share a name: ['a']; rename them",
    ),
    "duplicate keys": (
        written(pa.table({"id": [1, 1, 2], "x": [0.5, 1.5, 2.5]})),
        {"key": "id"},
        "id: 1 × duplicate key (rows number 1); make keys unique",
    ),
    "null keys": (
        written(pa.table({"id": [1, None, 2], "x": [0.5, 1.5, 2.5]})),
        {"key": "id"},
        "id: 1 × null key",
    ),
    "empty set": (written(pa.table({"x": pa.array([], pa.float64())})), {}, "has no rows"),
    "header-only CSV": (text(b"a,b\n"), {}, "has no rows; there is nothing to learn from"),
    "ragged": (text(b"a,b\n1\n"), {}, "Expected 2 columns, got 1"),
    "zero bytes": (text(b""), {}, "is empty (0 bytes); write it again"),
    "nested": (
        written(NESTED),
        {},
        "s: ignore, no type that a model reads: s.a.b is int64, s.c[] is double\n"
        "  m: ignore, no type that a model reads: m.key is string, m.value is int64",
    ),
    "nested, and said to be a number": (
        written(NESTED.append_column("x", [[0.5, 1.5, 2.5]])),
        {"overrides": {"s": {"kind": "continuous", "dtype": "double"}}},
        "s: is struct<a: struct<b: int64>, c: list<element: double>>, the contract says double",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_and_how(what: str, tmp_path: Path) -> None:
    """RELIABILITY 2b, duplicate column names, duplicate keys, empty set, header-only CSV,
    ragged, zero bytes, nested."""
    make, settings, message = REFUSED[what]

    with pytest.raises((SourceError, ContractError)) as caught:
        ingest(make(tmp_path), name="t", root=tmp_path / "root", **settings)
    assert message in str(caught.value)
    assert list((tmp_path / "root").rglob("*.parquet")) == []


UTC = datetime.UTC
WALL_CLOCKS: dict[str, tuple[dict[str, Any], datetime.datetime]] = {
    "UTC unless declared": ({}, datetime.datetime(2024, 7, 1, 12, tzinfo=UTC)),
    "declared": (
        {"timezone": "Europe/Berlin"},
        datetime.datetime(2024, 7, 1, 10, tzinfo=UTC),
    ),
}


@pytest.mark.parametrize("what", WALL_CLOCKS)
def test_a_time_without_a_zone_is_of_the_declared_one(what: str) -> None:
    """RELIABILITY 2b, timestamps: a zone is required or declared; what is kept is UTC."""
    settings, expected = WALL_CLOCKS[what]
    noon = datetime.datetime.fromisoformat("2024-07-01T12:00:00")
    column = ColumnContract(
        name="t", kind="timestamp", dtype="timestamp[us, tz=UTC]", **settings
    )
    other = ColumnContract(name="x", kind="continuous", dtype="double")
    contract = Contract(name="t", columns=(column, other))

    assert conform(pa.table({"t": [noon], "x": [1.0]}), contract)["t"].to_pylist() == [expected]


def test_a_wall_clock_that_was_shown_twice_is_refused() -> None:
    """RELIABILITY 2b, timestamps: the hour that summer time ends with could be either."""
    column = ColumnContract(
        name="t", kind="timestamp", dtype="timestamp[us, tz=UTC]", timezone="Europe/Berlin"
    )
    other = ColumnContract(name="x", kind="continuous", dtype="double")
    twice = datetime.datetime.fromisoformat("2024-10-27T02:30:00")

    with pytest.raises(ContractError, match=r"t: is timestamp.*and not every value fits"):
        conform(
            pa.table({"t": [twice], "x": [1.0]}), Contract(name="t", columns=(column, other))
        )


def test_ten_thousand_columns_take_bounded_time(tmp_path: Path) -> None:
    """RELIABILITY 2b, 10,000 columns: surveyed, guessed, checked, split and written."""
    random = np.random.default_rng(0)
    columns = {f"c{k:04d}": random.normal(size=30) for k in range(10_000)}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    started = time.process_time()
    snapshot = ingest(tmp_path / "t.parquet", name="t", root=tmp_path)

    assert len(snapshot.contract.encoded) == 10_000
    assert time.process_time() - started < 30  # 7 s when this was written


def test_a_decompression_bomb_is_told_by_its_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 2b, decompression bomb: 64 MB in a file of some kilobytes, not unpacked."""
    monkeypatch.setenv("LATENTS_QUARANTINE", "off")
    monkeypatch.setattr(data.formats, "FREE_BYTES", 1 << 20)
    bomb = pa.repeat(pa.scalar(bytes(1 << 16), pa.binary(1 << 16)), 1000)
    path = written(pa.table({"x": bomb}), compression="zstd")(tmp_path)
    assert path.stat().st_size < 60_000

    with pytest.raises(SourceError, match=r"would unpack to 65,5\d\d,\d{3}"):
        open_source(path).schema  # noqa: B018


def test_a_table_that_is_merely_large_is_no_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RELIABILITY 2b, decompression bomb: a thousand times the file is let pass."""
    monkeypatch.setattr(data.formats, "FREE_BYTES", 1 << 10)
    path = written(pa.table({"x": np.zeros(100_000)}))(tmp_path)

    assert sum(len(batch) for batch in open_source(path).batches()) == 100_000


def test_publications_of_two_schemas_are_read_by_name(tmp_path: Path) -> None:
    """RELIABILITY 2b, schema evolution: each snapshot and publication has its own schema and
    digest; a contract of another version is another snapshot."""
    table = pa.table({"id": np.arange(60), "x": np.arange(60) * 1.5, "y2": np.arange(60) * 2.5})
    wide = ingest(table, name="t", root=tmp_path)
    narrow = ingest(
        table, name="t", root=tmp_path, overrides={"y2": {"kind": "ignore"}}, contract_version=2
    )

    assert wide.fingerprint != narrow.fingerprint
    assert set(wide.manifest["schema"]) == {"id", "x", "y2", "split"}
    assert set(narrow.manifest["schema"]) == {"id", "x", "split"}
    both = pa.concat_tables([wide.table(), narrow.table()], promote_options="default")
    assert both["y2"].null_count == 60


ODD = {
    "half floats": (pa.array(np.arange(60).astype(np.float16)), "continuous"),
    "durations": (pa.array(np.arange(60), pa.duration("s")), "ignore"),
    "two decimals": (pa.array([Decimal("0.5"), Decimal("1.5")] * 30), "binary"),
    "two bytes": (pa.array([b"a", b"b"] * 30), "ignore"),
    "two times of day": (pa.array([datetime.time(1), datetime.time(2)] * 30), "ignore"),
    "vectors of which some are null": (
        pa.array([[1.5, k] if k % 3 else None for k in range(60)], pa.list_(pa.float64(), 2)),
        "vector",
    ),
    "tiny numbers": (pa.array([0.0, 5e-155, 3e-300] * 20), "continuous"),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_types_are_kept_and_read_back(what: str, tmp_path: Path) -> None:
    """Each of these ended in an error of Arrow's, or in a snapshot that could not be read."""
    values, kind = ODD[what]
    table = pa.table({"id": np.arange(60), "odd": values, "x": np.arange(60) * 1.5})
    snapshot = ingest(table, name="t", root=tmp_path)

    assert snapshot.contract["odd"].kind == kind
    preprocessor = fit_preprocessor(snapshot)
    encoded = preprocessor.transform(snapshot.table())
    if kind != "ignore":
        assert snapshot.table()["odd"].null_count == values.null_count
        parts = pa.Table.from_batches(part_rows(snapshot.parts[0], 7))
        assert parts.equals(snapshot.table())
        assert preprocessor.inverse(encoded.x)["odd"].null_count == values.null_count
    assert drift_of(open_source(table), snapshot, baseline_of(snapshot)).verdict == "stable"


@pytest.mark.parametrize("label", [[datetime.time(1), datetime.time(2)], [b"a", b"b"]])
def test_a_label_of_an_odd_type_travels_along(label: list[Any], tmp_path: Path) -> None:
    table = pa.table({"label": label * 30, "x": np.arange(60) * 1.5})
    snapshot = ingest(table, name="t", root=tmp_path)

    assert snapshot.table()["label"].to_pylist() == label * 30
    assert baseline_of(snapshot).tallies


def test_a_null_among_lists_of_a_fixed_length_is_explained(tmp_path: Path) -> None:
    """Arrow writes such a Parquet file and does not read it back."""
    vectors = pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2))
    path = written(pa.table({"v": vectors}))(tmp_path)

    with pytest.raises(SourceError, match="has a null among lists of a fixed length, which"):
        list(open_source(path).batches())
