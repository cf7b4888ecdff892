import datetime
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.checking import conform
from data.contract import TIMESTAMP, ColumnContract, Contract
from data.preprocessing import Preprocessor, fit
from data.publication import FormatError

RANDOM = np.random.default_rng(0)
UTC, SECOND = datetime.UTC, datetime.timedelta(seconds=1)
MONDAY = datetime.datetime(1970, 1, 5, tzinfo=UTC)  # in whose week a time of the week is told


def contract(*columns: ColumnContract) -> Contract:
    return Contract(name="t", columns=columns)


MIXED = contract(
    ColumnContract(name="id", kind="key", dtype="int64"),
    ColumnContract(name="a", kind="continuous", dtype="double", nulls="allow"),
    ColumnContract(name="n", kind="continuous", dtype="int32", nulls="allow"),
    ColumnContract(name="p", kind="positive", dtype="double", nulls="allow"),
    ColumnContract(
        name="b", kind="binary", dtype="bool", categories=(False, True), nulls="allow"
    ),
    ColumnContract(
        name="c", kind="categorical", dtype="string", categories=("u", "v", "w"), nulls="allow"
    ),
    ColumnContract(name="o", kind="ordinal", dtype="int8", categories=(1, 2, 5), nulls="allow"),
    ColumnContract(name="k", kind="count", dtype="int64", nulls="allow"),
    ColumnContract(
        name="i",
        kind="pixels",
        dtype="uint8",
        height=2,
        width=1,
        channels=1,
        max=255,
        nulls="allow",
    ),
    ColumnContract(name="v", kind="vector", dtype="double", length=2, nulls="allow"),
    ColumnContract(
        name="s", kind="count", dtype="int32", length=4, indices="at", nulls="allow"
    ),
    ColumnContract(name="at", kind="ignore", dtype="int32"),
    ColumnContract(
        name="q", kind="continuous", dtype="double", scaling="quantile", nulls="allow"
    ),
    ColumnContract(
        name="r", kind="positive", dtype="double", scaling="quantile", nulls="allow"
    ),
    ColumnContract(
        name="t",
        kind="timestamp",
        dtype="timestamp[us, tz=UTC]",
        cycles=("day", "week"),
        nulls="allow",
    ),
)


