"""RELIABILITY 2b: safe casts only. Each case names what Arrow or NumPy would do in silence."""

import datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from data.conform import MisfitError, conform_column
from data.contract import ColumnContract

UTC = datetime.UTC


def column(kind: str = "continuous", dtype: str = "double", **settings: Any) -> ColumnContract:
    return ColumnContract(name="x", kind=kind, dtype=dtype, **settings)


def conformed(values: pa.Array, contract: ColumnContract) -> list[Any]:
    result = conform_column(pa.chunked_array([values]), contract)
    assert result.type == contract.stored_type
    return list(result.to_pylist())


IMAGE = column("pixels", "uint8", height=1, width=2, channels=1)
VECTOR = column("vector", "float", length=2)

FITS = {
    "integers widen": (pa.array([1, 2], pa.int8()), column(dtype="int64"), [1, 2]),
    "integers narrow if they fit": (pa.array([1, 2]), column(dtype="int8"), [1, 2]),
    "integers become floats": (pa.array([1, 2]), column(), [1.0, 2.0]),
    "whole floats become integers": (pa.array([1.0, 2.0]), column(dtype="int64"), [1, 2]),
    "decimals become floats": (pa.array([Decimal("0.5")]), column(), [0.5]),
    "NaN becomes null": (pa.array([float("nan"), 1.0]), column(), [None, 1.0]),
    "untyped nulls have any type": (pa.nulls(2), column("carry", "string"), [None, None]),
    "a dictionary is its values": (
        pa.array(["b", "a", "b"]).dictionary_encode(),
        column("carry", "string"),
        ["b", "a", "b"],
    ),
    "large text is text": (
        pa.array(["a"], pa.large_string()),
        column("carry", "string"),
        ["a"],
    ),
    "lists of bytes are images": (
        pa.array([[1, 2]], pa.list_(pa.uint8(), 2)),
        IMAGE,
        [b"\1\2"],
    ),
    "lists of integers are images": (pa.array([[1, 2], None]), IMAGE, [b"\1\2", None]),
    "bytes are images": (pa.array([b"\1\2", None], pa.binary(2)), IMAGE, [b"\1\2", None]),
    "bytes of one length are images": (pa.array([b"\1\2", None]), IMAGE, [b"\1\2", None]),
    "lists of one length are vectors": (pa.array([[1, 2], None]), VECTOR, [[1, 2], None]),
    "a missing entry stays missing": (pa.array([[None, 2.0]]), VECTOR, [[None, 2]]),
}


@pytest.mark.parametrize("what", FITS)
def test_what_fits(what: str) -> None:
    values, contract, expected = FITS[what]

    assert conformed(values, contract) == expected


@pytest.mark.parametrize("what", FITS)
def test_a_slice_conforms_like_its_copy(what: str) -> None:
    values, contract, expected = FITS[what]
    longer = pa.concat_arrays([values, values, values])

    assert conformed(longer.slice(len(values), len(values)), contract) == expected


MISFITS = {
    "fractions are not rounded": (pa.array([0.5]), column(dtype="int64")),
    "integers do not wrap": (pa.array([300]), column(dtype="uint8")),
    "int64 beyond 2**53 is not rounded": (pa.array([2**53 + 1]), column()),
    "text is not parsed": (pa.array(["1"]), column()),
    "numbers are not printed": (pa.array([1]), column("carry", "string")),
    "booleans are no numbers": (pa.array([True]), column()),
    "pixels do not wrap": (pa.array([[1, 256]]), IMAGE),
    "pixels are not rounded": (pa.array([[0.5, 1.0]]), IMAGE),
    "pixels are all there": (pa.array([[None, 1]]), IMAGE),
    "images have one size": (pa.array([b"\1\2\3"], pa.binary(3)), IMAGE),
    "bytes have one length": (pa.array([b"\1\2", b"\1"]), IMAGE),
    "lists have one length": (pa.array([[1.0], [1.0, 2.0]]), VECTOR),
    "a number is no list": (pa.array([1.0]), VECTOR),
}


@pytest.mark.parametrize("what", MISFITS)
def test_what_does_not_fit_is_refused_by_type_and_without_values(what: str) -> None:
    values, contract = MISFITS[what]

    with pytest.raises(MisfitError) as caught:
        conformed(values, contract)
    message = f"is {values.type}, the contract says {contract.stored_type}"
    assert str(caught.value).removesuffix(" and not every value fits").startswith(message)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            pa.array([0], pa.timestamp("ms")),
            datetime.datetime(1970, 1, 1, tzinfo=UTC),
        ),
        (
            pa.array([0], pa.timestamp("s", "Asia/Tokyo")),
            datetime.datetime(1970, 1, 1, tzinfo=UTC),
        ),
        (
            pa.array([1_500], pa.timestamp("ns")),
            datetime.datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        ),
        (pa.array([1], pa.date32()), datetime.datetime(1970, 1, 2, tzinfo=UTC)),
    ],
)
def test_times_are_stored_in_utc(values: pa.Array, expected: datetime.datetime) -> None:
    assert conformed(values, column("timestamp", "timestamp[us, tz=UTC]")) == [expected]
