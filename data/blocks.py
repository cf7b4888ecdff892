"""Ranges of something far away, fetched in blocks by several requests at a time.

Who reads in order, in one place or in several at once, finds the next blocks here already. What
is held is bounded, whatever the size of what is read.
"""

import io
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

BLOCK_BYTES = 8 << 20
LEAST_BYTES = 64 << 10  # of a block: a request costs as much as some tens of kilobytes
HELD_BYTES = 256 << 20
AHEAD = 4
REQUESTS = 16  # at a time

Fetch = Callable[[int, int], bytes]  # from where, how many


class Blocks:
    """Something of `size` bytes that is read by ranges.

    Args:
        fetch: gives a range; it is called by threads.
        size: how many bytes there are.
        places: in how many places it is read in turn, as columns of a row group are.
        begun_at: where it will be read first; that is asked for at once.
    """

    def __init__(
        self, fetch: Fetch, size: int, *, places: int = 1, begun_at: Iterable[int] = ()
    ) -> None:
        self._fetch, self.size = fetch, size
        # In each place two that a range may touch, and those that are fetched ahead.
        self._block = max(LEAST_BYTES, min(BLOCK_BYTES, HELD_BYTES // (3 * places)))
        self._ahead = max(1, min(AHEAD, HELD_BYTES // (self._block * places) - 2))
        self._most = max(2 + AHEAD, HELD_BYTES // self._block)
        self._held: OrderedDict[int, Future[bytes]] = OrderedDict()  # the first goes first
        self._requests = ThreadPoolExecutor(REQUESTS, "blocks")
        for place in begun_at:
            self._want(place // self._block)

    def pieces(self, start: int, length: int) -> Iterator[memoryview]:
        """Yield a range, piece by piece; what lies beyond the end is left out."""
        stop = min(start + length, self.size)
        while start < stop:
            number, offset = divmod(start, self._block)
            for wanted in range(number, number + 1 + self._ahead):
                self._want(wanted)
            block = self._held[number].result()
            piece = memoryview(block)[offset : offset + stop - start]
            yield piece
            start += len(piece)
            if offset + len(piece) == len(block):  # who reads in order has left it behind
                self._held.move_to_end(number, last=False)

    def _want(self, number: int) -> None:
        """Ask for a block, unless it is here or on its way; let go of the one that is needed least."""
        start = number * self._block
        if number in self._held:
            self._held.move_to_end(number)
        elif start < self.size:
            length = min(self._block, self.size - start)
            self._held[number] = self._requests.submit(self._fetch, start, length)
            if len(self._held) > self._most:
                self._held.popitem(last=False)[1].cancel()

    def close(self) -> None:
        """Ask for no more, and let go of everything."""
        self._requests.shutdown(cancel_futures=True)
        self._held.clear()


class RangeFile(io.RawIOBase):
    """What is read by ranges, as a file that can be read and sought."""

    def __init__(self, fetch: Fetch, size: int) -> None:
        self._fetch, self._size, self._place = fetch, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read on from elsewhere."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        """The next bytes; fewer at the end."""
        left = max(0, self._size - self._place)
        content = self._fetch(self._place, left if size < 0 else min(size, left))
        self._place += len(content)
        return content
