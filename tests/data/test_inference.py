from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data.contract import ColumnContract, Contract, SpecError
from data.formats import SourceError
from data.inference import infer_contract
from data.survey import survey

RANDOM = np.random.default_rng(0)
ROWS = 2000


def infer(
    columns: dict[str, Any], metadata: dict[str, str] | None = None, **settings: Any
) -> Contract:
    table = pa.table(columns).replace_schema_metadata(metadata)
    return infer_contract(survey(table.to_batches(), table.schema), name="t", **settings)


def guess(
    values: Any, name: str = "x", metadata: dict[str, str] | None = None
) -> ColumnContract:
    """The contract of one column beside one that can always be encoded."""
    return infer({name: values, "other": RANDOM.normal(size=len(values))}, metadata)[name]


def words(count: int, rows: int = ROWS) -> list[str]:
    return [f"w{value}" for value in RANDOM.integers(0, count, rows)]


def lists(length: int, kind: pa.DataType, rows: int = 50) -> pa.Array:
    values = pa.array(RANDOM.integers(0, 9, rows * length)).cast(kind)
    return pa.FixedSizeListArray.from_arrays(values, length)


SCALARS = {
    "a normal": (RANDOM.normal(size=ROWS), "continuous"),
    "a log-normal": (RANDOM.lognormal(size=ROWS), "positive"),
    "a log-normal with a zero": (np.append(RANDOM.lognormal(size=ROWS), 0), "continuous"),
    "a negative log-normal": (-RANDOM.lognormal(size=ROWS), "continuous"),
    "incomes": (RANDOM.lognormal(10, 1, ROWS).astype(int), "positive"),
    "ages": (RANDOM.integers(18, 90, ROWS), "continuous"),
    "a Poisson of mean 3": (RANDOM.poisson(3, ROWS), "count"),
    "a zero-inflated tail": (
        RANDOM.binomial(1, 0.1, ROWS) * RANDOM.integers(1, 9999, ROWS),
        "count",
    ),
    "counts beyond float32": (
        RANDOM.poisson(3, ROWS) + 2**24 * (np.arange(ROWS) == 0),
        "continuous",
    ),
    "levels": (RANDOM.integers(1, 6, ROWS), "ordinal"),
    "booleans": (RANDOM.integers(0, 2, ROWS).astype(bool), "binary"),
    "zero and one": (RANDOM.integers(0, 2, ROWS), "binary"),
    "two floats": (RANDOM.integers(0, 2, ROWS) * 0.5, "binary"),
    "two words": (words(2), "binary"),
    "words": (words(20), "categorical"),
    "very many words": (words(5000, 10_000), "categorical"),
    "names": ([f"name {row}" for row in range(ROWS)], "ignore"),
    "a permutation": (RANDOM.permutation(ROWS), "ignore"),
    "a constant": (np.ones(ROWS), "ignore"),
    "nothing": (pa.nulls(ROWS, pa.float64()), "ignore"),
    "untyped nothing": (pa.nulls(ROWS), "ignore"),
    "row numbers": (np.arange(ROWS), "key"),
    "times": (pa.array(np.arange(ROWS) * 10**6, pa.timestamp("us")), "timestamp"),
    "structs": (pa.array([{"a": 1}] * ROWS), "ignore"),
}


@pytest.mark.parametrize("what", SCALARS)
def test_kinds_of_scalars(what: str) -> None:
    values, kind = SCALARS[what]
    column = guess(values)

    assert (column.kind, bool(column.why)) == (kind, True)


LISTS = {
    "square bytes": (lists(49, pa.uint8()), None, "pixels", (7, 7, 1)),
    "bytes of a given shape": (lists(48, pa.uint8()), "[8, 6]", "pixels", (8, 6, 1)),
    "colour": (lists(48, pa.uint8()), "[4, 4, 3]", "pixels", (4, 4, 3)),
    "bytes of another shape": (lists(49, pa.uint8()), "[8, 6]", "pixels", (7, 7, 1)),
    "other bytes": (lists(48, pa.uint8()), None, "vector", (None, None, None)),
    "floats": (lists(5, pa.float32()), None, "vector", (None, None, None)),
    "float pixels": (lists(48, pa.float32()), "[8, 6]", "pixels", (8, 6, 1)),
    "varying lists of one length": (
        lists(5, pa.float64()).cast(pa.list_(pa.float64())),
        None,
        "vector",
        (None, None, None),
    ),
    "integers": (lists(5, pa.int16()), None, "count", (None, None, None)),
}


