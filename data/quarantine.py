"""Strange files are read by a child first, which may crash, hang or run out of memory instead.

    vet(path, ".parquet")      returns, or raises SourceError

The child is `python -m data.quarantine`: one for the life of this process, with bounded
memory, nothing of the environment that may be secret, and no file that it could write. It opens and reads a file to its end with the very
reader that will read it here, and says so; what it read stays with it. When it dies or takes
too long the file is refused, and the next file gets a new child.

`LATENTS_QUARANTINE=off` does without, where files are large, reading is slow and those who
write them are trusted.
"""

import atexit
import json
import os
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from data.annotated import open_h5ad
from data.formats import (
    Opened,
    SourceError,
    arrow_batches,
    as_source_error,
    open_parquet,
)
from data.json_lines import open_json_lines

VARIABLE = "LATENTS_QUARANTINE"
MEMORY_BYTES = 4 << 30  # of address space: libraries reserve far more than they use
START_S = 120
BYTES_A_SECOND = 5 << 20  # slower than any disk; a file that takes longer is a trap
PATIENCE_S = 60
HANDED_ON = {"PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ"}


def _read_arrow(path: Path) -> None:
    """Read an Arrow file without mapping it: mappings count as memory."""
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        for _ in arrow_batches(source):
            pass


def _read_through(opener: Callable[[Path], Opened]) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        for _ in opener(path).read():
            pass

    return read


READERS: dict[str, Callable[[Path], None]] = {
    ".parquet": _read_through(open_parquet),
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".h5ad": _read_through(open_h5ad),
    ".jsonl": _read_through(open_json_lines),
    ".ndjson": _read_through(open_json_lines),
}


def vet(path: Path, suffix: str) -> None:
    """Let the child read a file, if its format is one that can do harm.

    Raises:
        SourceError: the child said so, died, or took too long.
    """
    if suffix not in READERS or os.environ.get(VARIABLE, "").lower() == "off":
        return
    patience_s = PATIENCE_S + path.stat().st_size / BYTES_A_SECOND
    with _CHILD.lock:
        complaint = _CHILD.ask({"path": str(path.absolute()), "suffix": suffix}, patience_s)
    if complaint:
        raise SourceError(complaint.replace(str(path.absolute()), str(path)))


class _Child:
    """The process that reads strange files; started when it is first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # by the process they serve

    def ask(self, question: dict[str, str], patience_s: float) -> str:
        """Return the child's complaint about a file; "" where it has none."""
        process = self._running()
        assert process.stdin is not None, "the child was started with pipes"
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
            line = self._line(process, patience_s)
        except BrokenPipeError:
            line = b""
        if line is None:
            self.stop()
            return f"{question['path']} is not read within {patience_s:.0f} s; write it again"
        if not line:
            code = process.wait()
            self.stop()
            return (
                f"{question['path']} ends its reader (exit status {code}); "
                f"it is damaged or hostile: write it again"
            )
        return str(json.loads(line)["complaint"])

    def stop(self) -> None:
        """End the child of this process, if there is one."""
        process = self._processes.pop(os.getpid(), None)
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _running(self) -> subprocess.Popen[bytes]:
        process = self._processes.get(os.getpid())  # after a fork, not that of our parent
        if process is None:
            process = self._processes[os.getpid()] = subprocess.Popen(
                [sys.executable, "-m", "data.quarantine"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
            if not self._line(process, START_S):
                self.stop()
                raise SourceError(
                    f"the child that reads strange files does not start; set {VARIABLE}=off to "
                    f"read files of people you trust without it"
                )
        return process

    def _line(self, process: subprocess.Popen[bytes], patience_s: float) -> bytes | None:
        """Return the child's next line; b"" when it has died, None when patience ends."""
        assert process.stdout is not None, "the child was started with pipes"
        waiting = select.poll()  # select() cannot wait for a descriptor beyond 1023
        waiting.register(process.stdout, select.POLLIN)
        if not waiting.poll(1000 * patience_s):
            return None
        return process.stdout.readline()


_CHILD = _Child()
atexit.register(_CHILD.stop)


def _environment() -> dict[str, str]:
    """What the child needs to find this code; no keys, tokens and passwords."""
    kept = {name: value for name, value in os.environ.items() if name in HANDED_ON}
    here = str(Path(__file__).parents[1])
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([here, *filter(None, [kept.get("PYTHONPATH")])]),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
    }


def main() -> None:
    """Be the child: read the files whose paths come in, say what is wrong with each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _say("")
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path, complaint = Path(question["path"]), ""
        try:
            with as_source_error(path):
                _read(path, question["suffix"])
        except SourceError as error:
            complaint = str(error)
        _say(complaint)


def _read(path: Path, suffix: str) -> None:
    try:
        READERS[suffix](path)
    except MemoryError:
        needed = f"{MEMORY_BYTES >> 30} GiB"
        raise SourceError(f"{path} needs more than {needed} to be read") from None


def _say(complaint: str) -> None:
    sys.stdout.write(json.dumps({"complaint": complaint}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
