"""Threads that meet: every order is taken by each of them once, whether they looked or were away."""

import threading
import time

import numpy as np
import pytest
from numba import njit

from vae_engine.crew import Crew, meet, ordered, taken
from vae_engine.native import COMPILED

LINE = 8


@njit(**COMPILED)
def serve(cells, done, pieces, thread, threads, once):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Count the orders, and the pieces of each; see that those of one are over before the next."""
    while ordered(cells, thread):
        done[LINE * thread] += 1
        meet(cells, thread, threads)
        for other in range(threads):
            if done[LINE * other] != done[LINE * thread]:
                done[LINE * thread] = -1_000_000
        while taken(cells) < pieces:
            done[LINE * thread + 1] += 1
        meet(cells, thread, threads)
        if once:
            return


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_every_order_is_taken_once_by_each_thread(threads: int) -> None:
    """With more threads than cores, too; some orders come while nobody is there any more."""
    crew, done = Crew(threads), np.zeros(LINE * threads, np.int64)

    def follow(thread: int, *, once: bool = False) -> None:
        serve(crew.cells, done, 10, thread, threads, once)

    for number in range(60):
        crew.order(follow)
        follow(0, once=True)
        if number % 20 == 19:
            time.sleep(0.2)  # long enough for all to go home

    assert done[::LINE].tolist() == [60] * threads
    assert done[1::LINE].sum() == 600


def test_threads_go_home_when_nothing_is_ordered_and_end_with_their_crew() -> None:
    before = set(threading.enumerate())
    crew, done = Crew(2), np.zeros(2 * LINE, np.int64)
    (thread,) = set(threading.enumerate()) - before

    def follow(number: int, *, once: bool = False, cells: object = crew.cells) -> None:
        serve(cells, done, 1, number, 2, once)

    crew.order(follow)
    follow(0, once=True)
    del crew
    thread.join(timeout=30)

    assert not thread.is_alive()
