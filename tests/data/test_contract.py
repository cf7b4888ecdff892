from typing import Any

import pytest

from data.contract import ColumnContract, Contract, SpecError, UnknownNameError
from data.publication import FormatError

NUMBER = ColumnContract(name="x", kind="continuous", dtype="double", why="numbers")


def contract(*columns: ColumnContract, name: str = "t") -> Contract:
    return Contract(name=name, columns=columns or (NUMBER,))


def test_reasons_are_no_part_of_the_digest() -> None:
    other = ColumnContract(name="x", kind="continuous", dtype="double", why="because")

    assert contract(other).digest == contract().digest


@pytest.mark.parametrize(
    "other",
    [
        {"name": "y"},
        {"kind": "positive"},
        {"dtype": "float"},
        {"nulls": "allow"},
        {"min": 0},
        {"max_unknown": 0.1},
    ],
)
def test_all_else_is(other: dict[str, Any]) -> None:
    changed = ColumnContract(**{"name": "x", "kind": "continuous", "dtype": "double", **other})

    assert contract(changed).digest != contract().digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "catgorical"}, "unknown kind 'catgorical'; did you mean 'categorical'?"),
        ({"kind": "binary"}, "is binary and needs its categories"),
        ({"kind": "pixels", "height": 2}, "pixels need height, width and channels"),
        ({"kind": "vector"}, "a vector needs its length"),
        ({"nulls": "no"}, "nulls must be 'allow' or 'refuse', not 'no'"),
    ],
)
def test_a_column_that_makes_no_sense_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        ColumnContract(**{"name": "x", "kind": "continuous", "dtype": "double", **settings})
    assert message in str(caught.value)


def test_a_role_has_one_column() -> None:
    keys = [ColumnContract(name=name, kind="key", dtype="int64") for name in "ab"]

    with pytest.raises(SpecError, match="has 2 columns of kind key"):
        contract(*keys, NUMBER)


def test_a_contract_needs_something_to_encode() -> None:
    with pytest.raises(SpecError, match="has no usable column"):
        contract(ColumnContract(name="a", kind="key", dtype="int64"))


def test_an_unknown_column_gets_the_near_miss() -> None:
    with pytest.raises(UnknownNameError, match="unknown column 'y'; known: x"):
        contract()["y"]


def test_an_unknown_type_is_refused() -> None:
    column = ColumnContract(name="x", kind="continuous", dtype="integer")

    with pytest.raises(SpecError, match="'integer' is not an Arrow type"):
        _ = column.stored_type


def test_a_contract_of_a_newer_version_is_refused() -> None:
    text = contract().to_json().replace('"format_version": 1', '"format_version": 2')

    with pytest.raises(FormatError, match=r"version 2; this code reads .* up to version 1"):
        Contract.from_json(text)
