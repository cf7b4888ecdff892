"""A raw column in the type that its contract stores: safe casts only, by value, never by luck.

Arrow would parse text as numbers, round 0.5 to 0 on request and take any list for any other.
Here a number may widen or narrow only where every value survives, text stays text, times
become UTC, and NaN becomes null: after this there is one way to say "not observed".
"""

import pyarrow as pa
import pyarrow.compute as pc

from data.cells import holds_floats, is_bytes, is_list, is_number, value_type
from data.contract import TIMESTAMP, ColumnContract, arrow_type


class MisfitError(ValueError):
    """A column cannot be stored in the type of its contract; says which types, no values."""


def conform_column(cells: pa.ChunkedArray, column: ColumnContract) -> pa.Array:
    """Return the cells in `column.stored_type`.

    Raises:
        MisfitError: a cell would change its value, or the types have nothing in common.
    """
    plain = cells.cast(value_type(cells.type)).combine_chunks()
    if isinstance(plain, pa.ChunkedArray):  # no chunk at all
        plain = plain.chunk(0) if plain.num_chunks else pa.array([], plain.type)
    target = column.stored_type
    if plain.type == target and not holds_floats(target):
        return plain
    try:
        return _cast(plain, column, target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise MisfitError(_misfit(cells.type, target, "and not every value fits")) from None


def conform_indices(cells: pa.ChunkedArray) -> pa.Array:
    """Return the places of a sparse count as lists of int32."""
    try:
        return cells.combine_chunks().cast(pa.list_(pa.int32()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise MisfitError(_misfit(cells.type, pa.list_(pa.int32()), "")) from None


def _cast(plain: pa.Array, column: ColumnContract, target: pa.DataType) -> pa.Array:
    source = plain.type
    if pa.types.is_null(source):
        return pa.nulls(len(plain), target)
    if column.length is not None or column.kind == "pixels":
        return _cast_entries(plain, column, target)
    if target == TIMESTAMP and (pa.types.is_timestamp(source) or pa.types.is_date(source)):
        return _in_utc(plain, column.timezone)
    if _family(source) != _family(target):
        raise MisfitError(_misfit(source, target, ""))
    return _without_nan(plain.cast(target))


def _cast_entries(plain: pa.Array, column: ColumnContract, target: pa.DataType) -> pa.Array:
    source = plain.type
    if column.indices is not None:
        return plain.cast(target)
    entry, length = arrow_type(column.dtype), column.entries
    if column.kind == "pixels" and _has_fractions(source) != pa.types.is_floating(entry):
        raise MisfitError(_misfit(source, target, "(is full intensity 1 or 255?)"))
    if pa.types.is_binary(source):  # what pandas makes of bytes
        plain = plain.cast(pa.binary(length))
        source = plain.type
    if is_bytes(source):
        if source.byte_width != length:
            raise MisfitError(_misfit(source, target, ""))
        flat = pa.Array.from_buffers(
            pa.uint8(),
            len(plain) * length,
            [None, plain.buffers()[1]],
            offset=plain.offset * length,
        )
    elif is_list(source):
        fixed = plain.cast(pa.list_(source.value_type, length))
        flat = fixed.values.slice(fixed.offset * length, len(fixed) * length)
    else:
        raise MisfitError(_misfit(source, target, ""))
    flat = flat.cast(entry)
    missing = pc.is_null(plain) if plain.null_count else None
    if not is_bytes(target):
        return pa.FixedSizeListArray.from_arrays(_without_nan(flat), length, mask=missing)
    if flat.null_count:
        raise MisfitError(_misfit(source, target, "and some pixels are null"))
    start = flat.offset
    data = flat.buffers()[1][start : start + len(flat)] if len(flat) else pa.py_buffer(b"")
    images = pa.Array.from_buffers(target, len(plain), [None, data])
    return images if missing is None else pc.if_else(missing, pa.scalar(None, target), images)


def _without_nan(cells: pa.Array) -> pa.Array:
    if not pa.types.is_floating(cells.type):
        return cells
    return pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)


def _in_utc(times: pa.Array, timezone: str) -> pa.Array:
    """A wall clock that a change to winter time shows twice is a misfit, and so is none."""
    if pa.types.is_date(times.type) or times.type.tz is None:
        times = pc.assume_timezone(times.cast(pa.timestamp("us"), safe=False), timezone)
    return times.cast(TIMESTAMP, safe=False)  # nanoseconds are cut off


def _has_fractions(kind: pa.DataType) -> bool:
    return is_list(kind) and bool(pa.types.is_floating(kind.value_type))


def _family(kind: pa.DataType) -> str:
    if is_number(kind):
        return "number"
    if pa.types.is_temporal(kind):
        return "time"
    return str(value_type(kind))


def _misfit(source: pa.DataType, target: pa.DataType, reason: str) -> str:
    return f"is {source}, the contract says {target} {reason}".rstrip()
