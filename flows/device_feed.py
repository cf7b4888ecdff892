"""Batches from the host through a GPU and back, with the copies beside the computing.

    a stream in    the next batch, out of pinned memory
    the caller's   what is computed of this one
    a stream out   what was computed of the last ones, into pinned memory

On a CPU the same functions pass on what they are given, in the same order.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

UNDER_WAY = 2  # results on their way back while the next are computed

Tensors = tuple[Tensor, ...]
Context = TypeVar("Context")


class _Host:
    """No way to go: the CPU itself."""

    def sent(self, here: Tensors) -> Callable[[], Tensors]:
        return lambda: here

    def fetched(self, there: Tensors) -> Callable[[], Tensors]:
        return lambda: there


class _Gpu:
    """Two streams beside that of the caller."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.inward, self.outward = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def sent(self, here: Tensors) -> Callable[[], Tensors]:
        """Begin to copy; what is returned has the caller's stream wait, and not the caller."""
        with torch.cuda.stream(self.inward):
            there = tuple(
                tensor.pin_memory().to(self.device, non_blocking=True) for tensor in here
            )
            arrived = self.inward.record_event()

        def received() -> Tensors:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(arrived)
            for tensor in there:
                tensor.record_stream(stream)
            return there

        return received

    def fetched(self, there: Tensors) -> Callable[[], Tensors]:
        """Begin to copy back; what is returned waits until that is done."""
        self.outward.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.outward):
            here = tuple(
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
                    tensor, non_blocking=True
                )
                for tensor in there
            )
            for tensor in there:
                tensor.record_stream(self.outward)
            arrived = self.outward.record_event()

        def received() -> Tensors:
            arrived.synchronize()
            return here

        return received


def sent_ahead(
    device: str, items: Iterable[tuple[Context, Tensors]]
) -> Iterator[tuple[Context, Tensors]]:
    """Yield each item with its tensors on `device`; the next one's are sent before."""
    yield from _sent_ahead(_way(device), items)


def through(
    device: str,
    work: Callable[..., Tensors],
    items: Iterable[tuple[Context, Tensors]],
) -> Iterator[tuple[Context, Tensors]]:
    """Yield each item, in order, with `work(*tensors)` as it was computed on `device`.

    The tensors go there and the results come back; nothing waits but for results that were asked
    for `UNDER_WAY` items before.
    """
    way = _way(device)
    under_way: deque[tuple[Context, Callable[[], Tensors]]] = deque()
    for context, tensors in _sent_ahead(way, items):
        under_way.append((context, way.fetched(work(*tensors))))
        if len(under_way) > UNDER_WAY:
            first, received = under_way.popleft()
            yield first, received()
    for context, received in under_way:
        yield context, received()


def _sent_ahead(
    way: _Host | _Gpu, items: Iterable[tuple[Context, Tensors]]
) -> Iterator[tuple[Context, Tensors]]:
    last: tuple[Context, Callable[[], Tensors]] | None = None
    for context, tensors in items:
        coming = context, way.sent(tensors)
        if last is not None:
            yield last[0], last[1]()
        last = coming
    if last is not None:
        yield last[0], last[1]()


def _way(device: str) -> _Host | _Gpu:
    return _Gpu(device) if torch.device(device).type == "cuda" else _Host()
