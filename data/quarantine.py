"""Strange files are read by a child first, which may crash, hang or run out of memory instead.

    look(read_through, path, ".parquet")      calls read_through(path, ".parquet") in the child
    stream(send_rows, place, distant, ".parquet")    the same of what is elsewhere, and yields what it sends

The child is `python -m data.quarantine`: one for the life of this process, with bounded
memory, nothing of the environment that may be secret, and no room to write a file unless it is
given some. It calls a function of ours by its name, with plain values, and says what the
function returned or why it refused the file; what it read stays with it. When it dies or takes
too long the file is refused, and the next file gets a new child.

Of what is elsewhere the child has the name and the size. It asks for ranges, which this process
fetches, and sends what it made of them: no byte of the file is parsed here, and no credentials
are there. Streams that are read at the same time have a child each.

`LATENTS_QUARANTINE=off` does without, where files are large, reading is slow and those who
write them are trusted.
"""

import atexit
import importlib
import json
import os
import resource
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from data.child import Process, say
from data.contract import SpecError
from data.formats import SourceError, as_source_error
from data.packed import codec_of

VARIABLE = "LATENTS_QUARANTINE"
MEMORY_BYTES = 4 << 30  # of address space: libraries reserve far more than they use
THREADS = 4  # each reserves some of it
START_S = 120
BYTES_A_SECOND = 5 << 20  # slower than any disk; a file that takes longer is a trap
PATIENCE_S = 60
UNPACKED = 10  # times the size of a packed file: what text unpacks to
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
        "is_distant": False,
        "settings": settings,
        "room_bytes": room_bytes,
    }
    if patience_s is None:
        patience_s = _patience_s(path.stat().st_size * (UNPACKED if codec_of(path) else 1))
    with _CHILD.lock:
        answer = _ended(_CHILD.ask(question, patience_s))
    return _found(answer)


class Distant(Protocol):
    """What is elsewhere and read by ranges."""

    size: int

    def pieces(self, start: int, length: int) -> Iterator[memoryview]:
        """Yield a range that lies within it, in pieces."""


def stream(
    by: Callable[..., None], place: str, distant: Distant, *settings: Any
) -> Generator[memoryview, None, None]:
    """Let a child look at what is elsewhere; yield what `by(place, size, *settings)` sends.

    There, `data.child.ask` gives ranges and `send` hands over. The child's own time is bounded
    as in `look`; how long ranges take, and whoever reads what is yielded, does not count.

    Raises:
        SourceError: the child died, took too long, or said so; or `distant` did.
    """
    question = {
        "module": by.__module__,
        "name": by.__name__,
        "folder": str(Path.cwd()),
        "path": place,
        "is_distant": True,
        "settings": [distant.size, *settings],
        "room_bytes": 0,
    }
    with _borrowed() as child:
        answer = yield from child.ask(question, _patience_s(distant.size), distant)
    _found(answer)


def _patience_s(size: int) -> float:
    return PATIENCE_S + size / BYTES_A_SECOND


def _found(answer: dict[str, Any]) -> Any:
    if answer["refusal"]:
        raise REFUSALS[answer["refusal"]](answer["reason"])
    return answer["found"]


def _ended(asked: Generator[memoryview, None, dict[str, Any]]) -> dict[str, Any]:
    """The answer to a question that nothing is sent for."""
    try:
        next(asked)
    except StopIteration as end:
        return dict(end.value)
    raise AssertionError("a look sends nothing")


class _Child:
    """The process that reads strange files; started when it is first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._processes: dict[int, Process] = {}  # by the process they serve

    def ask(
        self, question: dict[str, Any], patience_s: float, distant: Distant | None = None
    ) -> Generator[memoryview, None, dict[str, Any]]:
        """Yield what the child sends; return its answer, a refusal where it gives none."""
        process = self._running()
        process.left_s = patience_s
        try:
            process.tell(json.dumps(question).encode() + b"\n")
            while True:
                said = process.hear()
                if distant is not None and "wants" in said:
                    for piece in distant.pieces(*said["wants"]):
                        process.tell(piece)
                elif distant is not None and "sends" in said:
                    yield process.receive(said["sends"])
                else:
                    return said
        except TimeoutError:
            self.stop()
            return _refusal(
                f"{question['path']} is not read within {patience_s:.0f} s; write it again, or "
                f"set {VARIABLE}=off if you trust those who wrote it"
            )
        except (BrokenPipeError, EOFError):
            code = process.wait()
            self.stop()
            return _refusal(
                f"{question['path']} ends its reader (exit status {code}); "
                f"it is damaged or hostile: write it again"
            )
        except BaseException:  # what it says next would be of something that nobody wants
            self.stop()
            raise

    def stop(self) -> None:
        """End the child of this process, if there is one."""
        process = self._processes.pop(os.getpid(), None)
        if process is not None:
            process.stop()

    def _running(self) -> Process:
        process = self._processes.get(os.getpid())  # after a fork, not that of our parent
        if process is None:
            process = self._processes[os.getpid()] = Process("data.quarantine", _environment())
            process.left_s = START_S
            try:
                process.hear()
            except (EOFError, TimeoutError):
                self.stop()
                raise SourceError(
                    f"the child that reads strange files does not start; set {VARIABLE}=off to "
                    f"read files of people you trust without it"
                ) from None
        return process


_CHILD = _Child()
_STREAMING: list[_Child] = []  # those that stream nothing now


@contextmanager
def _borrowed() -> Iterator[_Child]:
    """A child for one stream: it is asked for ranges while others are asked for theirs."""
    try:
        child = _STREAMING.pop()
    except IndexError:
        child = _Child()
    try:
        yield child
    finally:
        _STREAMING.append(child)


@atexit.register
def _stop() -> None:
    for child in (_CHILD, *_STREAMING):
        child.stop()


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
    say({})
    for line in sys.stdin.buffer:
        question = json.loads(line)
        path = question["path"] if question["is_distant"] else Path(question["path"])
        os.chdir(question["folder"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (question["room_bytes"], UNLIMITED))
        by = getattr(importlib.import_module(question["module"]), question["name"])
        try:
            with as_source_error(path):
                found = _bounded(by, path, *question["settings"])
        except SpecError as error:
            say(_refusal(str(error), SpecError))
        except SourceError as error:
            say(_refusal(str(error)))
        else:
            say({"refusal": "", "found": found})


def _bounded(by: Callable[..., Any], path: Path | str, *settings: Any) -> Any:
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


if __name__ == "__main__":
    main()
