"""Python's collector of cycles, where libraries are loaded and where a process ends.

Libraries make 600,000 objects that live as long as the process. The collector looks through them
again and again while they are made, for a second in all, and once more when the process ends, for
two, although the system takes all memory back then.
"""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import, within, what stays: nothing is collected meanwhile, nor is it looked at again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end_at_once() -> None:
    """Let this process, when it ends, not look for cycles."""
    atexit.register(gc.freeze)
