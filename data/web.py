"""Files behind https://, brought once and whole, whatever breaks in between.

A file lies in a folder of the cache (`LATENTS_CACHE`, else `~/.cache/latents`) that is named by
its address and by what the server says of it: entity tag, time of change, size. Who is killed
leaves what had come, and the next process goes on there, if the server still has that very file
(`If-Range`) and knows ranges; else it begins anew. Processes that want the same file at the same
time wait for the first and use its file. The last that used it removes it; what killed ones left
goes when the server has another file, when the machine was restarted (a power loss may have
taken some of it), or after a week.
"""

import fcntl
import http.client
import io
import os
import random
import shutil
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from data.addresses import connection_to, without_secrets
from data.durable import folder_of, room_in
from data.formats import SourceError
from data.publication import digest_of
from data.working_copy import caches

MAX_REDIRECTS = 5
ATTEMPTS = 4
BLOCK_BYTES = 1 << 20
REDIRECTS = (301, 302, 303, 307, 308)
PARTIAL_CONTENT = 206
KEPT_S = 7 * 86_400  # what a killed process left
STILL_S = 60  # a time of change stands for the content only if it was that long ago
BOOT = Path("/proc/sys/kernel/random/boot_id")
LOCK, PARTIAL = ".lock", ".partial"


@dataclass(frozen=True)
class WebFile:
    """A file, and what the server said of it at first."""

    url: str
    name: str
    said: Mapping[str, str | None]  # entity tag and time of change
    length: str | None
    validator: str | None  # what names this content and no other

    def __str__(self) -> str:
        return without_secrets(self.url)

    @property
    def identity(self) -> str:
        """What changes with the file; another each time where the server says nothing."""
        known = any(self.said.values())
        return digest_of([dict(self.said), self.length]) if known else os.urandom(8).hex()


def seen_file(url: str) -> WebFile:
    """Ask what is there.

    Raises:
        SourceError: nothing is, or the host may not be asked.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    with _response("HEAD", url) as response:
        length, said = response.getheader("Content-Length"), _said(response)
        validator = _validator(response)
    if not name:
        raise SourceError(f"{without_secrets(url)} names no file")
    return WebFile(url, name, said, length, validator)


def folder_with(file: WebFile, owner: object) -> Path:
    """Return a folder that holds the whole file, for as long as `owner` lives.

    Raises:
        SourceError: the connection breaks again and again, or the file changes meanwhile.
        DiskFullError: there is no room for it.
    """
    try:
        folder = _folder_of(file)
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:  # there is no place for a cache: nobody can go on after us
        return _completed(file, folder_of(owner))
    if file.validator is None or file.length is None:
        return _completed(file, folder_of(owner))
    _sweep(folder)
    lock = _held(file, folder)
    weakref.finalize(owner, _release, lock, folder, os.getpid())
    return folder


def _folder_of(file: WebFile) -> Path:
    boot = BOOT.read_text() if BOOT.exists() else ""
    version = digest_of([file.identity, boot])
    return caches() / "downloads" / f"{digest_of(str(file))[:16]}-{version[:16]}"


def _held(file: WebFile, folder: Path) -> IO[str]:
    """Lock a folder that has the whole file, so that nobody removes it; fetch what is missing.

    Who fetches has the lock alone. The others wait for it, and then share it with all that read.
    """
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        with ExitStack() as stack, suppress(FileNotFoundError, BlockingIOError):
            lock = stack.enter_context((folder / LOCK).open("a"))
            fcntl.flock(lock, fcntl.LOCK_SH)
            if not _is_there(lock, folder):  # it was removed while we waited
                continue
            if (folder / file.name).exists():
                stack.pop_all()
                return lock
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _completed(file, folder)
            continue
        time.sleep(random.Random().uniform(0.01, 0.1))  # out of step with the others


def _is_there(lock: IO[str], folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK).stat())
    except FileNotFoundError:
        return False


def _release(lock: IO[str], folder: Path, process: int) -> None:
    if os.getpid() == process:  # a fork has a copy of the owner, and no right to its folder
        with lock:
            _remove_unused(lock, folder)


def _remove_unused(lock: IO[str], folder: Path) -> None:
    """Remove a folder unless somebody uses it."""
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_there(lock, folder):
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what is of no use: other contents of this address, and what is old."""
    for other in folder.parent.iterdir():
        with suppress(FileNotFoundError):  # others sweep, too
            newest = max(path.stat().st_mtime for path in (other, *other.iterdir()))
            same_address = other.name.partition("-")[0] == folder.name.partition("-")[0]
            if other != folder and (same_address or time.time() - newest > KEPT_S):
                with (other / LOCK).open("a") as lock:
                    _remove_unused(lock, other)


