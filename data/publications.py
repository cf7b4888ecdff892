"""Publications as things to look after: compare two, clear away the old.

Everything here reads manifests and `latest.json`; nothing changes a published file. What is
cleared away is removed whole: a folder of staging that nobody works in, or a publication that
no pointer names and that was asked for.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.features import Features, latest_of, list_publications
from data.splits import hash_keys

STALE_HOURS = 24.0
TEMPORARY = (".tmp-*", ".fetch-*")  # names that only a writer at work gives
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


@dataclass(frozen=True)
class Garbage:
    """What could be cleared away, and how much room it takes."""

    path: Path
    bytes: int
    why: str

    def remove(self) -> None:
        """Remove it: first its manifest, so that no reader takes what is left for whole."""
        if self.path.is_dir():
            (self.path / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def stale_staging(root: Path, *, hours: float = STALE_HOURS) -> Iterator[Garbage]:
    """Find what a killed writer left in `<root>/.staging` and nobody has touched since.

    A folder whose lock somebody holds is in use, however old it is.
    """
    before = time.time() - 3600 * hours
    staging = root / ".staging"
    scratch = (staging / ".tmp").glob("*") if staging.is_dir() else ()
    for path in sorted([*staging.glob("[!.]*"), *scratch]):
        if _last_touched(path) < before:
            with _unless_in_use(staging / f".{path.name}.lock") as is_free:
                if is_free:
                    yield Garbage(path, _size(path), "left by a writer that was killed")


def stale_temporaries(root: Path, *, hours: float = STALE_HOURS) -> Iterator[Garbage]:
    """Find what a killed writer left half done beside records, pointers and models under `root`."""
    before = time.time() - 3600 * hours
    for pattern in TEMPORARY:
        for path in sorted(root.rglob(pattern)):
            if ".staging" not in path.parts and _last_touched(path) < before:
                yield Garbage(path, _size(path), "left by a writer that was killed")


def superseded(
    home: str | Path, name: str, *, keep: int = 1, hours: float = STALE_HOURS
) -> Iterator[Garbage]:
    """Find publications that no pointer names, but for the newest `keep` of each model version.

    One that another of its version followed in the last `hours` stays too: who opened it as the
    latest may be reading it still.

    A reader may have one of them open, or have pinned it: that is why they go on request.
    """
    root = Path(home) / "features"
    latest = latest_of(root, name)
    named = {*latest["versions"].values(), (latest["champion"] or {}).get("publication")}
    before = time.time() - 3600 * hours
    of_version: dict[int, list[Path]] = {}
    for found in list_publications(home, name):
        of_version.setdefault(found.model_version, []).append(found.path)
    for version, paths in sorted(of_version.items()):
        made = {path: path.stat().st_mtime for path in paths}
        newest_first = sorted(made, key=made.__getitem__, reverse=True)
        followers = [newest_first[0], *newest_first]
        free = [
            (path, made[follower])
            for path, follower in zip(newest_first, followers, strict=False)
            if path.name.partition("=")[2] not in named
        ]
        for path, followed in free[keep:]:
            if followed < before:
                yield Garbage(path, _size(path), f"superseded, of model version {version}")


def _last_touched(path: Path) -> float:
    entries = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((entry.stat().st_mtime for entry in entries if entry.exists()), default=0.0)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def _unless_in_use(lock: Path) -> Iterator[bool]:
    """Hold a lock that nobody else holds while its folder is looked at; else say False."""
    if not lock.exists():
        yield True
        return
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def collect(garbage: Iterator[Garbage]) -> tuple[int, int]:
    """Remove all of it; return how many things and how many bytes."""
    count = size = 0
    for each in garbage:
        each.remove()
        count, size = count + 1, size + each.bytes
    return count, size
