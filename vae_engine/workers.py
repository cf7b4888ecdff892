"""Threads that do their shares of a step side by side.

PyTorch splits every product over its threads, and each product then waits for the slowest: dearly
where another process has one of the cores. These threads meet a few times a step, and each
computes on one core in between.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread

import torch

LEAST_ROWS, MOST_SHARES = 48, 8  # of a share, and of a batch
Work = Callable[[int], None]
Inbox = SimpleQueue[Work | None]
Outbox = SimpleQueue[BaseException | None]


class Workers:
    """The calling thread and `count - 1` others, which live as long as this object."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._inboxes: list[Inbox] = [SimpleQueue() for _ in range(1, count)]
        self._done: Outbox = SimpleQueue()
        for k, inbox in enumerate(self._inboxes, start=1):
            Thread(target=_serve, args=(k, inbox, self._done), daemon=True).start()
        weakref.finalize(self, _dismiss, self._inboxes)

    def run(self, work: Work) -> None:
        """Call work(k) for every worker k < count; return when all are done.

        No gradient is recorded. The caller has left PyTorch one thread: the setting is, in part,
        one of the whole process.

        Raises:
            BaseException: what the work of one worker raised, once all have stopped.
        """
        for inbox in self._inboxes:
            inbox.put(work)
        raised = [_outcome(work, 0), *(self._done.get() for _ in self._inboxes)]
        for error in raised:
            if error is not None:
                raise error


def share_count(rows: int) -> int:
    """How many shares that many rows make: powers of two, each large enough for its products."""
    shares = 1
    while shares < MOST_SHARES and rows >= 2 * shares * LEAST_ROWS:
        shares *= 2
    return shares


@contextmanager
def one_thread() -> Iterator[None]:
    """Leave PyTorch one thread inside.

    A product that is split over threads leaves them spinning for work, on others' cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _serve(worker: int, inbox: Inbox, done: Outbox) -> None:
    torch.set_num_threads(1)  # of this thread: the caller's setting does not reach it
    while (work := inbox.get()) is not None:
        done.put(_outcome(work, worker))
        del work  # it may hold the last reference to a model


@torch.no_grad()
def _outcome(work: Work, worker: int) -> BaseException | None:
    try:
        work(worker)
    except BaseException as error:  # noqa: BLE001  # the caller raises it
        return error
    return None


def _dismiss(inboxes: list[Inbox]) -> None:
    for inbox in inboxes:
        inbox.put(None)