def _completed(file: WebFile, folder: Path) -> Path:
    """Fetch what is missing of a file, and give it its name; return the folder."""
    path, partial, validator = folder / file.name, folder / PARTIAL, file.validator
    for _ in range(ATTEMPTS):
        done = partial.stat().st_size if validator and partial.exists() else 0
        if done and str(done) == file.length:
            partial.rename(path)
            return folder
        asked = {"Range": f"bytes={done}-", "If-Range": validator or ""} if done else {}
        with _response("GET", file.url, asked) as response, room_in(folder):
            _refuse_change(file, response)
            if response.status == PARTIAL_CONTENT and not _begins_at(response, done):
                partial.unlink()  # this server's ranges are of no use
                continue
            done = done if response.status == PARTIAL_CONTENT else 0
            validator = validator or _validator(response)
            length = response.getheader("Content-Length")
            with partial.open("ab" if done else "wb", buffering=0) as content:
                is_whole = _append(response, content)
        if is_whole and (length is None or partial.stat().st_size == done + int(length)):
            partial.rename(path)
            return folder
    raise SourceError(f"{file} broke off {ATTEMPTS} times; try again")


def _append(response: http.client.HTTPResponse, content: io.FileIO) -> bool:
    """Write what comes; False where the connection broke."""
    while True:
        try:
            block = response.read1(
                BLOCK_BYTES
            )  # what there is: it is kept, whatever comes then
        except (OSError, http.client.HTTPException):
            return False
        if not block:
            return True
        content.write(block)


def _said(response: http.client.HTTPResponse) -> dict[str, str | None]:
    return {name: response.getheader(name) for name in ("ETag", "Last-Modified")}


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What `If-Range` may hold: a strong entity tag, or a time that one content alone has."""
    said = _said(response)
    if said["ETag"]:
        return None if said["ETag"].startswith("W/") else said["ETag"]
    with suppress(TypeError, ValueError):
        changed, now = said["Last-Modified"], response.getheader("Date")
        still = parsedate_to_datetime(now or "") - parsedate_to_datetime(changed or "")
        if still.total_seconds() >= STILL_S:
            return changed
    return None


def _refuse_change(file: WebFile, response: http.client.HTTPResponse) -> None:
    for name, now in _said(response).items():
        if now and file.said[name] and now != file.said[name]:
            raise SourceError(f"{file} was changed while it was read; run again")


def _begins_at(response: http.client.HTTPResponse, start: int) -> bool:
    return (response.getheader("Content-Range") or "").startswith(f"bytes {start}-")


@contextmanager
def _response(
    method: str, url: str, headers: Mapping[str, str] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """Ask for a URL; follow redirects, each to a host that may be asked."""
    for _ in range(MAX_REDIRECTS + 1):
        connection, parts = connection_to(url)
        with closing(connection):
            response = _answer(connection, method, parts, headers or {})
            if response.status not in REDIRECTS:
                if response.status >= 400:
                    said = f"{response.status} {response.reason}"
                    raise SourceError(f"{without_secrets(url)}: the server says {said}")
                yield response
                return
        url = urljoin(url, response.getheader("Location") or "")
    raise SourceError(f"{without_secrets(url)} is redirected more than {MAX_REDIRECTS} times")


def _answer(
    connection: http.client.HTTPConnection,
    method: str,
    parts: SplitResult,
    headers: Mapping[str, str],
) -> http.client.HTTPResponse:
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    host = parts.netloc.rpartition("@")[2]
    fields = {"Host": host, "User-Agent": "latent-features", **headers}
    try:
        connection.request(method, path, headers=fields)
        return connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        where = without_secrets(parts.geturl())
        raise SourceError(f"{where} cannot be reached: {error}") from None
