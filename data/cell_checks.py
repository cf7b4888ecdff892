"""What cells of a kind must not be: which rows break it, and how."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import is_number, matrix, numbers
from data.contract import ColumnContract

EXACT_IN_FLOAT32 = 2**24
EXACT_IN_FLOAT64 = 2**53


def bad_numbers(
    cells: pa.Array, column: ColumnContract
) -> list[tuple[str, npt.NDArray[np.bool_]]]:
    """Pairs of code and mask, one mask entry per row; NaN and null are nobody's breach here."""
    if column.dtype == "uint8" and column.kind == "pixels" and column.max == 255:
        return []
    is_scalar = is_number(cells.type)
    values = numbers(cells)[:, None] if is_scalar else matrix(cells)
    if cells.null_count and not is_scalar:
        values = values.astype(np.float64)
        values[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
    codes: dict[str, Any] = {"infinite": np.isinf(values)}
    if column.min is not None:
        codes["below_min"] = values < column.min
    if column.max is not None:
        codes["above_max"] = values > column.max
    if column.kind == "positive":
        codes["not_positive"] = values <= 0
    if column.kind == "count":
        codes["negative"] = values < 0
        codes["too_large"] = (values > EXACT_IN_FLOAT32) & np.isfinite(values)
        codes["fraction"] = np.isfinite(values) & (values != np.floor(values))
    if is_scalar and column.is_encoded and pa.types.is_integer(cells.type):
        codes["inexact"] = _inexact(cells)[:, None]
    return [(code, mask.any(1)) for code, mask in codes.items()]


def _inexact(cells: pa.Array) -> npt.NDArray[np.bool_]:
    if cells.type.bit_width < 64:
        return np.zeros(len(cells), np.bool_)
    beyond = pc.greater(cells, pa.scalar(EXACT_IN_FLOAT64, cells.type))
    if pa.types.is_signed_integer(cells.type):
        beyond = pc.or_(beyond, pc.less(cells, pa.scalar(-EXACT_IN_FLOAT64, cells.type)))
    return pc.fill_null(beyond, pa.scalar(value=False)).to_numpy(zero_copy_only=False)


def bad_places(counts: pa.Array, places: pa.Array, length: int) -> npt.NDArray[np.bool_]:
    """Which rows of a sparse count have places that do not fit their counts, or lie nowhere."""
    lengths = [
        pc.list_value_length(lists).fill_null(-1).to_numpy() for lists in (counts, places)
    ]
    bad: npt.NDArray[np.bool_] = lengths[0] != lengths[1]
    rows = pc.list_parent_indices(places).to_numpy()
    flat = places.flatten().to_numpy(zero_copy_only=False)
    bad[rows[(flat < 0) | (flat >= length)]] = True
    rows = pc.list_parent_indices(counts).to_numpy()
    values = numbers(counts.flatten())
    bad[rows[~(values >= 0) | (values > EXACT_IN_FLOAT32)]] = True
    return bad
