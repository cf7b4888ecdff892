"""Minibatches in an order that is a pure function of (seed, epoch), in memory or from disk.

Rows in memory are permuted afresh in every epoch. Rows on disk were shuffled once
(`data.packing`); an epoch permutes blocks of neighbouring rows, reads a window of blocks at a
time and permutes the rows in it. A window of all rows is the first case.

The state of a run is its step: `batches(start_step)` goes on where another loader stopped,
and reads one window to do so. Ranks take turns within each global batch, so what a step
trains on does not depend on how many there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.packing import Keys, Packed, generator
from data.read_ahead import read_ahead

BLOCK_BYTES = 64 << 10  # what a disk reads about as fast as it seeks
WINDOW_BYTES = 16 << 20  # three are held at a time: in use, waiting, in the making
WINDOW_ROWS = 65_536
MIN_WINDOW_BATCHES = 8  # however large a batch is: fewer would always meet each other


class Batch(NamedTuple):
    """Encoded rows, and the identity of each."""

    x: npt.NDArray[Any]
    row_keys: Keys


@dataclass(frozen=True)
class InMemory:
    """All rows at once."""

    x: npt.NDArray[Any]
    row_keys: Keys

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.x)


class _Window(NamedTuple):
    x: npt.NDArray[Any]
    row_keys: Keys
    order: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """Serves minibatches; the last one of an epoch may be short."""

    source: InMemory | Packed
    batch_rows: int
    seed: int

    def __post_init__(self) -> None:
        if not self.source.rows:
            raise ValueError("there are no rows to train on")

    @property
    def steps_an_epoch(self) -> int:
        """The number of batches that hold every row once."""
        return -(-self.source.rows // self.batch_rows)

    def batches(self, start_step: int = 0, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Yield the batches of step `start_step` and of all that follow, epoch after epoch.

        With several ranks, each gets its own rows of every batch.
        """
        epoch, first = divmod(start_step, self.steps_an_epoch)
        while True:
            yield from self.epoch(epoch, first, rank=rank, world=world)
            epoch, first = epoch + 1, 0

    def epoch(
        self, epoch: int, first: int = 0, *, rank: int = 0, world: int = 1
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch, from its batch number `first` on."""
        window, skipped = divmod(first, self._window_batches)
        for x, keys, order in self._windows(epoch, window):
            for start in range(skipped * self.batch_rows, len(order), self.batch_rows):
                rows = order[start : start + self.batch_rows][rank::world]
                yield Batch(x.take(rows, 0), keys.take(rows))
            skipped = 0

    @property
    def _block_rows(self) -> int:
        """Whole batches in a block, or whole blocks in a batch: so windows hold both."""
        assert isinstance(self.source, Packed), "rows in memory have no blocks"
        rows = -(-BLOCK_BYTES // self.source.row_bytes)
        if rows >= self.batch_rows:
            return rows // self.batch_rows * self.batch_rows
        return next(
            block for block in range(rows, self.batch_rows + 1) if self.batch_rows % block == 0
        )

    @property
    def _window_batches(self) -> int:
        if isinstance(self.source, InMemory):
            return self.steps_an_epoch
        rows = min(WINDOW_ROWS, WINDOW_BYTES // self.source.row_bytes)
        batches = max(MIN_WINDOW_BATCHES, rows // self.batch_rows)
        blocks = max(1, self._block_rows // self.batch_rows)
        return -(-batches // blocks) * blocks

    def _windows(self, epoch: int, first: int) -> Iterator[_Window]:
        if isinstance(self.source, InMemory):
            order = generator(self.seed, epoch).permutation(self.source.rows)
            return iter([_Window(self.source.x, self.source.row_keys, order)])
        return read_ahead(self._read_windows(self.source, epoch, first))

    def _read_windows(self, packed: Packed, epoch: int, first: int) -> Iterator[_Window]:
        whole, rest = divmod(packed.rows, self._block_rows)
        blocks = generator(self.seed, epoch).permutation(whole)
        if rest:  # the block that is not whole comes last: only the last batch may be short
            blocks = np.append(blocks, whole)
        size = self._window_batches * self.batch_rows // self._block_rows
        for window in range(first, -(-len(blocks) // size)):
            chosen = np.sort(blocks[window * size : (window + 1) * size])  # in file order
            starts = chosen * self._block_rows
            runs = np.stack([starts, np.minimum(starts + self._block_rows, packed.rows)], 1)
            x, keys = packed.read(_coalesced(runs))
            yield _Window(x, keys, generator(self.seed, epoch, window).permutation(len(x)))


def _coalesced(runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Join runs that follow each other: fewer, longer reads."""
    breaks = np.flatnonzero(runs[1:, 0] != runs[:-1, 1]) + 1
    firsts, lasts = np.append(0, breaks), np.append(breaks - 1, len(runs) - 1)
    return np.stack([runs[firsts, 0], runs[lasts, 1]], 1)
