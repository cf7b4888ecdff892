"""A TCP proxy that misbehaves: between a client of ours and a server, or with no server at all."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

Fault = Literal["refuse", "hang", "503", "garbage"]

UNAVAILABLE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
)


@contextmanager
def faulty(fault: Fault) -> Iterator[str]:
    """Listen on loopback and serve each connection the fault; give the address."""

    def serve(client: socket.socket) -> None:
        if fault == "hang":
            return
        if fault != "refuse":
            client.recv(65_536)
            client.sendall(UNAVAILABLE if fault == "503" else b"\x00\xff" * 100)
        client.close()

    with _listening(serve) as address:
        yield address


@contextmanager
def cut_after(passing: int, port: int) -> Iterator[str]:
    """Pass everything on to the server at `port` until so many bytes of answers have passed."""
    left, one_at_a_time = passing, threading.Lock()

    def allowed(content: bytes) -> bytes:
        nonlocal left
        with one_at_a_time:
            passed = content[: max(0, left)]
            left -= len(passed)
        return passed

    def serve(client: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            threading.Thread(target=_copy, args=(client, server), daemon=True).start()
            with suppress(OSError):
                while (content := server.recv(65_536)) and (passed := allowed(content)):
                    client.sendall(passed)
        client.close()

    with _listening(serve) as address:
        yield address


@contextmanager
def _listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    held: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                held.append(client)
                threading.Thread(target=_quietly, args=(serve, client), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    for client in held:
        client.close()


def _quietly(serve: Callable[[socket.socket], None], client: socket.socket) -> None:
    with suppress(OSError):
        serve(client)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65_536):
            target.sendall(content)
