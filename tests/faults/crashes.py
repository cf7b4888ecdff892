"""A process that dies before its k-th persistence operation, for every k until it comes through.

A fork has everything imported, so that hundreds of deaths take seconds. In it are counted the
functions of `os` that change what a disk holds, the writes of every file that Python opened
(pyarrow and safetensors write through those), and the changes to a database by SQLAlchemy.
Before the k-th of them the process kills itself; of a write, half has been done by then.
"""

import builtins
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Engine

from data.quarantine import VARIABLE as QUARANTINE

NAMING = ("fsync", "link", "rename", "replace")
CHANGES = (*NAMING, "mkdir", "rmdir", "unlink", "write")
CREATING = os.O_CREAT | os.O_TRUNC
OF_DATABASES = ("INSERT", "UPDATE", "DELETE")


def in_child(act: Callable[[], object]) -> int:
    """Run `act` in a fork; return its wait status."""
    return wait(begun(act))


def begun(act: Callable[[], object]) -> int:
    """Begin `act` in a fork; return its process id."""
    child = os.fork()
    if child:
        return child
    os.environ[QUARANTINE] = "off"  # the files are ours, and each fork would start a reader
    try:
        act()
        os._exit(0)
    except BaseException:  # noqa: BLE001  # nothing of the parent may run here
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def succeeds(act: Callable[[], object]) -> None:
    """Run `act` in a fork, as a process that knows nothing of the one before it."""
    assert in_child(act) == 0, "the child says why, above"


def wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


def killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def die() -> NoReturn:
    """As if the power of this process were cut."""
    while True:
        os.kill(os.getpid(), signal.SIGKILL)


def die_before(call: int, *, files: bool = True) -> None:
    """Let this process die just before its `call`-th operation from now.

    Without `files`, only names that are given and changes to a database count.
    """
    calls, one_at_a_time = count(1), threading.Lock()

    def is_last() -> bool:
        with one_at_a_time:
            return next(calls) == call

    def tick() -> None:
        if is_last():
            die()

    _count_statements(tick)
    for name in CHANGES if files else NAMING:
        setattr(os, name, _counted(getattr(os, name), tick))
    if files:
        _count_files(tick, is_last)


def _count_files(tick: Callable[[], None], is_last: Callable[[], bool]) -> None:
    opened, opened_low = io.open, os.open

    def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not any(letter in mode for letter in "wax"):
            return opened(file, mode, *args, **kwargs)
        tick()
        found = opened(file, mode, *args, **kwargs)
        found.write = _torn(found, is_last)  # type: ignore[method-assign]
        return found

    def open_low(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & CREATING:
            tick()
        return opened_low(path, flags, *args, **kwargs)

    os.open = open_low
    io.open = builtins.open = open_file


def _counted(operation: Callable[..., Any], tick: Callable[[], None]) -> Callable[..., Any]:
    def change(*args: Any, **kwargs: Any) -> Any:
        tick()
        return operation(*args, **kwargs)

    return change


def _torn(file: Any, is_last: Callable[[], bool]) -> Callable[[Any], Any]:
    write = file.write

    def change(content: Any) -> Any:
        if is_last():
            write(content[: len(content) // 2])
            file.flush()
            die()
        return write(content)

    return change


def _count_statements(tick: Callable[[], None]) -> None:
    def statement(_: Any, __: Any, sql: str, *rest: Any) -> None:
        if sql.lstrip().startswith(OF_DATABASES):
            tick()

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", lambda _: tick())


def deaths(
    act: Callable[[], object],
    *,
    prepared: Callable[[], object],
    every: int = 1,
    files: bool = True,
) -> Iterator[int]:
    """Let `act` die before each operation in turn, until it comes to its end; yield which.

    Args:
        act: what is done, each time in a process of its own.
        prepared: makes the place as `act` is to find it.
        every: with 3, every third operation.
        files: whether what happens inside files counts, beside names and databases.
    """
    for call in count(1, every):
        prepared()

        def crash(call: int = call) -> None:
            die_before(call, files=files)
            act()

        status = in_child(crash)
        assert status == 0 or killed(status), f"before operation {call}: wait status {status}"
        yield call
        if status == 0:
            return
