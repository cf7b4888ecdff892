"""The fitted, invertible map between a conformed table and the model's input matrix.

It is fitted on the train split alone and kept as JSON. Rows do not look at each other: a row's
entries are the same in any table, any order and any batch.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from data.cells import null_entries
from data.contract import OTHER, Contract
from data.encoding import CODED_KINDS, SCALED_KINDS, EncodedColumn, decode, encode, unfitted
from data.publication import check_format, digest_of
from data.quantiles import ValueSample
from data.snapshot import Snapshot
from data.splits import SPLITS

FORMAT, VERSION = "latent-features/preprocessor", 1

MIN_ROWS = 2
SLICE_ENTRIES = 2**22  # how much is dense at a time while fitting


@dataclass(frozen=True)
class Encoded:
    """The model's input, and how many cells a policy dealt with, as "<column>.<policy>".

    `null`: not observed. `null_entries`: of vectors, likewise. `unknown`: a category never seen in training, NaN in `x` like a null.
    `other`: a rare category. `overflow`: too far out for float32, NaN in `x`.
    """

    x: npt.NDArray[Any]
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class Preprocessor:
    """The encodings of all columns that a model reads, side by side."""

    columns: tuple[EncodedColumn, ...]
    contract_digest: str
    rows: int  # train rows that it was fitted on

    @property
    def features(self) -> int:
        """The number of entries of one row of the input."""
        return sum(column.width for column in self.columns)

    @cached_property
    def dtype(self) -> npt.DTypeLike:
        """uint8 where every entry is an observed byte, else float32."""
        return np.uint8 if all(column.is_bytes for column in self.columns) else np.float32

    @cached_property
    def digest(self) -> str:
        """What identifies the map."""
        return digest_of(self._document())

    def transform(self, table: pa.Table | pa.RecordBatch) -> Encoded:
        """Encode a conformed table (see `data.checking.conform`), row by row."""
        cells = _chunks_joined(table)
        x = np.empty((len(table), self.features), self.dtype)
        counts: Counter[str] = Counter()
        for column in self.columns:
            part = x[:, column.start : column.start + column.width]
            with np.errstate(over="ignore"):
                part[...] = encode(column, cells)
            if not column.is_bytes:
                counts.update(_counted(column, cells[column.name], part))
        return Encoded(x, counts)

    def inverse(self, x: npt.NDArray[Any]) -> pa.Table:
        """Return the table that `transform` encodes as `x`; NaN is null."""
        cells: dict[str, pa.Array] = {}
        for column in self.columns:
            cells |= decode(column, x[:, column.start : column.start + column.width])
        return pa.table(cells)

    def to_json(self) -> str:
        """Write the map for `from_json`; floats survive bit for bit."""
        return json.dumps(self._document(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            FormatError: not a preprocessor, or one from a newer version.
        """
        document = json.loads(text)
        check_format(document, "the preprocessor", format=FORMAT, version=VERSION)
        columns: list[dict[str, Any]] = [
            {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
            for entry in document["columns"]
        ]
        return cls(
            columns=tuple(EncodedColumn(**entry) for entry in columns),
            contract_digest=document["contract_digest"],
            rows=document["rows"],
        )

    def _document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": VERSION,
            "contract_digest": self.contract_digest,
            "rows": self.rows,
            "columns": [asdict(column) for column in self.columns],
        }


