"""A process that does a part of the work, and the pipes to it: both ends.

What is said is a line of JSON. A child that works on something that its parent alone can reach
says two things more before it answers:

    {"wants": [start, length]}    the bytes of that range come back
    {"sends": length}             so many bytes follow
"""

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

PIPE_BYTES = 1 << 20
READ_BYTES = 64 << 10


class Process:
    """A child, as its parent sees it."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        assert self._process.stdin is not None, "it was started with pipes"
        assert self._process.stdout is not None, "it was started with pipes"
        self._in, self._out = self._process.stdin, self._process.stdout
        for pipe in (self._in, self._out):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._waiting = select.poll()  # select() cannot wait for a descriptor beyond 1023
        self._waiting.register(self._out, select.POLLIN)
        self._unread = bytearray()
        self.left_s = 0.0  # how long we go on waiting for it, all in all

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def tell(self, content: bytes | memoryview) -> None:
        """Write to its standard input.

        Raises:
            BrokenPipeError: it is dead.
        """
        self._in.write(content)
        self._in.flush()

    def hear(self) -> dict[str, Any]:
        """Return the next thing that it says.

        Raises:
            EOFError: it is dead.
            TimeoutError: it took longer than `left_s`.
        """
        while (end := self._unread.find(b"\n")) < 0:
            self._wait()
            content = os.read(self._out.fileno(), READ_BYTES)
            if not content:
                raise EOFError("the child is dead")
            self._unread += content
        line = bytes(self._unread[:end])
        del self._unread[: end + 1]
        return dict(json.loads(line))

    def receive(self, length: int) -> memoryview:
        """Return so many bytes that it sends; raises as `hear` does."""
        content = memoryview(bytearray(length))
        done = min(length, len(self._unread))
        content[:done] = self._unread[:done]
        del self._unread[:done]
        while done < length:
            self._wait()
            count = os.readv(self._out.fileno(), [content[done:]])
            if not count:
                raise EOFError("the child is dead")
            done += count
        return content.toreadonly()

    def _wait(self) -> None:
        started = time.perf_counter()
        came = self._waiting.poll(max(0.0, 1000 * self.left_s))
        self.left_s -= time.perf_counter() - started
        if not came:
            raise TimeoutError("the child takes too long")

    def wait(self) -> int:
        """Wait for its end; return its exit status."""
        return self._process.wait()

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._out.close()
        with suppress(BrokenPipeError):  # what it was not told yet
            self._in.close()


def say(message: Mapping[str, Any]) -> None:
    """Of the child: say something to its parent."""
    sys.stdout.buffer.write(json.dumps(message).encode() + b"\n")
    sys.stdout.buffer.flush()


def ask(start: int, length: int) -> bytes:
    """Of the child: get a range of what its parent can reach."""
    say({"wants": [start, length]})
    return sys.stdin.buffer.read(length)


def send(content: bytes | memoryview) -> None:
    """Of the child: hand over bytes."""
    say({"sends": len(content)})
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
