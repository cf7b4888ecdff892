"""A table with a column for each pixel: they are one picture.

Pictures in text and in data frames come so: `pixel0`, `pixel1`, ... or `1x1`, `1x2`, ... (row and
column of the pixel). Columns of integers whose numbers count on, as many as a square has, become a
cell of bytes with its shape. Anything else, `pixel` among other words or numbers with fractions,
stays as it is.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from data.arrays import byte_cells, picture_field
from data.formats import Opened, SourceError

COUNTED = re.compile(r"(?:pixel|pix|px)[ _.-]?(\d+)", re.IGNORECASE)
PLACED = re.compile(r"(\d+)x(\d+)")
LEAST_SIDE = 4  # fewer pixels are no picture
NAMES = ("image", "pixels", "picture")


class Grid(NamedTuple):
    """Which columns are a picture: row by row, from its upper left corner."""

    columns: list[str]
    height: int
    width: int


def gathered(opened: Opened, place: str) -> Opened:
    """The same table with one picture in the place of its pixels, if it has such columns."""
    grid = grid_of(opened.schema)
    if grid is None:
        return opened
    pixels = {*grid.columns}
    kept = [name for name in opened.schema.names if name not in pixels]
    name = next(name for name in NAMES if name not in kept)
    image = picture_field(name, grid.height, grid.width, 1)
    at = min(map(opened.schema.get_field_index, pixels))
    fields = [opened.schema.field(name) for name in kept]
    schema = pa.schema([*fields[:at], image, *fields[at:]], opened.schema.metadata)

    def read() -> Iterator[pa.RecordBatch]:
        for batch in opened.read():
            cells = [batch[name] for name in kept]
            cells.insert(at, _picture(batch, grid.columns, place))
            yield pa.record_batch(cells, schema=schema)

    return opened._replace(schema=schema, read=read)


def grid_of(schema: pa.Schema) -> Grid | None:
    """Find the columns that are pixels; None where they are not a whole picture.

    Nor where two columns share a name, which is for others to refuse.
    """
    if len({*schema.names}) < len(schema.names):
        return None
    named = [
        name
        for name, kind in zip(schema.names, schema.types, strict=True)
        if pa.types.is_integer(kind)
    ]
    counted = {int(found[1]): name for name in named if (found := COUNTED.fullmatch(name))}
    side = math.isqrt(len(counted))
    if counted and side >= LEAST_SIDE and side * side == len(counted) and _count_on(counted):
        return Grid([counted[k] for k in sorted(counted)], side, side)
    placed = {
        (int(found[1]), int(found[2])): name
        for name in named
        if (found := PLACED.fullmatch(name))
    }
    rows, columns = ({k[axis] for k in placed} for axis in (0, 1))
    whole = (
        len(placed) == len(rows) * len(columns) and min(len(rows), len(columns)) >= LEAST_SIDE
    )
    if whole and _count_on(rows) and _count_on(columns):
        return Grid([placed[k] for k in sorted(placed)], len(rows), len(columns))
    return None


def _count_on(numbers: dict[int, str] | set[int]) -> bool:
    """Whether they are 0, 1, ... or 1, 2, ...: each once."""
    return min(numbers) in (0, 1) and max(numbers) - min(numbers) == len(numbers) - 1


def _picture(batch: pa.RecordBatch, names: list[str], place: str) -> pa.Array:
    """A cell of bytes a row; null where a pixel is."""
    pixels = np.zeros((len(batch), len(names)), np.uint8)
    missing = np.zeros(len(batch), bool)
    for k, name in enumerate(names):
        column = batch[name]
        if column.null_count:
            missing |= column.is_null().to_numpy(zero_copy_only=False)
            column = column.fill_null(0)
        values = column.to_numpy(zero_copy_only=False)
        if len(values) and not (values.min() >= 0 and values.max() <= 255):
            raise SourceError(
                f"{place}: column {name!r} is a pixel by its name and holds numbers beyond 0 to "
                f"255; write them as bytes, or rename the columns to keep them apart"
            )
        pixels[:, k] = values
    cells = byte_cells(pixels)
    return pa.array(cells.to_pylist(), cells.type, mask=missing) if missing.any() else cells
