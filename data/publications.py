"""How two publications of a data set differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from data.features import Features
from data.splits import hash_keys

NOT_COMPARED = ("parts", "rows", "plan")  # of manifests: shown otherwise, or not what is said


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two publications of a data set differ; rows are told by their keys."""

    rows: tuple[int, int]
    added: int
    removed: int
    changed: int  # rows of both in which a compared column differs
    columns: Mapping[str, float] = field(default_factory=dict)  # the largest difference of each
    only_in_one: tuple[str, ...] = ()
    manifest: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether readers of either find the same features."""
        return not (
            self.added or self.removed or self.changed or self.only_in_one or self.manifest
        )


def difference(one: Features, other: Features, *, key: str) -> Difference:
    """Compare two publications, row by key and column by column.

    Numbers are compared by their largest absolute difference, other columns by how many rows
    differ (1.0 where any does). NaN equals NaN. One column of each is in memory at a time.

    Raises:
        UnknownNameError: one of them has no column `key`.
    """
    mine, theirs = _order_of(one, key), _order_of(other, key)
    _, left, right = np.intersect1d(mine.keys, theirs.keys, return_indices=True)
    left, right = mine.rows[left], theirs.rows[right]
    common = [name for name in one.schema.names if name in other.schema.names]
    changed = np.zeros(len(left), np.bool_)
    columns = {}
    for name in common:
        if name == key:
            continue
        differs, largest = _compared(_cells(one, name)[left], _cells(other, name)[right])
        changed |= differs
        if largest:
            columns[name] = largest
    return Difference(
        rows=(one.rows, other.rows),
        added=other.rows - len(left),
        removed=one.rows - len(left),
        changed=int(changed.sum()),
        columns=columns,
        only_in_one=tuple(sorted(set(one.schema.names) ^ set(other.schema.names))),
        manifest=_manifest_difference(one.manifest, other.manifest),
    )


@dataclass(frozen=True)
class _Order:
    keys: npt.NDArray[np.uint64]  # rising
    rows: npt.NDArray[np.int64]  # where each is


def _order_of(features: Features, key: str) -> _Order:
    hashes = hash_keys(features.to_arrow([key])[key])
    rows = np.argsort(hashes, kind="stable")
    return _Order(hashes[rows], rows)


def _cells(features: Features, name: str) -> npt.NDArray[Any]:
    column = features.to_arrow([name])[name]
    if str(column.type).startswith("fixed_size_list"):
        return features.to_numpy(name)
    return column.to_numpy()


def _compared(
    one: npt.NDArray[Any], other: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.bool_], float]:
    if one.dtype.kind == "f" and other.dtype.kind == "f":
        gap = np.abs(one.astype(np.float64) - other)
        gap[np.isnan(one) & np.isnan(other)] = 0
        differs = np.isnan(gap) | (gap > 0)
        gap = np.where(np.isnan(gap), np.inf, gap)
        whole = differs if differs.ndim == 1 else differs.any(1)
        return whole, float(gap.max(initial=0.0))
    differs = np.array(
        [a != b for a, b in zip(one.tolist(), other.tolist(), strict=True)], bool
    )
    return differs, float(differs.any())


def _manifest_difference(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    names = sorted({*one, *other} - set(NOT_COMPARED))
    return {n: (one.get(n), other.get(n)) for n in names if one.get(n) != other.get(n)}
