"""The collector of cycles rests while libraries are loaded and when a process ends."""

import gc
import subprocess
import sys

from flows.collector import loading

ENDING = """
import atexit, gc
from flows.collector import end_at_once
atexit.register(lambda: print(gc.get_freeze_count() > 0))  # the first to register is the last
end_at_once()
"""


def test_what_was_loaded_is_not_looked_at_again() -> None:
    try:
        with loading():
            assert not gc.isenabled()
            loaded: list[list[int]] = [[] for _ in range(1000)]
        assert gc.isenabled()
        assert gc.get_freeze_count() > len(loaded)
    finally:
        gc.unfreeze()


def test_a_process_ends_without_looking_for_cycles() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING], check=True, capture_output=True, text=True
    )

    assert done.stdout == "True\n"
