"""Freed memory is kept for the next tensor, where the C library would give it back to the system.

glibc gives back what is free at the end of its heap, and takes it again for the next tensor page by
page, each of which the kernel has to clear: for tensors of megabytes that can take ten times as long
as what is computed in them.
"""

import ctypes
import os
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of malloc.h
KEPT_BYTES = 256 << 20  # at the end of a heap
LARGE_BYTES = 32 << 20  # blocks from here on come and go alone; glibc allows no more


@cache
def keep_freed_memory() -> None:
    """Tell glibc so, once, for this process; nothing where there is another library.

    Who sets MALLOC_... in the environment has decided otherwise.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(MMAP_THRESHOLD, LARGE_BYTES)
