"""One streaming pass over a table: partial results that merge, and a sample of its rows.

    survey(rows 0..n) == survey(rows 0..k).merge(survey(rows k..n))     for every k

up to rounding of the moments. The sample holds the rows whose hashed position is smallest:
each row is as likely as any other, and neither chunks nor threads change which ones it holds.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data.cells import is_bytes, is_list, is_number, list_lengths, matrix, numbers, rows_within
from data.moments import Moments, Pixels
from data.profile import ColumnProfile, Profile
from data.shards import Mapper

SAMPLE_ROWS = 8192
SAMPLE_BYTES = 64 << 20
DISTINCT = 8192  # values counted one by one; beyond it, "many"
TOP = 254  # a code fits a byte, with one left for the rest and one for unseen
LABEL_BYTES = 256  # a longer text names no category, and is not kept whole
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class ColumnSurvey:
    """What one column has shown so far."""

    def __init__(self, name: str, kind: pa.DataType) -> None:
        self.name, self.kind = name, kind
        self.rows = self.nulls = self.null_entries = 0
        self.moments = Moments()
        self.pixels = Pixels()
        self.values: Counter[Any] | None = None if _has_no_categories(kind) else Counter()
        self.lengths: tuple[int, int] | None = None
        self.ends: tuple[int, int] | None = None  # first and last, while steps are all +1
        self.steps_by_one = pa.types.is_integer(kind)

    def add(self, array: pa.Array) -> None:
        """Add the next rows."""
        part = ColumnSurvey(self.name, self.kind)
        part._look(array, counting=self.values is not None)
        self.merge(part)

    def merge(self, other: "ColumnSurvey") -> None:
        """Add the rows that another survey saw just behind this one."""
        self.steps_by_one = self.steps_by_one and other.steps_by_one
        if self.ends and other.ends:
            self.steps_by_one = self.steps_by_one and other.ends[0] == self.ends[1] + 1
            self.ends = (self.ends[0], other.ends[1])
        self.ends = self.ends or other.ends
        self.rows += other.rows
        self.nulls += other.nulls
        self.null_entries += other.null_entries
        self.moments.merge(other.moments)
        self.pixels.merge(other.pixels)
        if self.values is not None and other.values is not None:
            self.values.update(other.values)
        if other.values is None or (self.values is not None and len(self.values) > DISTINCT):
            self.values = None
        self.lengths = _span(self.lengths, other.lengths)

    def _look(self, array: pa.Array, *, counting: bool) -> None:
        self.rows = len(array)
        if pa.types.is_floating(self.kind):
            array = pc.if_else(pc.is_nan(array), pa.scalar(None, self.kind), array)
        self.nulls = array.null_count
        if is_list(self.kind) or is_bytes(self.kind):
            self._look_at_entries(array.drop_null() if array.null_count else array)
            return
        if is_number(self.kind):
            self.moments = Moments.of(numbers(array))
        if self.steps_by_one:
            self._look_at_steps(array)
        if counting and not _has_long_text(array):
            if pa.types.is_decimal(self.kind):
                array = array.cast(pa.float64())  # what a contract stores it as
            self.values = _counted(array.drop_null())
        else:
            self.values = None

    def _look_at_entries(self, array: pa.Array) -> None:
        lengths = list_lengths(array)
        if len(array):
            span = pc.min_max(lengths)
            self.lengths = (span["min"].as_py(), span["max"].as_py())
        if is_bytes(self.kind) or (
            pa.types.is_fixed_size_list(self.kind) and self.kind.value_type == pa.uint8()
        ):
            self.pixels = Pixels.of(matrix(array))
            self.moments = self.pixels.moments()
        else:
            values = numbers(array.flatten())
            self.moments = Moments.of(values)
            self.null_entries = int(np.isnan(values).sum())

    def _look_at_steps(self, array: pa.Array) -> None:
        if array.null_count or not len(array):
            self.steps_by_one = not len(array)
            return
        values = array.to_numpy()
        self.ends = (int(values[0]), int(values[-1]))
        self.steps_by_one = self.ends[1] - self.ends[0] == len(values) - 1 and bool(
            np.all(values[1:] > values[:-1])
        )


class Survey:
    """What a table has shown so far, beginning at row `first_row`."""

    def __init__(self, schema: pa.Schema, *, first_row: int = 0) -> None:
        self.schema = schema
        self.columns = [ColumnSurvey(column.name, column.type) for column in schema]
        self.next_row = self.first_row = first_row
        self._limit = min(SAMPLE_ROWS, max(256, rows_within(schema, SAMPLE_BYTES)))
        self._ranks = np.empty(0, np.uint64)
        self.sample: pa.Table = schema.empty_table()
        self._profile: Profile | None = None  # of the rows seen so far

    @property
    def rows(self) -> int:
        """The number of rows seen."""
        return self.next_row - self.first_row

    def add(self, batch: pa.RecordBatch) -> None:
        """Add the next rows."""
        for survey, array in zip(self.columns, batch.columns, strict=True):
            survey.add(array)
        ranks = rank_of(np.arange(self.next_row, self.next_row + len(batch), dtype=np.uint64))
        self.next_row += len(batch)
        ceiling = self._ranks.max() if len(self._ranks) == self._limit else np.uint64(2**64 - 1)
        chosen = np.flatnonzero(ranks <= ceiling)
        self._keep(ranks[chosen], _shortened(pa.table(batch.take(pa.array(chosen)))))

    def merge(self, other: Self) -> None:
        """Add the rows that another survey saw just behind this one."""
        assert other.first_row == self.next_row, "surveys merge in row order"
        for mine, theirs in zip(self.columns, other.columns, strict=True):
            mine.merge(theirs)
        self.next_row = other.next_row
        self._keep(other._ranks, other.sample)

    def profile(self) -> Profile:
        """Say what the rows seen so far look like."""
        if self._profile is None:
            columns = zip(self.columns, self.sample.columns, strict=True)
            profiles = [_profile(survey, sample.combine_chunks()) for survey, sample in columns]
            self._profile = Profile(rows=self.rows, columns=tuple(profiles))
        return self._profile

    def _keep(self, ranks: npt.NDArray[np.uint64], rows: pa.Table) -> None:
        self._profile = None
        ranks = np.concatenate([self._ranks, ranks])
        kept = np.sort(np.argsort(ranks)[: self._limit])
        self._ranks = ranks[kept]
        self.sample = pa.concat_tables([self.sample, rows]).take(pa.array(kept))


class _Rows(NamedTuple):
    first_row: int
    rows: pa.RecordBatch

    def __str__(self) -> str:
        return f"rows {self.first_row} to {self.first_row + len(self.rows)}"


def survey(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, mapper: Mapper = map
) -> Survey:
    """Look at every row of a stream once; `mapper` looks at batches, which merge in order."""
    result = Survey(schema)

    def pieces() -> Iterator[_Rows]:
        first_row = 0
        for batch in batches:
            yield _Rows(first_row, batch)
            first_row += len(batch)

    for seen in mapper(partial(_survey_of, schema), pieces()):
        result.merge(seen)
    return result


def _survey_of(schema: pa.Schema, piece: _Rows) -> Survey:
    seen = Survey(schema, first_row=piece.first_row)
    seen.add(piece.rows)
    return seen


def _profile(survey: ColumnSurvey, sample: pa.Array) -> ColumnProfile:
    moments, pixels = survey.moments, survey.pixels
    cells = sample.drop_null()
    shape: dict[str, Any] = {}
    if moments.count:
        whole = pa.types.is_integer(survey.kind)
        shape["min"], shape["max"] = (
            int(v) if whole else v for v in (moments.min, moments.max)
        )
        shape["mean"], shape["stddev"] = moments.mean, moments.stddev
    if is_number(survey.kind):
        shape |= _shape_of(numbers(cells))
    elif (
        pa.types.is_temporal(survey.kind)
        and not pa.types.is_duration(survey.kind)
        and len(cells)
    ):
        span = pc.min_max(cells)
        shape["min"], shape["max"] = str(span["min"]), str(span["max"])
    if pixels.images:
        shape |= _picture(pixels)
    counts, estimated = survey.values, False
    if counts is None and pa.types.is_string(survey.kind) and len(cells):
        scale = (survey.rows - survey.nulls) / len(cells)
        counts = Counter({k: round(n * scale) for k, n in _counted(cells).items()})
        estimated = True
    top = sorted((counts or {}).items(), key=lambda item: (-item[1], item[0]))[:TOP]
    return ColumnProfile(
        name=survey.name,
        dtype=str(survey.kind),
        rows=survey.rows,
        nulls=survey.nulls,
        null_entries=survey.null_entries,
        infinite=moments.infinite,
        distinct=None if survey.values is None else len(survey.values),
        sampled=len(cells),
        sampled_distinct=0 if pa.types.is_nested(cells.type) else _distinct(cells),
        top=tuple(top),
        top_estimated=estimated,
        counts_rows=bool(survey.steps_by_one and survey.rows > 1),
        lengths=survey.lengths,
        **shape,
    )


def _shape_of(values: npt.NDArray[np.float64]) -> dict[str, Any]:
    values = values[np.isfinite(values)]
    if not len(values):
        return {}
    quantiles = np.quantile(values, QUANTILES)
    shape: dict[str, Any] = {
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "skewness": _skewness(values),
    }
    if values.min() > 0:
        shape["log_skewness"] = _skewness(np.log(values))
    return shape


def _picture(pixels: Pixels) -> dict[str, Any]:
    seen = np.flatnonzero(pixels.counts)
    brightest = int(seen[-1]) if len(seen) else 0
    levels = np.arange(256)
    extreme = (levels <= 0.1 * brightest) | (levels >= 0.9 * brightest)
    total = pixels.total if pixels.total is not None else np.zeros(0)
    return {
        "near_extreme": float(pixels.counts[extreme].sum() / max(pixels.counts.sum(), 1)),
        "two_values": len(seen) <= 2,
        "mean_image": tuple(np.round(total / pixels.images, 4).tolist()),
    }


def _skewness(values: npt.NDArray[np.float64]) -> float:
    deviations = values - values.mean()
    stddev = float(np.sqrt(np.square(deviations).mean()))
    return float(((deviations / stddev) ** 3).mean()) if stddev > 0 else 0.0


def _counted(array: pa.Array) -> Counter[Any]:
    counts = pc.value_counts(array)
    if len(counts) > DISTINCT:  # one more than allowed says "many"; the rest cost time
        counts = counts.slice(0, DISTINCT + 1)
    values, numbers_ = counts.field("values").to_pylist(), counts.field("counts").to_pylist()
    total: Counter[Any] = Counter()
    for value, number in zip(values, numbers_, strict=True):
        total[value] += number  # 0.0 and -0.0 are two to Arrow and one to us
    return total


def _distinct(cells: pa.Array) -> int:
    return len(pc.unique(cells))


def _has_long_text(array: pa.Array) -> bool:
    if not (pa.types.is_string(array.type) or pa.types.is_binary(array.type)):
        return False
    return (pc.max(pc.binary_length(array)).as_py() or 0) > LABEL_BYTES


def _shortened(rows: pa.Table) -> pa.Table:
    """The same rows with long texts cut: a sample is for looking at."""
    for place, column in enumerate(rows.schema):
        if pa.types.is_string(column.type) and any(map(_has_long_text, rows[place].chunks)):
            cut = pc.utf8_slice_codeunits(rows[place], 0, LABEL_BYTES)
            rows = rows.set_column(place, column, cut)
    return rows


def _has_no_categories(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or is_bytes(kind))


def _span(one: tuple[int, int] | None, other: tuple[int, int] | None) -> tuple[int, int] | None:
    if one is None or other is None:
        return one or other
    return min(one[0], other[0]), max(one[1], other[1])


def rank_of(positions: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash row positions (the finalizer of splitmix64, a bijection: no two rows tie)."""
    z = positions + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
