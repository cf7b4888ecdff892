from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.profile import Profile
from data.survey import DISTINCT, SAMPLE_ROWS, Survey, survey

tables = st.lists(
    st.fixed_dictionaries(
        {
            "number": st.none() | st.floats(-1e6, 1e6),
            "whole": st.none() | st.integers(-5, 5),
            "text": st.none() | st.sampled_from(["a", "b", "c"]),
            "image": st.lists(st.integers(0, 255), min_size=4, max_size=4),
            "places": st.lists(st.integers(0, 9)),
        }
    ),
    min_size=1,
    max_size=30,
).map(
    lambda rows: pa.Table.from_pylist(
        rows,
        schema=pa.schema(
            {
                "number": pa.float64(),
                "whole": pa.int64(),
                "text": pa.string(),
                "image": pa.list_(pa.uint8(), 4),
                "places": pa.list_(pa.int32()),
            }
        ),
    )
)


def profile_of(table: pa.Table, rows: int = 1000) -> Profile:
    return survey(table.to_batches(max_chunksize=rows), table.schema).profile()


def rounded(value: Any) -> Any:
    """Moments are sums: equal up to rounding, all else exactly."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-9, abs=1e-9)
    return value


@given(tables, st.integers(1, 30))
def test_chunks_do_not_change_a_profile(table: pa.Table, rows: int) -> None:
    whole, chunked = profile_of(table), profile_of(table, rows)

    for one, other in zip(whole.columns, chunked.columns, strict=True):
        assert {k: rounded(v) for k, v in vars(one).items()} == vars(other)


def test_both_zeros_are_one_value() -> None:
    column = profile_of(pa.table({"number": [0.0, -0.0, 0.0]})).columns[0]

    assert column.distinct == 1
    assert column.top == ((0.0, 3),)


@given(tables, st.integers(0, 30))
def test_surveys_of_two_halves_merge_to_the_whole(table: pa.Table, cut: int) -> None:
    first, second = Survey(table.schema), Survey(table.schema, first_row=min(cut, len(table)))
    for part, rows in ((first, table.slice(0, cut)), (second, table.slice(cut))):
        for batch in rows.to_batches():
            part.add(batch)
    first.merge(second)

    for one, other in zip(profile_of(table).columns, first.profile().columns, strict=True):
        assert {k: rounded(v) for k, v in vars(one).items()} == vars(other)


def test_the_sample_does_not_depend_on_chunks_and_is_uniform() -> None:
    """40,000 rows, 8,192 kept: in a tenth of the rows the share kept is within 3.29 standard
    errors (0.2048 ± 3.29 · 0.0064). See Note [Statistical tests]."""
    table = pa.table({"row": np.arange(40_000)})
    samples = [
        survey(table.to_batches(max_chunksize=rows), table.schema).sample["row"].to_pylist()
        for rows in (40_000, 7_777, 1_000)
    ]

    assert samples[0] == samples[1] == samples[2]
    assert len(samples[0]) == SAMPLE_ROWS
    shares = np.histogram(samples[0], bins=10, range=(0, 40_000))[0] / 4000
    assert np.all(np.abs(shares - 0.2048) < 3.29 * 0.0064)


def test_nan_is_null_and_infinity_is_counted() -> None:
    column = profile_of(pa.table({"x": [1.0, None, np.nan, np.inf, 3.0]}))["x"]

    assert (column.rows, column.nulls, column.infinite) == (5, 2, 1)
    assert (column.min, column.max, column.mean) == (1.0, 3.0, 2.0)


def test_many_values_are_not_counted_one_by_one() -> None:
    table = pa.table({"x": np.arange(DISTINCT + 1), "y": [str(i) for i in range(DISTINCT + 1)]})
    profile = profile_of(table, rows=1000)

    assert profile["x"].distinct is profile["y"].distinct is None
    assert profile["x"].top == ()
    assert profile["y"].top_estimated


def test_top_values_are_the_most_frequent_first() -> None:
    words = ["b"] * 3 + ["a"] * 5 + ["c"] * 3
    column = profile_of(pa.table({"x": words}), rows=2)["x"]

    assert column.top == (("a", 5), ("b", 3), ("c", 3))
    assert Counter(dict(column.top)).total() == 11


@pytest.mark.parametrize(
    ("values", "counts"),
    [
        ([0, 1, 2, 3], True),
        ([7, 8, 9], True),
        ([0, 1, 3, 2], False),
        ([0, 1, 1, 2], False),
        ([0, 2, 4], False),
        ([0, 1, None, 3], False),
        ([3], False),
    ],
)
@pytest.mark.parametrize("rows", [1, 2, 10])
def test_a_column_that_counts_rows_is_known(
    values: list[int | None], counts: bool, rows: int
) -> None:
    assert profile_of(pa.table({"x": values}), rows)["x"].counts_rows == counts


def test_pixels_are_described_by_their_levels() -> None:
    images = pa.array([[0, 255, 250, 128], [0, 0, 255, 0]], pa.list_(pa.uint8(), 4))
    column = profile_of(pa.table({"x": images}))["x"]

    assert column.near_extreme == 7 / 8
    assert column.two_values is False
    assert column.mean_image == (0.0, 127.5, 252.5, 64.0)
    assert column.lengths == (4, 4)


def test_bytes_and_lists_of_bytes_are_the_same_pixels() -> None:
    lists = pa.array([[0, 1], [2, 3]], pa.list_(pa.uint8(), 2))
    binary = pa.array([b"\x00\x01", b"\x02\x03"], pa.binary(2))
    one, other = (
        profile_of(pa.table({"x": lists}))["x"],
        profile_of(pa.table({"x": binary}))["x"],
    )

    assert one.mean_image == other.mean_image
    assert (one.min, one.max, one.mean) == (other.min, other.max, other.mean)


@given(tables)
def test_a_profile_survives_json(table: pa.Table) -> None:
    profile = profile_of(table)

    assert Profile.from_json(profile.to_json()) == profile
