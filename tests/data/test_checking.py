from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.checking import Breach, Checker, ContractError, check, conform
from data.contract import ColumnContract, Contract

LOANS = Contract(
    name="loans",
    columns=(
        ColumnContract(name="id", kind="key", dtype="int64"),
        ColumnContract(name="age", kind="continuous", dtype="int64", min=0, max=130),
        ColumnContract(name="income", kind="positive", dtype="double", nulls="allow"),
        ColumnContract(name="job", kind="categorical", dtype="string", categories=("a", "b")),
        ColumnContract(name="married", kind="binary", dtype="string", categories=("no", "yes")),
        ColumnContract(name="memo", kind="ignore", dtype="string"),
    ),
)
TYPES = {column.name: column.dtype for column in LOANS.columns if column.kind != "ignore"}
GOOD: dict[str, list[Any]] = {
    "id": [10, 11, 12],
    "age": [1, 50, 130],
    "income": [1.0, None, 3.0],
    "job": ["a", "b", "a"],
    "married": ["no", "yes", "no"],
}


def one(kind: str, **settings: Any) -> Contract:
    column = ColumnContract(**{"name": "x", "kind": kind, "dtype": "double", **settings})
    return Contract(name="one", columns=(column,))


def found(table: pa.Table, contract: Contract) -> dict[str, int]:
    return {breach.code: breach.count for breach in check(table, contract)}


def test_a_table_that_keeps_its_contract_has_no_breach() -> None:
    assert check(pa.table(GOOD), LOANS) == []


def test_every_breach_is_reported_at_once_by_key_and_without_values() -> None:
    table = pa.table(
        {
            **GOOD,
            "id": [10, 11, 11],
            "age": [-4, 50, 200],
            "job": ["a", "zebra", "quokka"],
            "married": ["no", "maybe", None],
            "incomes": [1.0, 2.0, 3.0],
        }
    ).drop_columns("income")

    with pytest.raises(ContractError) as caught:
        conform(table, LOANS, source="loans.csv")
    assert str(caught.value) == (
        "loans.csv breaks contract 'loans' (version 1) in 7 places:\n"
        "  age: 1 × below min (rows 10); correct them, lower min, or set outside = 'clip'\n"
        "  age: 1 × above max (rows 11); correct them, raise max, or set outside = 'clip'\n"
        "  income: missing; did you mean 'incomes'?\n"
        "  job: 2 × unknown category (rows 11, 11); "
        "correct them, add them to categories, or raise max_unknown\n"
        "  married: 1 × null (rows 11); fill them, or set nulls = 'allow'\n"
        "  married: 1 × unknown category (rows 11); "
        "correct them, add them to categories, or raise max_unknown\n"
        "  id: 1 × duplicate key (rows number 2); "
        "make keys unique, or leave key out to number the rows\n"
        "Correct the source, or change the contract and raise its version."
    )


def test_five_rows_are_shown_and_all_are_counted() -> None:
    breach = check(pa.table({"x": -np.arange(1.0, 9)}), one("continuous", min=0))[0]

    assert (breach.count, breach.rows) == (8, ("0", "1", "2", "3", "4"))
    assert "(rows 0, 1, 2, 3, 4, ...)" in str(breach)


@given(st.lists(st.none() | st.integers(-3, 12), min_size=1), st.integers(1, 10))
def test_chunks_change_neither_breaches_nor_rows(values: list[int | None], rows: int) -> None:
    contract = one("continuous", dtype="int64", min=0, max=9)
    table = pa.table({"x": pa.array(values, pa.int64())})
    checker = Checker(contract)
    for start in range(0, len(table), rows):
        checker.add(table.slice(start, rows))

    assert checker.breaches() == check(table, contract)


ROWS = st.fixed_dictionaries(
    {
        "id": st.none() | st.integers(0, 9),
        "age": st.none() | st.integers(-9, 140),
        "income": st.none() | st.floats(-1, 9),
        "job": st.sampled_from(["a", "b", "c"]),
        "married": st.sampled_from(["no", "yes", "maybe"]),
    }
)


@given(st.lists(ROWS, min_size=1), st.integers(0, 30))
def test_checkers_of_two_halves_merge_to_that_of_the_whole(
    rows: list[dict[str, Any]], cut: int
) -> None:
    """Down to the numbers of the rows, on which duplicate keys are reported."""
    table = pa.Table.from_pylist(rows, schema=pa.schema(TYPES))
    whole, first, second = (
        Checker(LOANS, first_row=start) for start in (0, 0, len(table.slice(0, cut)))
    )
    whole.add(table)
    first.add(table.slice(0, cut))
    second.add(table.slice(cut))
    first.merge(second)

    assert first.breaches() == whole.breaches()
    assert (first.tolerated(), first.failed) == (whole.tolerated(), whole.failed)
    assert (first.rows, first.all_null()) == (whole.rows, whole.all_null())


