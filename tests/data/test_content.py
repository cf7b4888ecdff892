import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.content import ContentDigest, content_digest

cells = st.one_of(
    st.lists(st.none() | st.integers(-(2**40), 2**40)).map(lambda v: pa.array(v, pa.int64())),
    st.lists(st.none() | st.text()).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.none() | st.booleans()).map(lambda v: pa.array(v, pa.bool_())),
    st.lists(st.none() | st.binary(min_size=3, max_size=3)).map(
        lambda v: pa.array(v, pa.binary(3))
    ),
    st.lists(st.none() | st.lists(st.none() | st.integers(0, 9))).map(
        lambda v: pa.array(v, pa.list_(pa.int32()))
    ),
    st.lists(st.none() | st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2)).map(
        lambda v: pa.array(v, pa.list_(pa.float32(), 2))
    ),
    st.lists(st.none() | st.fixed_dictionaries({"a": st.none() | st.text()})).map(
        lambda v: pa.array(v, pa.struct({"a": pa.string()}))
    ),
)


@given(cells, st.integers(1, 5))
def test_chunks_do_not_change_the_digest(column: pa.Array, rows: int) -> None:
    table = pa.table({"x": column})
    digest = ContentDigest(table.schema)
    for start in range(0, len(table), rows):
        digest.add(table.slice(start, rows))

    assert digest.hexdigest() == content_digest(table)


@given(cells)
def test_a_slice_has_the_digest_of_its_copy(column: pa.Array) -> None:
    part = column.slice(1, max(0, len(column) - 2))
    copy = pa.array(part.to_pylist(), part.type)

    assert content_digest(pa.table({"x": part})) == content_digest(pa.table({"x": copy}))


@given(cells, st.data())
def test_another_order_is_another_digest(column: pa.Array, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(column))))
    other = column.take(pa.array(order, pa.int64()))

    same = content_digest(pa.table({"x": column})) == content_digest(pa.table({"x": other}))
    assert same == (column.to_pylist() == other.to_pylist())


def test_bytes_under_a_null_do_not_count() -> None:
    mask = np.array([False, True])
    one = pa.array(np.array([1, 2]), mask=mask)
    other = pa.array(np.array([1, 3]), mask=mask)

    assert content_digest(pa.table({"x": one})) == content_digest(pa.table({"x": other}))


def test_a_dictionary_says_the_same_as_its_values() -> None:
    plain = pa.array(["a", "b", "a"])
    tables = [
        pa.table({"x": column})
        for column in (plain, plain.dictionary_encode(), plain.cast(pa.large_string()))
    ]

    assert len({content_digest(table) for table in tables}) == 1


@pytest.mark.parametrize(
    "other",
    [
        pa.table({"y": [1, 2]}),
        pa.table({"x": pa.array([1, 2], pa.int32())}),
        pa.table({"x": [1, 2, 2]}),
        pa.table({"x": [1, None]}),
        pa.table({"x": [1, 2], "y": [1, 2]}),
    ],
)
def test_names_types_and_cells_count(other: pa.Table) -> None:
    assert content_digest(other) != content_digest(pa.table({"x": [1, 2]}))


def test_text_cannot_move_from_cell_to_cell() -> None:
    one, other = pa.table({"x": ["ab", "c"]}), pa.table({"x": ["a", "bc"]})

    assert content_digest(one) != content_digest(other)