def cell(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> Any:
    return draw(st.none() | values)


@st.composite
def mixed_rows(draw: st.DrawFn) -> dict[str, Any]:
    sparse = cell(draw, st.dictionaries(st.integers(0, 3), st.integers(1, 999)))
    number = st.floats(-1e6, 1e6)
    return {
        "a": cell(draw, number),
        "n": cell(draw, st.integers(-(2**20), 2**20)),
        "p": cell(draw, st.floats(1e-6, 1e6)),
        "b": cell(draw, st.booleans()),
        "c": cell(draw, st.sampled_from("uvw")),
        "o": cell(draw, st.sampled_from([1, 2, 5])),
        "k": cell(draw, st.integers(0, 2**24)),
        "i": cell(draw, st.binary(min_size=2, max_size=2)),
        "v": cell(draw, st.lists(number, min_size=2, max_size=2)),
        "at": None if sparse is None else sorted(sparse),
        "s": None if sparse is None else [sparse[place] for place in sorted(sparse)],
        "q": cell(draw, number),
        "r": cell(draw, st.floats(1e-3, 1e3)),
        "t": cell(draw, st.integers(0, 7 * 86_399).map(lambda s: MONDAY + s * SECOND)),
    }


def mixed(rows: list[dict[str, Any]]) -> pa.Table:
    numbered = [{"id": number, **row} for number, row in enumerate(rows)]
    fields = [(column.name, column.stored_type) for column in MIXED.kept]
    schema = pa.schema([*fields, ("at", pa.list_(pa.int32()))])
    return conform(pa.Table.from_pylist(numbered, schema=schema), MIXED)


tables = st.lists(mixed_rows(), min_size=1, max_size=7).map(mixed)


def close(one: Any, other: Any) -> bool:
    """Equal to float32's precision of the spread: 1e6 / 2**24, and a little more."""
    if one is None or other is None or isinstance(one, bool | str | bytes):
        return bool(one == other)
    if isinstance(one, datetime.datetime):
        return bool(abs(one - other) < datetime.timedelta(seconds=1))
    if isinstance(one, list):
        return all(map(close, one, other))
    return bool(np.isclose(one, other, rtol=1e-4, atol=1.0))


@given(tables)
def test_decoding_what_was_encoded_gives_the_table_back(table: pa.Table) -> None:
    """Exactly for codes, counts and pixels; to float32's precision of the spread for numbers."""
    preprocessor = fit([table], MIXED)
    back = preprocessor.inverse(preprocessor.transform(table).x)

    for name in back.column_names:
        assert back[name].type == table[name].type
        pairs = zip(table[name].to_pylist(), back[name].to_pylist(), strict=True)
        exact = name in ("b", "c", "o", "k", "i", "s", "at")
        assert all(one == other if exact else close(one, other) for one, other in pairs)


@given(tables, st.integers(1, 7))
def test_a_row_is_encoded_alone(table: pa.Table, rows: int) -> None:
    preprocessor = fit([table], MIXED)
    parts = [preprocessor.transform(table.slice(k, rows)).x for k in range(0, len(table), rows)]

    np.testing.assert_array_equal(np.concatenate(parts), preprocessor.transform(table).x)


@given(tables, st.integers(1, 7))
def test_fitting_in_batches_is_fitting_at_once(table: pa.Table, rows: int) -> None:
    whole = fit([table], MIXED)
    parts = fit((table.slice(k, rows) for k in range(0, len(table), rows)), MIXED)

    for one, other in zip(whole.columns, parts.columns, strict=True):
        assert one.shift == pytest.approx(other.shift, rel=1e-9, abs=1e-9)
        assert one.scale == pytest.approx(other.scale, rel=1e-6, abs=1e-9)
        assert one.mean == pytest.approx(other.mean, rel=1e-9, abs=1e-9)


@given(tables)
def test_a_preprocessor_survives_json(table: pa.Table) -> None:
    preprocessor = fit([table], MIXED)
    read = Preprocessor.from_json(preprocessor.to_json())

    assert read == preprocessor
    assert read.digest == preprocessor.digest
    np.testing.assert_array_equal(read.transform(table).x, preprocessor.transform(table).x)


def test_columns_lie_side_by_side_in_the_contract_s_order() -> None:
    row = {"a": 1.0, "n": 2, "p": 3.0, "b": True, "c": "v", "o": 5, "k": 7, "i": b"\1\2"}
    preprocessor = fit([mixed([{**row, "v": [1.0, 2.0], "at": [1], "s": [9]}])], MIXED)

    starts = [(column.name, column.start, column.width) for column in preprocessor.columns]
    assert starts == [
        ("a", 0, 1), ("n", 1, 1), ("p", 2, 1), ("b", 3, 1), ("c", 4, 1),
        ("o", 5, 1), ("k", 6, 1), ("i", 7, 2), ("v", 9, 2), ("s", 11, 4),
        ("q", 15, 1), ("r", 16, 1), ("t", 17, 4),
    ]  # fmt: skip
    assert preprocessor.features == 21
    table = mixed([{**row, "v": [1.0, 2.0], "at": [1], "s": [9]}])
    expected = [0, 0, 0, 1, 1, 2, 7, 1, 2, 0, 0, 0, 9, 0, 0]
    np.testing.assert_array_equal(preprocessor.transform(table).x[:, :15], [expected])


def test_a_time_is_encoded_only_where_the_contract_says_so() -> None:
    times = pa.table({"t": pa.array([0], TIMESTAMP), "x": [1.0]})
    dated = ColumnContract(name="t", kind="timestamp", dtype="timestamp[us, tz=UTC]")
    number = ColumnContract(name="x", kind="continuous", dtype="double")

    assert fit([times], contract(dated, number)).features == 1
    cyclic = replace(dated, cycles=("day",))
    preprocessor = fit([times], contract(cyclic, number))
    np.testing.assert_allclose(preprocessor.transform(times).x, [[0, 1, 0]], atol=1e-6)
    column = preprocessor.columns[0]
    assert (column.kind, column.shift, column.scale, column.width) == ("vector", 0, 1, 2)


def test_quantile_scaling_makes_a_long_tail_normal() -> None:
    values = RANDOM.exponential(size=2000) ** 3
    table = pa.table({"x": values})
    scaled = contract(
        ColumnContract(name="x", kind="continuous", dtype="double", scaling="quantile")
    )
    x = fit([table], scaled).transform(table).x[:, 0]

    assert abs(np.median(x)) < 0.05
    assert x.std() == pytest.approx(1, abs=0.1)


def test_a_constant_is_not_scaled_by_quantiles() -> None:
    scaled = contract(
        ColumnContract(name="x", kind="continuous", dtype="double", scaling="quantile")
    )
    table = pa.table({"x": [3.0] * 5})
    preprocessor = fit([table], scaled)

    assert preprocessor.columns[0].constant
    np.testing.assert_array_equal(preprocessor.transform(table).x, np.zeros((5, 1)))


NUMBER = contract(ColumnContract(name="x", kind="continuous", dtype="double"))
POSITIVE = contract(ColumnContract(name="x", kind="positive", dtype="double"))


def test_numbers_are_standardized_over_the_rows_fitted_on() -> None:
    table = pa.table({"x": RANDOM.normal(5, 3, 1000)})
    preprocessor = fit([table], NUMBER)
    x = preprocessor.transform(table).x

    assert x.mean() == pytest.approx(0, abs=1e-6)
    assert x.std() == pytest.approx(1, abs=1e-6)
    column = preprocessor.columns[0]
    np.testing.assert_allclose(column.shift + column.scale * x[:, 0], table["x"], rtol=1e-5)


def test_positive_numbers_are_standardized_as_logarithms() -> None:
    table = pa.table({"x": RANDOM.lognormal(5, 3, 1000)})
    preprocessor = fit([table], POSITIVE)
    column, x = preprocessor.columns[0], preprocessor.transform(table).x

    assert column.log
    np.testing.assert_allclose(
        np.exp(column.shift + column.scale * x[:, 0]), table["x"], rtol=1e-4
    )


@pytest.mark.parametrize("value", [0.0, 1e9 / 3, -7.25])
def test_a_constant_column_is_scaled_by_one_and_marked(value: float) -> None:
    """RELIABILITY 2b, zero variance: no division by zero, and the manifest can list it."""
    preprocessor = fit([pa.table({"x": [value] * 7})], NUMBER)

    assert (preprocessor.columns[0].scale, preprocessor.columns[0].constant) == (1.0, True)
    np.testing.assert_array_equal(preprocessor.transform(pa.table({"x": [value]})).x, [[0]])


def test_a_value_too_far_out_for_float32_is_missing_and_counted() -> None:
    """RELIABILITY 2b, wrong dtype: a cast to float32 gives inf without an error."""
    preprocessor = fit([pa.table({"x": [0.0, 1.0]})], NUMBER)
    encoded = preprocessor.transform(pa.table({"x": [1e300, 1.0]}))

    assert np.isnan(encoded.x[0, 0])
    assert encoded.counts == {"x.overflow": 1}


def test_vectors_are_standardized_entry_by_entry_and_keep_their_volume() -> None:
    columns = contract(ColumnContract(name="x", kind="vector", dtype="double", length=3))
    values = RANDOM.normal([1, 2, 3], [0.1, 1, 10], (500, 3))
    table = pa.table({"x": pa.array(values.tolist(), pa.list_(pa.float64(), 3))})
    preprocessor = fit([table], columns)
    column, x = preprocessor.columns[0], preprocessor.transform(table).x

    np.testing.assert_allclose(x.std(0), 1, rtol=1e-5)
    assert 3 * np.log(column.scale) == pytest.approx(np.log(values.std(0)).sum())


def test_only_bytes_stay_bytes() -> None:
    images = contract(
        ColumnContract(
            name="x", kind="pixels", dtype="uint8", height=2, width=1, channels=1, max=255
        )
    )
    table = pa.table({"x": pa.array([b"\0\1", b"\2\xff"], pa.binary(2))})
    x = fit([table], images).transform(table).x

    assert x.dtype == np.uint8
    assert (x.flags.c_contiguous, x.flags.writeable) == (True, True)
    np.testing.assert_array_equal(x, [[0, 1], [2, 255]])
    assert fit([table], images).columns[0].mean == (1.0, 128.0)


def test_unseen_categories_are_missing_and_rare_ones_share_a_code() -> None:
    words: dict[str, Any] = {
        "name": "x",
        "kind": "categorical",
        "dtype": "string",
        "categories": ("a", "b"),
    }
    closed = contract(ColumnContract(**words))
    opened = contract(ColumnContract(**words, other=True))
    seen, new = pa.table({"x": ["a", "b", "b", "b"]}), pa.table({"x": ["b", "c"]})

    encoded = fit([seen], closed).transform(new)
    np.testing.assert_array_equal(encoded.x, [[1], [np.nan]])
    assert encoded.counts == {"x.unknown": 1}
    assert fit([seen], closed).columns[0].mean == (0.25, 0.75)

    encoded = fit([seen], opened).transform(new)
    np.testing.assert_array_equal(encoded.x, [[1], [2]])
    assert encoded.counts == {"x.other": 1}
    assert fit([seen], opened).columns[0].categories == ("a", "b", "(other)")


def test_nulls_are_nan_and_counted() -> None:
    nullable = contract(
        ColumnContract(name="x", kind="continuous", dtype="double", nulls="allow")
    )
    preprocessor = fit([pa.table({"x": [1.0, None, 3.0]})], nullable)
    encoded = preprocessor.transform(pa.table({"x": [None, 3.0]}))

    np.testing.assert_array_equal(encoded.x, [[np.nan], [1]])
    assert encoded.counts == {"x.null": 1}
    assert (preprocessor.columns[0].shift, preprocessor.columns[0].missing) == (2.0, True)


def test_no_rows_encode_to_no_rows() -> None:
    preprocessor = fit([pa.table({"x": [1.0, 2.0]})], NUMBER)

    assert preprocessor.transform(pa.table({"x": pa.array([], pa.float64())})).x.shape == (0, 1)


def test_fitting_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="the train split has no rows"):
        fit([], NUMBER)


def test_a_preprocessor_of_another_format_is_refused() -> None:
    with pytest.raises(FormatError, match="the preprocessor is 'unmarked' version 0"):
        Preprocessor.from_json("{}")
