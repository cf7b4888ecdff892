"""Threads that stay in compiled code from one step to the next, and meet there.

Python's queues take a hundred microseconds to wake a thread; looking at a number takes none. So
a thread that has done its share looks for the next order for a while, gives its core away to
whoever wants it meanwhile, and goes home to a queue when none has come for some milliseconds.
"""

# ruff: noqa: ANN001, ANN201  # Numba finds the types

import weakref
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import no_type_check

import numpy as np
import numpy.typing as npt
import torch
from numba import njit

from vae_engine.native import COMPILED, count_up, give_way, look, put

BYTES = 8  # of a number
LINE = 8  # numbers of a cache line: no two threads write into one
ARRIVALS, ORDERS, PIECES, OWN = range(4)  # lines of the cells that all share, and three of each
TURNS, SEEN, PRESENT = range(3)  # meetings it came to, orders it took, whether it is here
LOOKS, PATIENCE = 200, 10_000  # before a thread gives way, and times until it goes home
Cells = npt.NDArray[np.int64]
Inbox = SimpleQueue[Callable[[], None] | None]


@njit(**COMPILED)
@no_type_check
def own(thread, what):
    """Where a thread's own number lies among the cells."""
    return LINE * (OWN + 3 * thread + what)


@njit(**COMPILED)
@no_type_check
def meet(cells, thread, threads):
    """Wait until all threads have come as often as this one; alone, for nobody."""
    if threads == 1:
        return
    turns = own(thread, TURNS)
    cells[turns] += 1
    wanted, arrivals = cells[turns] * threads, cells.ctypes.data + BYTES * LINE * ARRIVALS
    if count_up(arrivals) >= wanted:
        return
    looks = 0
    while look(arrivals) < wanted:
        looks += 1
        if looks % LOOKS == 0:
            give_way()


@njit(**COMPILED)
@no_type_check
def ordered(cells, thread):
    """Wait for the next order; False if it is time to go home."""
    orders, seen = cells.ctypes.data + BYTES * LINE * ORDERS, own(thread, SEEN)
    present = cells.ctypes.data + BYTES * own(thread, PRESENT)
    while True:
        put(present, 1)
        for _ in range(PATIENCE):
            for _ in range(LOOKS):
                if look(orders) > cells[seen]:
                    cells[seen] += 1
                    return True
            give_way()
        put(present, 0)
        if look(orders) == cells[seen]:  # else it came just now, and may not be told again
            return False


@njit(**COMPILED)
@no_type_check
def taken(cells):
    """Take a piece of what was ordered: 0, 1, ..., each once."""
    return count_up(cells.ctypes.data + BYTES * LINE * PIECES) - 1


@njit(**COMPILED)
@no_type_check
def announce(cells):
    """Give an order: those who look see it, and those who are away must be called."""
    cells[LINE * PIECES] = 0
    count_up(cells.ctypes.data + BYTES * LINE * ORDERS)


@njit(**COMPILED)
@no_type_check
def is_away(cells, thread):
    """Whether a thread may have missed the last order."""
    return look(cells.ctypes.data + BYTES * own(thread, PRESENT)) == 0


class Crew:
    """The calling thread, number 0, and `count - 1` others, which live as long as this object."""

    def __init__(self, count: int) -> None:
        self.cells: Cells = np.zeros(LINE * (OWN + 3 * count), np.int64)  # all are away
        self._inboxes: list[Inbox] = [SimpleQueue() for _ in range(1, count)]
        for inbox in self._inboxes:
            Thread(target=_serve, args=(inbox,), daemon=True).start()
        weakref.finalize(self, _dismiss, self._inboxes)

    def order(self, follow: Callable[[int], None]) -> None:
        """Announce an order, which the caller then takes as thread 0, and which waits for it.

        `follow` takes orders, as thread k, for as long as `ordered` says so, and must not raise:
        those who are away are called to it.
        """
        announce(self.cells)
        for thread, inbox in enumerate(self._inboxes, start=1):
            if is_away(self.cells, thread):
                inbox.put(lambda thread=thread: follow(thread))  # type: ignore[misc]


def _serve(inbox: Inbox) -> None:
    torch.set_num_threads(1)  # of this thread, and of PyTorch's BLAS in it
    while (follow := inbox.get()) is not None:
        follow()
        del follow  # it holds a model's weights


def _dismiss(inboxes: list[Inbox]) -> None:
    for inbox in inboxes:
        inbox.put(None)
