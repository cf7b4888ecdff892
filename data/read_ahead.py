"""The next item is made while the caller works on this one.

Reading and decompressing release the interpreter lock, so a thread is enough.
"""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

POLL_S = 0.2  # how long a reader that is no longer wanted may go on waiting


class _End(Generic[Item]):
    """The last thing in the queue: with what went wrong, if something did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Iterable[Item], *, depth: int = 1) -> Iterator[Item]:
    """Yield `items` in order, with up to `depth` of them waiting (and one in the making).

    What `items` raises is raised here, in its place. Leaving early stops the thread.
    """
    ready: queue.Queue[Item | _End[Item]] = queue.Queue(depth)
    left = threading.Event()

    def put(item: "Item | _End[Item]") -> None:
        while not left.is_set():
            try:
                ready.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return

    def feed() -> None:
        error = None
        try:
            for item in items:
                put(item)
                if left.is_set():
                    return
        except BaseException as caught:  # noqa: BLE001 - raised again by the caller's thread
            error = caught
        put(_End(error))

    thread = threading.Thread(target=feed, name="read-ahead", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        left.set()
        thread.join()
