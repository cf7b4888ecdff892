"""A process that reads the sources whose names come in, as the product does, and says what came.

{"digest": ...}      the rows were read; equal rows have equal digests
{"refused": ...}     by an error that the command line explains
{"raised": ...}      by any other

and with it how long that took, and the most memory that this process ever had.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.content import content_digest
from data.contract import SpecError
from data.formats import SourceError
from data.sources import open_source

MEMORY_BYTES = 6 << 30  # of address space


class Reader:
    """The process, as a test talks to it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.reading"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries complain there
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def read(self, source: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(source) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the reader ended with {self.process.wait()}"
        return dict(json.loads(line))

    def close(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            assert self.process.wait(30) == 0


def read(source: str) -> dict[str, str]:
    try:
        opened = open_source(source)
        table = pa.Table.from_batches(opened.batches(), opened.schema)
        return {"digest": content_digest(table)}
    except (SourceError, SpecError) as error:
        return {"refused": str(error)}
    except Exception as error:  # noqa: BLE001  # whatever it is, it is a finding
        return {"raised": f"{type(error).__name__}: {error}"}


def peak_bytes() -> int:
    """The most that was resident; `getrusage` has what our parent had, when it forked, in it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        started = time.perf_counter()
        answer = read(json.loads(line))
        took_s = time.perf_counter() - started
        said = {**answer, "took_s": took_s, "peak_bytes": peak_bytes()}
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