BREACHES = {
    "null": (one("continuous"), [1.0, None]),
    "infinite": (one("continuous", nulls="allow"), [1.0, -np.inf]),
    "below_min": (one("continuous", min=0), [1.0, -1.0]),
    "above_max": (one("continuous", max=2), [1.0, 3.0]),
    "not_positive": (one("positive"), [1.0, 0.0]),
    "negative": (one("count"), [1.0, -1.0]),
    "fraction": (one("count"), [1.0, 0.5]),
    "too_large": (one("count"), [1.0, 2.0**24 + 2]),
    "unknown_category": (one("categorical", dtype="string", categories=("a",)), ["a", "b"]),
}


@pytest.mark.parametrize("code", BREACHES)
def test_each_breach_has_its_code(code: str) -> None:
    contract, values = BREACHES[code]

    assert found(pa.table({"x": values}), contract) == {code: 1}


def test_a_nan_is_a_null() -> None:
    assert found(pa.table({"x": [1.0, np.nan]}), one("continuous")) == {"null": 1}


def test_unseen_categories_are_let_pass_up_to_a_share_and_counted() -> None:
    contract = one("categorical", dtype="string", categories=("a",), max_unknown=0.05)
    checker = Checker(contract)
    checker.add(pa.table({"x": ["a"] * 95 + ["b"] * 5}))

    assert (checker.breaches(), checker.tolerated()) == ([], {"x.unknown": 5})
    assert found(pa.table({"x": ["a"] * 94 + ["b"] * 6}), contract) == {"unknown_category": 6}


def test_rare_categories_may_be_anything() -> None:
    contract = one("categorical", dtype="string", categories=("a",), other=True)

    assert check(pa.table({"x": ["b", "c"]}), contract) == []


def test_a_third_value_in_a_binary_column_is_never_let_pass() -> None:
    contract = one("binary", dtype="string", categories=("a", "b"))

    assert found(pa.table({"x": ["a"] * 1000 + ["c"]}), contract) == {"unknown_category": 1}


def test_a_null_key_is_a_breach() -> None:
    table = pa.table({**GOOD, "id": [None, 11, 12]})

    assert found(table, LOANS) == {"null_key": 1}


def test_order_and_extra_columns_change_nothing() -> None:
    table = pa.table(GOOD)
    shuffled = table.select(["married", "age", "id", "job", "income"])
    shuffled = shuffled.append_column("extra", [["x", "y", "z"]])

    assert conform(shuffled, LOANS).equals(conform(table, LOANS))


def test_extra_columns_are_listed() -> None:
    checker = Checker(LOANS)
    checker.add(pa.table({**GOOD, "extra": [1, 2, 3]}))

    assert checker.extra == ["extra"]


SPARSE = Contract(
    name="sparse",
    columns=(
        ColumnContract(name="counts", kind="count", dtype="int32", indices="at", length=5),
        ColumnContract(name="at", kind="ignore", dtype="int32"),
    ),
)


@pytest.mark.parametrize(
    ("at", "counts"),
    [([5], [1]), ([-1], [1]), ([1, 2], [1]), ([0], [-1]), ([0], [2**24 + 1]), (None, [1])],
)
def test_bad_places_of_sparse_counts_are_found(at: list[int] | None, counts: list[int]) -> None:
    table = pa.table(
        {
            "at": pa.array([[0, 4], at], pa.list_(pa.int64())),
            "counts": pa.array([[1, 2], counts], pa.list_(pa.int64())),
        }
    )
    breaches = check(table, SPARSE)

    assert [(breach.code, breach.rows) for breach in breaches] == [("bad_places", ("1",))]


def test_the_contract_of_the_inputs_needs_neither_key_nor_label() -> None:
    table = pa.table(GOOD).drop_columns("id")

    assert conform(table, LOANS.inputs).column_names == ["age", "income", "job", "married"]


def test_a_breach_reads_as_a_sentence() -> None:
    breach = Breach(column="x", code="above_max", count=1, rows=("7",), advice="correct them")

    assert str(breach) == "x: 1 × above max (rows 7); correct them"
