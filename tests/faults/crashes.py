"""A process that dies before its k-th persistence operation, for every k until it comes through.

A fork has everything imported, so that hundreds of deaths take seconds. In it are counted the
functions of `os` that change what a disk holds, the writes of every file that Python opened
(pyarrow and safetensors write through those), and the changes to a database by SQLAlchemy.
Before the k-th of them the process kills itself; of a write, half has been done by then.
"""

import builtins
import io
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from sqlalchemy import event
from sqlalchemy.engine import Engine

CHANGES = ("fsync", "link", "mkdir", "rename", "replace", "rmdir", "unlink", "write")
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
    try:
        act()
        os._exit(0)
    except BaseException:  # noqa: BLE001  # nothing of the parent may run here
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def wait(child: int) -> int:
    return os.waitpid(child, 0)[1]


def killed(status: int) -> bool:
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def die() -> NoReturn:
    """As if the power of this process were cut."""
    while True:
        os.kill(os.getpid(), signal.SIGKILL)


def die_before(call: int) -> None:
    """Let this process die just before its `call`-th operation from now."""
    calls, one_at_a_time = count(1), threading.Lock()

    def is_last() -> bool:
        with one_at_a_time:
            return next(calls) == call

    def tick() -> None:
        if is_last():
            die()

    def counted(operation: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            tick()
            return operation(*args, **kwargs)

        return change

    def torn(file: Any) -> Callable[[Any], Any]:
        write = file.write

        def change(content: Any) -> Any:
            if is_last():
                write(content[: len(content) // 2])
                file.flush()
                die()
            return write(content)

        return change

    opened, opened_low = io.open, os.open

    def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        creates = isinstance(mode, str) and any(letter in mode for letter in "wax")
        if creates:
            tick()
        found = opened(file, mode, *args, **kwargs)
        if creates:
            found.write = torn(found)
        return found

    def open_low(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & CREATING:
            tick()
        return opened_low(path, flags, *args, **kwargs)

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    os.open = open_low  # type: ignore[assignment]
    io.open = builtins.open = open_file  # type: ignore[assignment]

    def statement(_: Any, __: Any, sql: str, *rest: Any) -> None:
        if sql.lstrip().startswith(OF_DATABASES):
            tick()

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", lambda _: tick())


def deaths(
    root: Path,
    act: Callable[[Path], object],
    *,
    prepared: Callable[[Path], object] = Path.mkdir,
    every: int = 1,
) -> Iterator[Path]:
    """Yield folders in which `act` died, before each operation in turn, and one where it did not.

    Args:
        root: where the folders are made; each is gone when the next is asked for.
        act: what is done in a folder.
        prepared: makes the folder as `act` finds it.
        every: with 3, every third operation.
    """
    for call in count(1, every):
        folder = root / f"died-{call}"
        prepared(folder)

        def crash(folder: Path = folder, call: int = call) -> None:
            die_before(call)
            act(folder)

        status = in_child(crash)
        assert status == 0 or killed(status), f"before operation {call}: wait status {status}"
        yield folder
        shutil.rmtree(folder)
        if status == 0:
            return
