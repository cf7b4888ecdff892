"""Strange files are read by a child first, which may crash, hang or run out of memory instead.

    look(read_through, path, ".parquet")      calls read_through(path, ".parquet") in the child

The child is `python -m data.quarantine`: one for the life of this process, with bounded
memory, nothing of the environment that may be secret, and no room to write a file unless it is
given some. It calls a function of ours by its name, with plain values, and says what the
function returned or why it refused the file; what it read stays with it. When it dies or takes
too long the file is refused, and the next file gets a new child.

`LATENTS_QUARANTINE=off` does without, where files are large, reading is slow and those who
write them are trusted.
"""

import atexit
import importlib
import json
import os
import resource
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.contract import SpecError
from data.formats import SourceError, as_source_error

VARIABLE = "LATENTS_QUARANTINE"
MEMORY_BYTES = 4 << 30  # of address space: libraries reserve far more than they use
THREADS = 4  # each reserves some of it
START_S = 120
BYTES_A_SECOND = 5 << 20  # slower than any disk; a file that takes longer is a trap
PATIENCE_S = 60
HANDED_ON = {"PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ"}
REFUSALS = {error.__name__: error for error in (SourceError, SpecError)}
UNLIMITED = resource.RLIM_INFINITY


def is_trusted() -> bool:
    """Whether files are read without a child, by the choice of whoever runs this."""
    return os.environ.get(VARIABLE, "").lower() == "off"


def look(
    by: Callable[..., Any],
    path: Path,
    *settings: Any,
    patience_s: float | None = None,
    room_bytes: int = 0,
) -> Any:
    """Let the child look at a file: it calls `by(path, *settings)`, a function of a module.

    Args:
        by: the function; it is called here where files are trusted.
        path: the file, as errors call it.
        settings: what JSON can hold, as is what `by` returns.
        patience_s: how long that may take; without it, as long as a slow disk takes.
        room_bytes: how long a file may be that it writes.

    Raises:
        SourceError: the child died, took too long, or said so.
        SpecError: the child said so.
    """
    if is_trusted():
        return by(path, *settings)
    question = {
        "module": by.__module__,
        "name": by.__name__,
        "folder": str(Path.cwd()),
        "path": str(path),
        "settings": settings,
        "room_bytes": room_bytes,
    }
    if patience_s is None:
        patience_s = PATIENCE_S + path.stat().st_size / BYTES_A_SECOND
    with _CHILD.lock:
        answer = _CHILD.ask(question, patience_s)
    if answer["refusal"]:
        raise REFUSALS[answer["refusal"]](answer["reason"])
    return answer["found"]


class _Child:
    """The process that reads strange files; started when it is first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}  # by the process they serve

    def ask(self, question: dict[str, Any], patience_s: float) -> dict[str, Any]:
        """Return the child's answer; a refusal where it gives none."""
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
            return _refusal(
                f"{question['path']} is not read within {patience_s:.0f} s; write it again, or "
                f"set {VARIABLE}=off if you trust those who wrote it"
            )
        if not line:
            code = process.wait()
            self.stop()
            return _refusal(
                f"{question['path']} ends its reader (exit status {code}); "
                f"it is damaged or hostile: write it again"
            )
        return dict(json.loads(line))

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
        "OMP_NUM_THREADS": str(min(THREADS, pa.cpu_count())),
    }


def main() -> None:
    """Be the child: look at the files that come in, say what was found in each."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, UNLIMITED))
    _say({})
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = Path(question["path"])
        os.chdir(question["folder"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (question["room_bytes"], UNLIMITED))
        by = getattr(importlib.import_module(question["module"]), question["name"])
        try:
            with as_source_error(path):
                found = _bounded(by, path, *question["settings"])
        except SpecError as error:
            _say(_refusal(str(error), SpecError))
        except SourceError as error:
            _say(_refusal(str(error)))
        else:
            _say({"refusal": "", "found": found})


def _bounded(by: Callable[..., Any], path: Path, *settings: Any) -> Any:
    try:
        return by(path, *settings)
    except MemoryError:
        needed = f"{MEMORY_BYTES >> 30} GiB"
        raise SourceError(
            f"{path} needs more than {needed} to be read; write it in several files, or set "
            f"{VARIABLE}=off if you trust those who wrote it"
        ) from None


def _refusal(reason: str, kind: type[ValueError] = SourceError) -> dict[str, Any]:
    return {"refusal": kind.__name__, "reason": reason}


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