def fit(batches: Iterable[pa.Table | pa.RecordBatch], contract: Contract) -> Preprocessor:
    """Fit the encodings to conformed train rows, in one pass.

    Raises:
        ValueError: no row came in.
    """
    columns: list[EncodedColumn] = []
    start = 0
    for declared in contract.encoded:
        columns.append(unfitted(declared, start))
        start += declared.entries
    moments = [EntryMoments(_statistics(column)) for column in columns]
    samples = {c.name: ValueSample() for c in contract.encoded if c.scaling == "quantile"}
    rows = 0
    for batch in batches:
        for piece in _slices(batch, max(1, SLICE_ENTRIES // start)):
            cells = _chunks_joined(piece)
            for column, seen in zip(columns, moments, strict=True):
                values = encode(column, cells)
                seen.add(_expanded(column, values))
                if column.name in samples:
                    samples[column.name].add(values[:, 0], rows)
            rows += len(piece)
    if not rows:
        raise ValueError(
            "the train split has no rows; add rows, or make valid and test smaller"
        )
    fitted = (
        _fitted(column, seen, samples.get(column.name))
        for column, seen in zip(columns, moments, strict=True)
    )
    return Preprocessor(columns=tuple(fitted), contract_digest=contract.digest, rows=rows)


class TooFewRowsError(ValueError):
    """A part of the data has too few rows to learn from, or to measure by."""


def check_splits(snapshot: Snapshot) -> None:
    """Make sure that there are rows to train on, to stop by and to test on.

    Raises:
        TooFewRowsError: there are not.
    """
    rows = snapshot.split_rows
    if min(rows[split] for split in SPLITS) < MIN_ROWS:
        raise TooFewRowsError(
            f"the {sum(rows.values())} rows of {snapshot.name!r} are {rows['train']} to train on, "
            f"{rows['valid']} to validate and {rows['test']} to test by, and each takes "
            f"{MIN_ROWS}: add rows, or hold out other shares, as with\n"
            f"--set dataset.split.valid=0.3 --set dataset.split.test=0.3 (a hash of the key "
            f"chooses the rows)"
        )


def fit_preprocessor(snapshot: Snapshot) -> Preprocessor:
    """Fit the encodings to the train rows of a snapshot, and to no other.

    Raises:
        TooFewRowsError: there are too few to learn from.
    """
    rows = snapshot.split_rows["train"]
    if rows < MIN_ROWS:
        raise TooFewRowsError(
            f"{snapshot.name!r} has {rows} rows to train on, and {MIN_ROWS} are the least; "
            f"add rows, or make valid and test smaller"
        )
    return fit(snapshot.batches(split="train"), snapshot.contract)


class EntryMoments:
    """Count, mean and squared deviations of each entry; NaN is not counted."""

    def __init__(self, width: int) -> None:
        self.count = np.zeros(width)
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)

    def add(self, values: npt.NDArray[Any]) -> None:
        """Add rows × width (Chan, Golub & LeVeque 1979: no cancellation)."""
        seen = ~np.isnan(values)
        count = seen.sum(0)
        some = np.maximum(count, 1)
        mean = np.where(seen, values, 0).sum(0, dtype=np.float64) / some
        squares = np.square(np.where(seen, values - mean, 0)).sum(0, dtype=np.float64)
        total = np.maximum(self.count + count, 1)
        shift = mean - self.mean
        self.squares += squares + np.square(shift) * self.count * count / total
        self.mean += shift * count / total
        self.count += count

    @property
    def stddev(self) -> npt.NDArray[np.float64]:
        """The population standard deviation of each entry; 0 where nothing was seen."""
        return np.sqrt(self.squares / np.maximum(self.count, 1))


def _fitted(
    column: EncodedColumn, seen: EntryMoments, sample: ValueSample | None
) -> EncodedColumn:
    stddev = seen.stddev
    varies = stddev > 1e-12 * np.abs(seen.mean)  # rounding makes a constant's stddev > 0
    constant = not bool(varies.any())
    knots = None if sample is None else sample.knots()
    if knots is not None:
        return replace(column, knot_values=knots[0], knot_scores=knots[1], mean=(0.0,))
    if column.kind not in SCALED_KINDS or column.cycles:
        return replace(column, mean=tuple(seen.mean.tolist()), constant=constant)
    scales = np.where(varies, stddev, 1.0)
    zero = (0.0,) * column.width
    if column.length is None:
        shift, scale = float(seen.mean[0]), float(scales[0])
        return replace(column, shift=shift, scale=scale, mean=zero, constant=constant)
    return replace(
        column,
        shift=float(seen.mean.mean()),
        scale=float(np.exp(np.log(scales).mean())),
        shifts=tuple(seen.mean.tolist()),
        scales=tuple(scales.tolist()),
        mean=zero,
        constant=constant,
    )


def _statistics(column: EncodedColumn) -> int:
    return len(column.categories) if column.kind in CODED_KINDS else column.width


def _expanded(column: EncodedColumn, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Codes as one column per category, so that their mean is each one's frequency."""
    if column.kind not in CODED_KINDS:
        return values
    one_hot = (values == np.arange(len(column.categories))).astype(np.float32)
    one_hot[np.isnan(values[:, 0])] = np.nan
    return one_hot


def _counted(
    column: EncodedColumn, cells: pa.Array, part: npt.NDArray[np.float32]
) -> dict[str, int]:
    """Count what is not plainly encoded; what overflowed float32 becomes NaN."""
    counts = {"null": cells.null_count, "null_entries": int(null_entries(cells).sum())}
    if column.kind in CODED_KINDS:
        counts["unknown"] = int(np.isnan(part).sum()) - cells.null_count
        if OTHER in column.categories:
            counts["other"] = int((part == len(column.categories) - 1).sum())
    elif column.kind in SCALED_KINDS:
        overflow = np.isinf(part)
        part[overflow] = np.nan
        counts["overflow"] = int(overflow.sum())
    return {f"{column.name}.{code}": count for code, count in counts.items() if count}


def _chunks_joined(table: pa.Table | pa.RecordBatch) -> dict[str, pa.Array]:
    if isinstance(table, pa.RecordBatch):
        return dict(zip(table.schema.names, table.columns, strict=True))
    batches = table.combine_chunks().to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
    return dict(zip(table.schema.names, batch.columns, strict=True))


def _slices(table: pa.Table | pa.RecordBatch, rows: int) -> Iterator[pa.Table | pa.RecordBatch]:
    for start in range(0, len(table), rows):
        yield table.slice(start, rows)
