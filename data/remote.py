"""Files behind https:// and s3://, fetched once into a temporary folder when they are needed.

Whether a source has changed is told without fetching it, by what the server says of it (entity
tag, size, time of change). What is fetched is written beside its name, goes on where a broken
connection left it, and gets its name when it is whole.

For s3, credentials, region and endpoint come from the environment as in every AWS tool
(`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`),
never from the URL: a spec must not choose whom this machine shows its credentials.
"""

import http.client
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import pyarrow.fs

from data.addresses import connection_to, without_secrets
from data.bucket import BucketError, S3Path, arrow_store
from data.durable import folder_of
from data.formats import SourceError
from data.publication import digest_of

MAX_REDIRECTS = 5
ATTEMPTS = 4
BLOCK_BYTES = 1 << 20
REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class Fetched:
    """Remote files: what identifies them, and a local folder that holds them once asked for."""

    where: str
    base: str  # what the names of the files are below
    files: tuple["RemoteFile", ...]
    pattern: str = ""  # what stands for the files in the folder; "" where there is one

    @cached_property
    def digest(self) -> str:
        """What identifies the files, by what the server says."""
        return digest_of([[file.name, file.tag] for file in self.files])

    @cached_property
    def folder(self) -> Path:
        """The local folder that stands for `base`."""
        folder = folder_of(self)
        for file in self.files:
            path = folder / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            file.fetch(path)
        return folder

    def local(self) -> str:
        """Fetch all files; return the path, folder or pattern that stands for them here."""
        return str(self.folder / (self.pattern or self.files[0].name))


@dataclass(frozen=True)
class RemoteFile:
    """One file: its name, what the server says of its content, and how to get it."""

    name: str
    tag: str
    fetch: Callable[[Path], None]

    def __post_init__(self) -> None:
        if ".." in PurePosixPath(self.name).parts or PurePosixPath(self.name).is_absolute():
            raise SourceError(f"{self.name!r} would be written outside its folder; rename it")


def remote(url: str) -> Fetched:
    """Look for what a URL names.

    Raises:
        SourceError: nothing is there, or it may not be asked.
    """
    if url.startswith("s3://"):
        return _from_s3(url)
    with _response("HEAD", url) as response:
        tag = {name: response.getheader(name) for name in ("ETag", "Last-Modified")}
        size = response.getheader("Content-Length")
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if not name:
        raise SourceError(f"{without_secrets(url)} names no file")
    identity = digest_of([tag, size]) if any(tag.values()) else os.urandom(8).hex()
    file = RemoteFile(name, identity, lambda path: _download(url, path))
    where = without_secrets(url)
    return Fetched(where, where.partition("?")[0].rpartition("/")[0], (file,))


@contextmanager
def _response(
    method: str, url: str, headers: dict[str, str] | None = None
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
    headers: dict[str, str],
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


def _download(url: str, path: Path) -> None:
    partial, tag = path.with_name(f".{path.name}.partial"), ""
    partial.touch()
    for _ in range(ATTEMPTS):
        done = partial.stat().st_size
        headers = {"Range": f"bytes={done}-", "If-Range": tag} if done and tag else {}
        with _response("GET", url, headers) as response:
            if response.status != 206:
                done = 0
            tag = response.getheader("ETag") or ""
            length = response.getheader("Content-Length")
            with partial.open("ab" if done else "wb") as file:
                file.writelines(_blocks(response))
        if length is None or partial.stat().st_size == done + int(length):
            partial.rename(path)
            return
    raise SourceError(f"{without_secrets(url)} broke off {ATTEMPTS} times; try again")


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield what comes; a connection that breaks ends it early."""
    with suppress(OSError, http.client.HTTPException):
        while block := response.read(BLOCK_BYTES):
            yield block


def _from_s3(url: str) -> Fetched:
    store = arrow_store()
    key = url.removeprefix("s3://").partition("?")[0].rstrip("/")
    parts = PurePosixPath(key).parts
    is_magic = [any(mark in part for mark in "*[") for part in parts]
    base = "/".join(parts[: is_magic.index(True)] if True in is_magic else parts)
    try:
        info = store.get_file_info(base)
        if info.type == pyarrow.fs.FileType.File:
            place, _, name = base.rpartition("/")
            return Fetched(url, f"s3://{place}", (_object(store, base, name),))
        selector = pyarrow.fs.FileSelector(base, recursive=True, allow_not_found=True)
        found = sorted(
            entry.path
            for entry in store.get_file_info(selector)
            if entry.type == pyarrow.fs.FileType.File
        )
        files = tuple(
            _object(store, path, path.removeprefix(base).lstrip("/")) for path in found
        )
    except OSError as error:
        raise SourceError(f"{url} cannot be reached: {str(error).splitlines()[0]}") from None
    if not files:
        raise SourceError(f"{url} holds nothing; check bucket and prefix")
    pattern = "/".join(parts[len(PurePosixPath(base).parts) :]) or "."
    return Fetched(url, f"s3://{base}", files, pattern)


def _object(store: Any, path: str, name: str) -> RemoteFile:
    tag = _tag(store, path)

    def fetch(target: Path) -> None:
        """Read block by block, each asked for again where the connection broke."""
        try:
            with target.open("wb") as file:
                file.writelines(S3Path(*path.split("/", 1)).blocks())
        except (BucketError, FileNotFoundError) as error:
            raise SourceError(str(error)) from None
        if _tag(store, path) != tag:
            raise SourceError(f"s3://{path} was changed while it was read; run again")

    return RemoteFile(name, tag, fetch)


def _tag(store: Any, path: str) -> str:
    with store.open_input_stream(path) as stream:
        metadata = {key: value.decode() for key, value in stream.metadata().items()}
    return digest_of({key: metadata.get(key) for key in ("ETag", "Content-Length")})