@pytest.mark.parametrize("what", LISTS)
def test_kinds_of_lists(what: str) -> None:
    values, shape, kind, expected = LISTS[what]
    column = guess(values, metadata={"image_shape": shape} if shape else None)

    assert (column.kind, (column.height, column.width, column.channels)) == (kind, expected)
    assert column.entries == values.to_pylist()[0].__len__()


def test_lists_of_different_lengths_are_ignored() -> None:
    assert guess(pa.array([[1.0], [1.0, 2.0]] * 50)).kind == "ignore"


def test_bytes_are_pixels() -> None:
    column = guess(pa.array([bytes(range(9)), bytes(9)] * 50, pa.binary(9)))

    assert (column.kind, column.dtype, column.max, column.entries) == ("pixels", "uint8", 8, 9)


@pytest.mark.parametrize(("brightest", "full"), [(1, 1), (16, 16), (200, 255), (255, 255)])
def test_full_intensity_is_the_type_s_unless_much_less_is_used(
    brightest: int, full: int
) -> None:
    images = pa.array([[0, 0, 0, brightest], [0, 0, 1, 1]], pa.list_(pa.uint8(), 4))

    assert guess(images).max == full


def test_indices_and_counts_are_one_wide_count() -> None:
    contract = infer(
        {
            "word_indices": pa.array([[0, 7], [3], []] * 20, pa.list_(pa.int32())),
            "word_counts": pa.array([[1, 2], [5], []] * 20, pa.list_(pa.int32())),
        }
    )
    counts = contract["word_counts"]

    assert (counts.kind, counts.indices, counts.length) == ("count", "word_indices", 8)
    assert [column.name for column in contract.encoded] == ["word_counts"]


@pytest.mark.parametrize(
    "name",
    ["label", "Label", "TARGET", "labels", "class", "y", "outcome", "response", "label_true"],
)
def test_labels_are_known_by_name(name: str) -> None:
    assert guess(RANDOM.integers(0, 3, ROWS), name).kind == "label"


def test_y_beside_rows_of_x_is_a_label() -> None:
    x = pa.FixedSizeListArray.from_arrays(pa.array(RANDOM.normal(size=3 * ROWS)), 3)
    contract = infer({"x": x, "y": RANDOM.integers(0, 3, ROWS)})

    assert contract["y"].kind == "label"


def test_y_beside_x_is_a_coordinate() -> None:
    contract = infer({"x": RANDOM.normal(size=ROWS), "y": RANDOM.normal(size=ROWS)})

    assert contract["y"].kind == "continuous"


def test_there_is_one_label() -> None:
    contract = infer({"label": words(3), "target": words(3), "x": RANDOM.normal(size=ROWS)})

    assert (contract["label"].kind, contract["target"].kind) == ("label", "carry")


@pytest.mark.parametrize("name", ["id", "ID", "key", "uuid", "customer_id"])
def test_keys_are_known_by_name_if_they_differ(name: str) -> None:
    assert guess([f"k{row}" for row in range(ROWS)], name).kind == "key"
    assert guess(words(20), name).kind == "ignore"


def test_the_first_time_dates_the_row_and_the_second_travels_along() -> None:
    times = pa.array(np.arange(ROWS) * 10**6, pa.timestamp("ns"))
    contract = infer({"a": times, "b": times, "x": RANDOM.normal(size=ROWS)})

    assert (contract.timestamp, contract["b"].kind) == ("a", "carry")
    assert "no time zone" in contract["a"].why
    assert str(contract["a"].stored_type) == "timestamp[us, tz=UTC]"


def test_nulls_are_allowed_where_there_are_some() -> None:
    contract = infer({"a": [1.5, None, np.nan, 3.0], "b": [1.5, 2.5, 3.5, 9.0]})

    assert (contract["a"].nulls, contract["b"].nulls) == ("allow", "refuse")


def test_rare_words_share_a_category() -> None:
    column = guess(words(5000, 10_000))

    assert (len(column.categories or ()), column.other) == (254, True)


def shared(*rows: int) -> list[str]:
    """A text with one value for each number, held by so many rows."""
    return [f"w{value}" for value, count in enumerate(rows) for _ in range(count)]


