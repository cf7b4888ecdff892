"""One column between its cells and its entries of the model's input, there and back.

    value = shift + scale · entry          then exp, where the column is logarithmic

Categories and levels are one entry that holds their code, exact in float32; a count is itself;
a pixel is its raw intensity. NaN says "not observed": a null, or a category never seen.

A column of `scaling = "quantile"` goes through its knots instead (`data.quantiles`), and a time
with `cycles` is a vector of places on circles (`data.cycles`): their shift is 0 and their scale
1, so a density of theirs is one of what the model reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import column_of, matrix, numbers, rounded
from data.contract import OTHER, ColumnContract, Scalar, arrow_type
from data.cycles import places_of, times_at
from data.quantiles import scores_of, values_at

CODED_KINDS = ("binary", "categorical", "ordinal")
SCALED_KINDS = ("continuous", "positive", "vector")


@dataclass(frozen=True, kw_only=True)
class EncodedColumn:
    """How one column lies in the model's input: `width` entries from `start` on.

    For a vector, whose entries are scaled one by one, `scale` is the geometric mean of
    `scales`, so that width · log(scale) is the logarithm of the volume change, exactly.
    `mean` is the train mean of each entry; for codes, the train frequency of each category.
    """

    name: str
    kind: str
    dtype: str
    start: int
    width: int
    categories: tuple[Scalar, ...] = ()
    shift: float = 0.0
    scale: float = 1.0
    shifts: tuple[float, ...] | None = None
    scales: tuple[float, ...] | None = None
    log: bool = False
    max: float | None = None
    missing: bool = False
    image: tuple[int, int, int] | None = None
    indices: str | None = None
    length: int | None = None
    mean: tuple[float, ...] = ()
    constant: bool = False  # no entry varies among the train rows
    knot_values: tuple[float, ...] = ()
    knot_scores: tuple[float, ...] = ()
    cycles: tuple[str, ...] = ()
    timezone: str = "UTC"

    @property
    def stored_type(self) -> pa.DataType:
        """The Arrow type of the column in a snapshot."""
        entry = arrow_type(self.dtype)
        if self.kind == "pixels":
            return pa.binary(self.width) if entry == pa.uint8() else pa.list_(entry, self.width)
        if self.indices is not None:
            return pa.list_(entry)
        return entry if self.length is None else pa.list_(entry, self.length)

    @property
    def is_bytes(self) -> bool:
        """Whether every entry is a byte that was observed."""
        return self.kind == "pixels" and self.dtype == "uint8" and not self.missing


def unfitted(column: ColumnContract, start: int) -> EncodedColumn:
    """Return the encoding that changes no number: what a fit looks at.

    Places on circles are a vector, whatever kind the time is of in the contract.
    """
    labels = column.categories or ()
    coded = column.kind in CODED_KINDS
    return EncodedColumn(
        name=column.name,
        kind="vector" if column.cycles else column.kind,
        dtype=column.dtype,
        start=start,
        width=column.entries,
        categories=((*labels, OTHER) if column.other else labels) if coded else (),
        log=column.kind == "positive",
        max=column.max if column.kind == "pixels" else None,
        missing=column.nulls == "allow",
        image=_image(column),
        indices=column.indices,
        length=column.length,
        cycles=column.cycles,
        timezone=column.timezone,
    )


def encode(column: EncodedColumn, table: Mapping[str, pa.Array]) -> npt.NDArray[Any]:
    """Return rows × width: the cells of a conformed table as the model reads them."""
    cells = table[column.name]
    if column.is_bytes:
        return matrix(cells)
    if column.kind in CODED_KINDS:
        return _codes(column, cells)[:, None]
    if column.indices is not None:
        return _dense(cells, table[column.indices], column.width)
    values = _numbers(column, cells)
    if column.knot_values:
        return scores_of(values, (column.knot_values, column.knot_scores))
    if column.kind not in SCALED_KINDS:
        return values
    return (values - _entries(column.shifts, column.shift)) / _entries(
        column.scales, column.scale
    )


def _numbers(column: EncodedColumn, cells: pa.Array) -> npt.NDArray[np.float64]:
    if column.cycles:
        return places_of(cells, column.cycles, column.timezone)
    if column.kind != "pixels" and column.length is None:
        values = numbers(cells)[:, None]
        return np.log(values) if column.log else values
    values = matrix(cells).astype(np.float64)
    values[cells.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return values


def decode(column: EncodedColumn, entries: npt.NDArray[Any]) -> dict[str, pa.Array]:
    """Return the cells, by column name, that `encode` reads as `entries` (rows × width)."""
    kind = column.stored_type
    if column.cycles:
        return {column.name: times_at(entries.astype(float), column.cycles, column.timezone)}
    if column.kind in CODED_KINDS:
        return {column.name: _labels(column, entries[:, 0])}
    if column.indices is not None:
        return _sparse(column, entries)
    scales, shifts = (
        _entries(column.scales, column.scale),
        _entries(column.shifts, column.shift),
    )
    values = entries.astype(np.float64)
    if column.knot_values:
        values = values_at(values, (column.knot_values, column.knot_scores))
    elif column.kind in SCALED_KINDS:
        values = shifts + scales * values
    if column.log:
        values = np.exp(values)
    if column.kind == "pixels" or column.length is not None:
        return {column.name: column_of(values, kind)}
    cells = pa.array(rounded(values[:, 0], kind), from_pandas=True)
    return {column.name: cells.cast(kind)}


def _codes(column: EncodedColumn, cells: pa.Array) -> npt.NDArray[np.float64]:
    known = [label for label in column.categories if label != OTHER]
    codes = pc.index_in(cells, value_set=pa.array(known, cells.type), skip_nulls=True)
    values = codes.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if OTHER in column.categories:
        other = np.isnan(values) & cells.is_valid().to_numpy(zero_copy_only=False)
        values = np.where(other, len(known), values)
    return values


def _labels(column: EncodedColumn, codes: npt.NDArray[Any]) -> pa.Array:
    kind = column.stored_type
    labels = [
        label if label != OTHER or pa.types.is_string(kind) else None
        for label in column.categories
    ]
    places = pa.array(np.rint(codes), from_pandas=True).cast(pa.int32())
    return pa.array(labels, kind).take(places)


def _dense(counts: pa.Array, places: pa.Array, width: int) -> npt.NDArray[np.float32]:
    rows = pc.list_parent_indices(counts).to_numpy()
    dense = np.zeros((len(counts), width), np.float32)
    values = counts.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    np.add.at(dense, (rows, places.flatten().to_numpy()), values)
    dense[counts.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return dense


def _sparse(column: EncodedColumn, entries: npt.NDArray[Any]) -> dict[str, pa.Array]:
    assert column.indices is not None, "only sparse counts come here"
    missing = np.isnan(entries).all(1)
    rows, places = np.nonzero(np.nan_to_num(entries))
    offsets = np.searchsorted(rows, np.arange(len(entries) + 1)).astype(np.int32)
    values = pa.array(np.rint(entries[rows, places])).cast(arrow_type(column.dtype))
    return {
        name: pa.ListArray.from_arrays(pa.array(offsets), cells, mask=pa.array(missing))
        for name, cells in (
            (column.name, values),
            (column.indices, pa.array(places.astype(np.int32))),
        )
    }


def _entries(each: tuple[float, ...] | None, shared: float) -> Any:
    return shared if each is None else np.array(each)


def _image(column: ColumnContract) -> tuple[int, int, int] | None:
    if column.kind != "pixels":
        return None
    return (column.height or 0, column.width or 0, column.channels or 0)
