"""The train rows of a snapshot, encoded and shuffled once, in a raw file to read at random.

    <root>/<name>/<id>/manifest.json   data/rows.bin  data/keys.bin

`rows.bin` holds rows × features in C order, `keys.bin` one uint64 per row: the hash of its
key. Their order is uniform over all permutations, whatever order the snapshot is in: each row
goes to a bucket at random, and each bucket, small enough for memory, is permuted (Rao 1961;
Sandelius 1962). Both draw from (seed, number of the row or bucket), so that neither parts nor
batches change the order. Memory is bounded by `memory_bytes` and by one part of the snapshot.

Parquet is the format of interchange; to train from it means to decode it in every epoch.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from data.preprocessing import Preprocessor
from data.publication import Staging, digest_of, locked, read_manifest, verify_parts
from data.snapshot import Snapshot
from data.splits import hash_keys

FORMAT, VERSION = "latent-features/packed", 1

MEMORY_BYTES = 128 << 20
SLICE_BYTES = 16 << 20

Keys = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Packed:
    """Rows on disk, in an order that is already a uniform shuffle."""

    path: Path
    rows: int
    features: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """The size of one row."""
        return self.features * self.dtype.itemsize

    def read(self, runs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[Any], Keys]:
        """Return the rows and keys of `runs` (start, stop), one run behind the other.

        Read into our own buffers: a memory map would count every page that was ever seen.
        """
        total = int((runs[:, 1] - runs[:, 0]).sum())
        x = np.empty((total, self.features), self.dtype)
        keys = np.empty(total, np.uint64)
        for name, out in (("rows.bin", x), ("keys.bin", keys)):
            width = out.nbytes // max(total, 1)
            view, place = out.data.cast("B"), 0
            with (self.path / "data" / name).open("rb", buffering=0) as file:
                for start, stop in runs.tolist():
                    size = (stop - start) * width
                    _read_fully(file.fileno(), view[place : place + size], start * width)
                    place += size
        return x, keys

    def verify(self) -> None:
        """Compare both files with their sha256.

        Raises:
            FormatError: lists what is missing or changed.
        """
        verify_parts(self.path, read_manifest(self.path, format=FORMAT, version=VERSION))


def open_packed(path: Path) -> Packed:
    """Open packed rows by their folder.

    Raises:
        FormatError: there are none, or a newer version wrote them.
    """
    manifest = read_manifest(path, format=FORMAT, version=VERSION)
    return Packed(path, manifest["rows"], manifest["features"], np.dtype(manifest["dtype"]))


def pack(
    snapshot: Snapshot,
    preprocessor: Preprocessor,
    *,
    root: Path,
    seed: int,
    split: str = "train",
    memory_bytes: int = MEMORY_BYTES,
) -> Packed:
    """Encode and shuffle the rows of a split, or find them packed.

    Takes twice their size on disk while it works, once when done.
    """
    rows = snapshot.split_rows[split]
    row_bytes = preprocessor.features * np.dtype(preprocessor.dtype).itemsize
    plan = {
        "fingerprint": snapshot.fingerprint,
        "preprocessor": preprocessor.digest,
        "split": split,
        "seed": seed,
        # a bucket is in memory twice: as it was read, and permuted
        "buckets": max(1, -(-rows * row_bytes * 2 // memory_bytes)),
        "format_version": VERSION,
    }
    packed_id = digest_of(plan)[:16]
    final = root / snapshot.name / packed_id
    if (final / "manifest.json").exists():
        return open_packed(final)
    staging = Staging(root, packed_id)
    with locked(staging.lock_path()):
        if not (final / "manifest.json").exists():
            _pack(snapshot, preprocessor, plan, staging, final)
    return open_packed(final)


def generator(*words: int) -> np.random.Generator:
    """Return the random numbers that belong to `words`: a seed, and what they are for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def _pack(
    snapshot: Snapshot,
    preprocessor: Preprocessor,
    plan: dict[str, Any],
    staging: Staging,
    final: Path,
) -> None:
    staging.scratch.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=staging.scratch, prefix=".tmp-pack-") as scratch:
        buckets = Buckets(Path(scratch), plan["buckets"], plan["seed"], preprocessor)
        for x, keys in _encoded(snapshot, preprocessor, plan["split"]):
            buckets.add(x, keys)
        parts = [
            staging.write_raw("rows.bin", buckets.shuffled("rows"), buckets.rows),
            staging.write_raw("keys.bin", buckets.shuffled("keys"), buckets.rows),
        ]
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "dataset": snapshot.name,
        "plan": plan,
        "rows": buckets.rows,
        "features": preprocessor.features,
        "dtype": str(np.dtype(preprocessor.dtype)),
    }
    staging.commit(final, parts, header)


def _encoded(
    snapshot: Snapshot, preprocessor: Preprocessor, split: str
) -> Iterator[tuple[npt.NDArray[Any], Keys]]:
    rows = rows_within_bytes(preprocessor)
    for part in snapshot.parts:
        table = snapshot.part_table(part, split=split)
        keys = hash_keys(table[snapshot.key])
        for start in range(0, len(table), rows):
            piece = table.slice(start, rows)
            yield preprocessor.transform(piece).x, keys[start : start + rows]


def rows_within_bytes(preprocessor: Preprocessor) -> int:
    """How many encoded rows are dense at a time."""
    return max(1, SLICE_BYTES // (4 * preprocessor.features))


class Buckets:
    """Rows on disk, each in a bucket that was drawn for it."""

    def __init__(self, folder: Path, count: int, seed: int, preprocessor: Preprocessor) -> None:
        self.rows = 0
        self._folder, self._count, self._seed = folder, count, seed
        self._draws = generator(seed)
        self._shapes = {
            "rows": (preprocessor.features, np.dtype(preprocessor.dtype)),
            "keys": (1, np.dtype(np.uint64)),
        }

    def add(self, x: npt.NDArray[Any], keys: Keys) -> None:
        """Append the next rows to their buckets."""
        # one draw of 53 bits a row: how many rows come at a time changes nothing
        chosen = (self._draws.random(len(x)) * self._count).astype(np.int64)
        order = np.argsort(chosen, kind="stable")
        ends = np.searchsorted(chosen[order], np.arange(self._count + 1))
        for what, values in (("rows", x.take(order, 0)), ("keys", keys.take(order))):
            for bucket in np.flatnonzero(np.diff(ends)).tolist():
                with self._path(what, bucket).open("ab") as file:
                    file.write(values[ends[bucket] : ends[bucket + 1]].data)
        self.rows += len(x)

    def shuffled(self, what: str) -> Iterator[memoryview]:
        """Yield the bytes of one bucket after the other, each in a random order."""
        width, dtype = self._shapes[what]
        for bucket in range(self._count):
            path = self._path(what, bucket)
            if path.exists():
                values = np.fromfile(path, dtype).reshape(-1, width)
                order = generator(self._seed, bucket).permutation(len(values))
                yield values.take(order, 0).data.cast("B")
                path.unlink()

    def _path(self, what: str, bucket: int) -> Path:
        return self._folder / f"{what}-{bucket}"


def _read_fully(file: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        got = os.preadv(file, [view[done:]], offset + done)
        if not got:
            raise EOFError(f"packed rows end {len(view) - done} bytes early; pack them again")
        done += got
