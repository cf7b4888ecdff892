"""Stopping long work where it may be stopped: at a boundary, with everything saved.

Ctrl-C, SIGTERM and Prefect's cancellation and timeouts all raise in the main thread, between
any two instructions: in the midst of an optimizer's step, if that ran there. So the work runs
beside the main thread, which only waits.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from typing import Protocol, TypeVar

import torch

from data.publication import locked
from flows.settings import Home

T = TypeVar("T")

# The system may hand a signal to any thread; Python's handler then waits for this one to look up.
LOOK_S = 0.2


class Stop(Protocol):
    """Says whether the work is to end at the next boundary: an event, of threads or processes."""

    def is_set(self) -> bool:
        """Whether it is."""


def to_a_boundary(work: Callable[[threading.Event], T]) -> T:
    """Run `work`; when an exception reaches this thread, set its event and let it end first.

    `work` looks at the event between two steps, saves what it has and returns; then the
    exception goes on its way.
    """
    stop, go = threading.Event(), threading.Event()
    result: Future[T] = Future()
    context = copy_context()  # Prefect knows the run by its context

    def beside() -> None:
        go.wait()
        try:
            result.set_result(context.run(work, stop))
        except BaseException as error:  # noqa: BLE001  # it is raised in the main thread
            result.set_exception(error)

    worker = threading.Thread(target=beside, name="work", daemon=True)
    worker.start()
    try:
        go.set()  # not before: a start that is disturbed has begun no work
        while worker.is_alive():
            worker.join(LOOK_S)
        return result.result()
    except BaseException:
        stop.set()
        wait([result])
        raise


def until(stop: Stop, steps: Iterable[T]) -> Iterator[T]:
    """The steps, until the event is set."""
    for step in steps:
        if stop.is_set():
            return
        yield step


@contextmanager
def turn_on(device: str, home: Home) -> Iterator[None]:
    """Wait until no other run in this home uses this GPU; the kernel frees it at a death."""
    if not device.startswith("cuda"):
        yield
        return
    gpu = torch.cuda.get_device_properties(device).uuid
    with locked(home.root / f".gpu-{gpu}.lock"):
        yield
