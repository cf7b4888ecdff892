"""Which rows have a key that came before, in bounded memory.

Hashes of keys wait on disk once there are many, in buckets by their first bits: equal hashes
meet in one bucket, and one bucket at a time is sorted.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.durable import folder_of

MEMORY_ROWS = 1 << 20
BUCKETS = 64

Pairs = npt.NDArray[np.uint64]  # (rows, 2): a hash, and the number of its row


class Duplicates:
    """Takes the hashes of keys, in row order; says at the end which are not the first."""

    def __init__(self) -> None:
        self._waiting: list[Pairs] = []
        self._waiting_rows = 0
        self._folder: Path | None = None

    def add(self, hashes: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> None:
        """Add the keys of some rows; `rows` are their numbers, which only ever go up."""
        self._waiting.append(np.stack([hashes, rows.astype(np.uint64)], 1))
        self._waiting_rows += len(hashes)
        if self._waiting_rows > MEMORY_ROWS:
            self._spill()

    def merge(self, other: "Duplicates") -> None:
        """Add the keys of the rows behind these, few enough to have stayed in memory."""
        assert other._folder is None, "the keys of one part are not spilled"
        for pairs in other._waiting:
            self.add(pairs[:, 0], pairs[:, 1].astype(np.int64))

    def rows(self) -> npt.NDArray[np.int64]:
        """Return the numbers of the rows whose key came before, in order."""
        found = [_repeated(pairs) for pairs in self._buckets()]
        return np.sort(np.concatenate([np.empty(0, np.int64), *found]))

    def _buckets(self) -> Iterator[Pairs]:
        if self._folder is None:
            if self._waiting:
                yield np.concatenate(self._waiting)
            return
        self._spill()
        for path in sorted(self._folder.iterdir()):
            yield np.fromfile(path, np.uint64).reshape(-1, 2)

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = folder_of(self)
        if not self._waiting:
            return
        pairs = np.concatenate(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        bucket = (pairs[:, 0] >> np.uint64(58)).astype(np.int64)  # 64 of them
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(BUCKETS + 1))
        pairs = pairs[order]
        for number in np.flatnonzero(np.diff(ends)).tolist():
            with (self._folder / f"{number:02d}").open("ab") as file:
                file.write(pairs[ends[number] : ends[number + 1]].data)


def _repeated(pairs: Pairs) -> npt.NDArray[np.int64]:
    order = np.argsort(pairs[:, 0], kind="stable")  # equal hashes stay in row order
    hashes = pairs[order, 0]
    return pairs[order[1:][hashes[1:] == hashes[:-1]], 1].astype(np.int64)
