"""Web servers in this process, on loopback, with the faults of real ones."""

import http.server
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Site:
    """A web server for one test: what it serves, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    broken: int = 0  # how many answers break off half way
    knows_ranges: bool = True
    says: dict[str, str] = field(default_factory=dict)  # in place of a strong entity tag
    chunked: bool = False  # it does not say how long an answer is
    stalls_after: int | None = None  # so many bytes of an answer, until it `goes_on`
    goes_on: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        content = self.answer()
        if self.site.chunked and content:
            content = b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)
        if self.site.broken and content:
            self.site.broken -= 1
            content = content[: len(content) // 2]
        if self.site.stalls_after is not None:
            self.wfile.write(content[: self.site.stalls_after])
            content = content[self.site.stalls_after :]
            self.site.goes_on.wait()
        self.wfile.write(content)

    def answer(self) -> bytes:
        wanted = self.headers.get("Range")
        self.site.asked.append(f"{self.command} {wanted or ''}".strip())
        name = self.path.partition("?")[0]
        if name in self.site.redirects:
            self.send_response(302)
            self.send_header("Location", self.site.redirects[name])
            self.end_headers()
            return b""
        if name not in self.site.files:
            self.send_error(404)
            return b""
        return self.range_of(self.site.files[name], wanted)

    def range_of(self, content: bytes, wanted: str | None) -> bytes:
        said = self.site.says or {"ETag": f'"{hash(content)}"'}
        condition, start = self.headers.get("If-Range"), 0
        if wanted and self.site.knows_ranges and condition in (None, *said.values()):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            said = {**said, "Content-Range": f"bytes {start}-{len(content) - 1}/*"}
        length = {"Content-Length": str(len(content) - start)}
        said = said | ({"Transfer-Encoding": "chunked"} if self.site.chunked else length)
        for header, value in said.items():
            self.send_header(header, value)
        self.end_headers()
        return content[start:]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class served:
    def __init__(self, site: Site, context: ssl.SSLContext | None = None) -> None:
        self.site = site
        handler = type("HandlerOfSite", (Handler,), {"site": site})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(
            target=self.server.serve_forever, args=(0.05,), daemon=True
        )

    def __enter__(self) -> http.server.ThreadingHTTPServer:
        self.thread.start()
        return self.server

    def __exit__(self, *_: object) -> None:
        self.site.goes_on.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@contextmanager
def cut_off(address: str, *, after_bytes: int) -> Iterator[tuple[str, list[int]]]:
    """A way to a server that breaks once, when an answer has come this far."""
    there = urlsplit(address)
    cuts: list[int] = []

    class Way(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            server = socket.create_connection((there.hostname or "", there.port or 0))
            asking = threading.Thread(target=pumped, args=(self.request, server))
            asking.start()
            done = 0
            with suppress(OSError):
                while block := server.recv(65_536):
                    done += len(block)
                    if done > after_bytes and not cuts:
                        cuts.append(done)
                        break
                    self.request.sendall(block)
            for end in (self.request, server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            asking.join()
            server.close()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Way) as way:
        thread = threading.Thread(target=way.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{way.server_address[1]}", cuts
        way.shutdown()
        thread.join()


def pumped(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while block := one.recv(65_536):
            other.sendall(block)
