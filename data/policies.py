"""What a contract lets pass, done to the cells and counted: nothing changes in silence.

`infinite = "null"` takes an infinite cell for one that was not observed, and `unreadable = "null"` a
cell of text that is not written as the column's format says. `outside = "clip"` moves a cell to the
bound that it is beyond. A decimal becomes a double, and the cells that a
double does not hold exactly are counted.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import (
    column_of,
    holds_floats,
    is_bytes,
    is_fixed,
    is_number,
    matrix,
    numbers,
    value_type,
)
from data.contract import ColumnContract
from data.written import read_as

Treated = tuple[pa.Array, Counter[str]]


def read(
    cells: pa.ChunkedArray, column: ColumnContract
) -> tuple[pa.ChunkedArray, np.ndarray, int]:
    """Return text as what the column's format says, null where it cannot be read.

    Returns:
        The cells; which of them break the contract so; and how many the policy lets pass.
    """
    if not column.format or not pa.types.is_string(value_type(cells.type)):
        return cells, np.zeros(0, bool), 0
    found, unreadable = read_as(cells.combine_chunks(), column.format)
    bad = unreadable.to_numpy(zero_copy_only=False)
    whole = pa.chunked_array([found])
    return (
        (whole, bad, 0) if column.unreadable == "refuse" else (whole, bad[:0], int(bad.sum()))
    )


def treated(cells: pa.Array, column: ColumnContract) -> Treated:
    """Return conformed cells after their column's policies, and how many each one changed."""
    counts: Counter[str] = Counter()
    if column.infinite == "null" and holds_floats(cells.type):
        cells, counts["infinite"] = _without_infinite(cells)
    if column.outside == "clip" and (is_number(cells.type) or is_fixed(cells.type)):
        cells, counts["clipped"] = _clipped(cells, column)
    return cells, +counts


def rounded_decimals(cells: pa.Array | pa.ChunkedArray, target: pa.DataType) -> int:
    """Count the decimals that are not what they were when written as doubles."""
    if not (pa.types.is_decimal(cells.type) and pa.types.is_floating(target)):
        return 0
    wide = pa.decimal256(76, cells.type.scale)
    back = cells.cast(pa.float64()).cast(wide, safe=False)
    return pc.sum(pc.not_equal(back, cells.cast(wide))).as_py() or 0


def _without_infinite(cells: pa.Array) -> tuple[pa.Array, int]:
    if is_number(cells.type):
        infinite = pc.is_inf(cells)
        return (
            pc.if_else(infinite, pa.scalar(None, cells.type), cells),
            pc.sum(infinite).as_py() or 0,
        )
    values = _entries(cells)
    infinite = np.isinf(values)
    if not infinite.any():
        return cells, 0
    return _with_entries(cells, np.where(infinite, np.nan, values)), int(infinite.sum())


def _clipped(cells: pa.Array, column: ColumnContract) -> tuple[pa.Array, int]:
    low = -np.inf if column.min is None else column.min
    high = np.inf if column.max is None else column.max
    values = numbers(cells)[:, None] if is_number(cells.type) else _entries(cells)
    beyond = np.isfinite(values) & ((values < low) | (values > high))
    if not beyond.any():
        return cells, 0
    values = values.clip(low, high)
    if is_number(cells.type):
        clipped = pa.array(values[:, 0], from_pandas=True).cast(cells.type)
        return pc.if_else(pa.array(beyond[:, 0]), clipped, cells), int(beyond.sum())
    return _with_entries(cells, values), int(beyond.sum())


def _with_entries(cells: pa.Array, values: np.ndarray) -> pa.Array:
    """The cells with other entries, NaN for null; a cell that is null stays so, no other is."""
    if is_bytes(cells.type):
        return column_of(values, cells.type)
    flat = pa.array(values.ravel(), from_pandas=True).cast(cells.type.value_type)
    mask = cells.is_null() if cells.null_count else None
    return pa.FixedSizeListArray.from_arrays(flat, cells.type.list_size, mask=mask)


def _entries(cells: pa.Array) -> np.ndarray:
    values = matrix(cells).astype(np.float64)
    values[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return values
