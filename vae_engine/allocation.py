"""Freed memory is kept for the next tensor, where the C library would give it back to the system.

glibc gives back what is free at the end of its heap, and takes it again for the next tensor page by
page, each of which the kernel has to clear: for tensors of megabytes that can take ten times as long
as what is computed in them.
"""

import ctypes
import os
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of malloc.h
DECIDED = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
KEPT_BYTES = 256 << 20  # at the end of a heap
LARGE_BYTES = 32 << 20  # blocks from here on come and go alone; glibc allows no more


@cache
def keep_freed_memory() -> None:
    """Tell glibc so, once, for this process; nothing where there is another library.

    Who sets them in the environment has decided otherwise.
    """
    tuned = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    if tuned or any(name in os.environ for name in DECIDED):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return
    mallopt(TRIM_THRESHOLD, KEPT_BYTES)
    mallopt(MMAP_THRESHOLD, LARGE_BYTES)
