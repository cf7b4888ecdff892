"""Between Arrow columns and NumPy arrays: the value of a cell, and the matrix of a list column."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

BEYOND_INT64 = 2.0**63

PLAIN = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
    pa.float16(): pa.float32(),  # few kernels know it
}


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that a cell has whatever way it is encoded: no dictionary, no view."""
    if isinstance(kind, pa.BaseExtensionType):
        return value_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return value_type(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(value_type(kind.value_type), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(value_type(kind.value_type))
    return PLAIN.get(kind, kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether a cell is one number that arithmetic applies to."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether a cell is a list of numbers, of fixed or varying length."""
    return bool(
        (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind))
        and is_number(kind.value_type)
    )


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a cell is a fixed number of bytes: an image, most likely."""
    return bool(pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind))


def is_fixed(kind: pa.DataType) -> bool:
    """Whether a cell is a fixed number of numbers or bytes: a row of a matrix."""
    return is_bytes(kind) or (is_list(kind) and bool(pa.types.is_fixed_size_list(kind)))


def holds_floats(kind: pa.DataType) -> bool:
    """Whether a cell, or an entry of it, may be NaN or infinite."""
    entry = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    return bool(pa.types.is_floating(entry))


def numbers(array: pa.Array) -> npt.NDArray[np.float64]:
    """Return the cells as float64, null as NaN."""
    values = array.cast(pa.float64(), safe=False)  # int64 beyond 2**53 is rounded, knowingly
    return values.to_numpy(zero_copy_only=False)


def reaches_int64(values: pa.Array | pa.ChunkedArray) -> bool:
    """Whether one of the numbers is too large for int64."""
    span = pc.min_max(values)
    low, high = span["min"].as_py(), span["max"].as_py()
    return low is not None and max(-low, high) >= BEYOND_INT64


def matrix(array: pa.Array) -> npt.NDArray[Any]:
    """Return a column of fixed-length cells as rows × entries; a null row holds anything."""
    kind = array.type
    if is_bytes(kind):
        width = kind.byte_width
        flat = np.frombuffer(array.buffers()[1] or b"", np.uint8)
        start = array.offset * width
        return flat[start : start + len(array) * width].reshape(len(array), width)
    width = kind.list_size
    values = array.values.slice(array.offset * width, len(array) * width)
    return values.to_numpy(zero_copy_only=False).reshape(len(array), width)


def null_entries(array: pa.Array) -> npt.NDArray[np.int64]:
    """Return how many entries of each cell are null; 0 where the whole cell is."""
    if not is_fixed(array.type) or is_bytes(array.type):
        return np.zeros(len(array), np.int64)
    width = array.type.list_size
    values = array.values.slice(array.offset * width, len(array) * width)
    if not values.null_count:
        return np.zeros(len(array), np.int64)
    missing = values.is_null().to_numpy(zero_copy_only=False).reshape(len(array), width)
    return np.where(array.is_null().to_numpy(zero_copy_only=False), 0, missing.sum(1))


def column_of(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return rows × entries as a column of fixed-length cells: the inverse of `matrix`.

    NaN is null, and a row that is all NaN is a null cell.
    """
    missing = pa.array(np.isnan(values).all(1))
    if is_bytes(kind):
        data = np.nan_to_num(rounded(values, pa.uint8())).astype(np.uint8)
        images = pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(data)])
        return pc.if_else(missing, pa.scalar(None, kind), images)
    flat = pa.array(rounded(values, kind.value_type).ravel(), from_pandas=True)
    cells = flat.cast(kind.value_type)
    return pa.FixedSizeListArray.from_arrays(cells, kind.list_size, mask=missing)


def rounded(values: npt.NDArray[Any], kind: pa.DataType) -> npt.NDArray[Any]:
    """Round to what an integer type can hold; leave values of other types as they are."""
    if not pa.types.is_integer(kind):
        return values
    limits = np.iinfo(kind.to_pandas_dtype())
    low, high = float(limits.min), float(limits.max)
    return np.rint(values).clip(low, high if high < 2**53 else np.nextafter(high, 0))


def list_lengths(array: pa.Array) -> pa.Array:
    """Return the number of entries of each cell."""
    if is_bytes(array.type):
        return pa.repeat(array.type.byte_width, len(array))
    return pc.list_value_length(array)


def rows_within(schema: pa.Schema, size_bytes: int) -> int:
    """Return how many rows of `schema` take about `size_bytes` in memory; one at least."""
    return max(1, size_bytes // max(1, sum(map(_cell_bytes, schema.types))))


def _cell_bytes(kind: pa.DataType) -> int:
    if pa.types.is_fixed_size_list(kind):
        return int(kind.list_size * _cell_bytes(kind.value_type))
    if is_bytes(kind):
        return int(kind.byte_width)
    if is_number(kind):
        return max(1, int(kind.bit_width // 8))
    return 1024 if pa.types.is_nested(kind) else 64
