"""The columns of a data set in words: what each was taken for, why, and what is in it."""

from dataclasses import dataclass

import numpy as np

from data.contract import ENCODED_KINDS, ColumnContract
from data.profile import ColumnProfile
from flows.reporting.charts import number
from flows.reporting.pictures import Picture, images_of, picture
from flows.reporting.records import Records

SHOWN = 200
NAMED = 3  # categories


@dataclass(frozen=True)
class ColumnRow:
    """One line of the table of columns."""

    name: str
    kind: str
    encoded: bool
    why: str
    nulls: str
    values: str


def columns(records: Records) -> list[ColumnRow]:
    """What the data are; of keys no value is shown."""
    rows = []
    for column in records.contract.columns[:SHOWN]:
        seen = _profile(records, column.name)
        share = seen.nulls / seen.rows if seen is not None and seen.rows else 0.0
        rows.append(
            ColumnRow(
                column.name,
                _kind(column),
                column.kind in ENCODED_KINDS,
                column.why,
                f"{share:.1%}" if share else "none",
                "" if seen is None else _values(column, seen),
            )
        )
    return rows


def _profile(records: Records, name: str) -> ColumnProfile | None:
    return next((c for c in records.profile.columns if c.name == name), None)


def _kind(column: ColumnContract) -> str:
    if column.kind == "pixels":
        return f"pixels, {column.height} × {column.width} × {column.channels}"
    return f"{column.kind} of {column.length:,}" if column.length else column.kind


def _values(column: ColumnContract, seen: ColumnProfile) -> str:
    """Shares, ranges and moments; of keys and of what only travels along, how many there are."""
    if column.kind in ("binary", "categorical", "ordinal", "label") and seen.top:
        shares = [
            f"{value} ({count / max(seen.rows, 1):.0%})" for value, count in seen.top[:NAMED]
        ]
        more = (seen.distinct or len(seen.top)) - len(shares)
        return ", ".join(shares) + (f" and {more:,} more" if more > 0 else "")
    if column.kind in (*ENCODED_KINDS, "timestamp"):
        return _range(seen)
    return "" if seen.distinct is None else f"{seen.distinct:,} different"


def _percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def _range(seen: ColumnProfile) -> str:
    ends = [
        number(end) if isinstance(end, int | float) else str(end)
        for end in (seen.min, seen.max)
        if end is not None
    ]
    parts = [" to ".join(ends)] if ends else []
    if seen.mean is not None and seen.stddev is not None:
        parts.append(f"mean {number(seen.mean)}, sd {number(seen.stddev)}")
    return "; ".join(parts)


def mean_images(records: Records) -> list[Picture]:
    """The mean picture of each column of pixels."""
    found = []
    for column in records.contract.encoded:
        seen = _profile(records, column.name)
        if column.kind == "pixels" and seen is not None and seen.mean_image is not None:
            shape = (column.height or 0, column.width or 0, column.channels or 0)
            pixels = np.array([seen.mean_image])
            image = images_of(pixels, shape, column.max or float(pixels.max()) or 1.0)[0]
            found.append(picture(image, f"mean of all pictures in {column.name}"))
    return found