@pytest.mark.parametrize(
    "texts", [shared(*[1] * 150, *[2] * 50), shared(*[2] * 50)], ids=["names", "pairs"]
)
def test_texts_that_few_rows_share_tell_a_model_nothing(texts: list[str]) -> None:
    """It would learn which row has which: 4 nats a row worse than independent columns."""
    column = guess(texts)

    assert column.kind == "ignore"
    assert "too few rows share one" in column.why


@pytest.mark.parametrize("count", [6000, 20_000])
def test_texts_that_many_rows_share_are_categories_though_a_sample_has_few(count: int) -> None:
    """Postal codes, in a table of which 8,192 rows are looked at one by one."""
    column = guess([f"w{k * 7919 % count}" for k in range(20 * count)])

    assert column.kind == "categorical"
    assert (len(column.categories or ()), column.other) == (254, True)


def test_rare_values_share_a_category_where_rows_are_few() -> None:
    column = guess(shared(*[1] * 20, *[2] * 20, 3, 40, *[9] * 5))

    assert column.kind == "categorical"
    assert column.categories == ("w40", "w41", "w42", "w43", "w44", "w45", "w46")
    assert column.other
    assert "the rarer ones share one category" in column.why


@pytest.mark.parametrize(
    "rows", [[1, *[9] * 15, 2], [*[30] * 40, 1]], ids=["few values", "many rows of each"]
)
def test_a_rare_value_stays_one_where_values_are_few_or_rows_many(rows: list[int]) -> None:
    column = guess(shared(*rows))

    assert len(column.categories or ()) == len(rows)
    assert not column.other


def test_the_same_table_gives_the_same_contract() -> None:
    columns = {"a": RANDOM.normal(size=ROWS), "b": words(5), "c": RANDOM.poisson(2, ROWS)}

    assert infer(columns).digest == infer(columns).digest


def test_a_person_s_settings_come_first() -> None:
    contract = infer(
        {"a": RANDOM.integers(0, 50, ROWS), "b": words(3), "c": RANDOM.normal(size=ROWS)},
        key="b",
        label="c",
        overrides={"a": {"kind": "ordinal", "nulls": "allow", "max_unknown": 0.5}},
    )

    assert (contract.key, contract.label) == ("b", "c")
    assert contract["a"].categories == tuple(range(50))
    assert (contract["a"].nulls, contract["a"].max_unknown) == ("allow", 0.5)
    assert contract["a"].why == "the spec says so"


def test_categories_of_the_spec_are_taken_as_they_are() -> None:
    sizes = ["small", "large", "medium"] * 50
    contract = infer(
        {"a": sizes},
        overrides={"a": {"kind": "ordinal", "categories": ["small", "medium", "large"]}},
    )

    assert contract["a"].categories == ("small", "medium", "large")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"key": "idd"}, "columns: unknown key 'idd'; did you mean 'id'?"),
        (
            {"overrides": {"a": {"knd": "count"}}},
            "columns.a: unknown key 'knd'; did you mean 'kind'?",
        ),
        (
            {"overrides": {"a": {"kind": "contin"}}},
            "columns.a: unknown kind 'contin'; did you mean 'continuous'?",
        ),
        (
            {"overrides": {"a": {"nulls": "maybe"}}},
            "column 'a': nulls must be 'allow' or 'refuse', not 'maybe'",
        ),
    ],
)
def test_a_wrong_setting_gets_the_near_miss(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        infer({"a": RANDOM.normal(size=ROWS), "id": np.arange(ROWS)}, **settings)
    assert str(caught.value) == message


def test_a_table_without_a_usable_column_says_why() -> None:
    with pytest.raises(SourceError) as caught:
        infer({"id": [1, 2, 3], "same": ["a", "a", "a"], "empty": pa.nulls(3, pa.string())})
    assert str(caught.value) == (
        "'t' has no usable column:\n"
        "  id: key, its name says so, and its values differ\n"
        "  same: ignore, every cell that is not null holds the same value\n"
        "  empty: ignore, every cell is null\n"
        "Add a column that varies from row to row, or give one its kind."
    )


def test_a_contract_survives_json() -> None:
    contract = infer(
        {
            "id": np.arange(ROWS),
            "a": words(5),
            "b": RANDOM.integers(0, 2, ROWS).astype(bool),
            "c": pa.FixedSizeListArray.from_arrays(
                pa.array(RANDOM.integers(0, 255, 4 * ROWS), pa.uint8()), 4
            ),
        }
    )

    assert Contract.from_json(contract.to_json()) == contract
    assert Contract.from_json(contract.to_json()).digest == contract.digest
