"""Places in a bucket, `s3://bucket/key`: read like a path, written once or by exchange.

An object store has no rename, but an object appears whole or not at all, and a write may have a
condition: that nothing is there (`If-None-Match: *`), or that there still is what was read
(`If-Match`). That is all that publishing needs.

A home is read through Arrow and written through boto3, which the extra `s3` installs; sources are
read through boto3 (`data.objects`). Credentials, region and endpoint come from the environment as
in every AWS tool (`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3`,
`AWS_ENDPOINT_URL`), never from the address.
"""

import fnmatch
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow.fs

SCHEME = "s3://"
ADDRESS = re.compile(
    r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_=+-][A-Za-z0-9._=+-]*)*/?"
)
BLOCK_BYTES = 8 << 20  # of one request: what is read in order comes in blocks
NOT_FOUND, CONFLICT, CONDITION_FAILED, NOT_IMPLEMENTED = 404, 409, 412, 501
CONFLICT_WAITS_S = (0.1, 0.4, 1.6)  # another conditional write of that name is under way
ATTEMPTS = 5
CONNECTIONS = 16  # that are kept open


class BucketError(RuntimeError):
    """An object store cannot be reached, refuses, or cannot do what publishing needs."""


class RefusedError(BucketError):
    """The store answered, and said no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Written(NamedTuple):
    """What a store says of an object."""

    time_s: float  # since 1970
    bytes: int


@dataclass(frozen=True, order=True)
class S3Path:
    """An object, or what the names of objects begin with."""

    bucket: str
    key: str = ""

    @classmethod
    def at(cls, address: str) -> "S3Path":
        """Read an address.

        Raises:
            ValueError: it is none, or holds more than bucket and prefix. It is not repeated:
                what is too much may be a secret.
        """
        if ADDRESS.fullmatch(address) is None:
            raise ValueError(
                "an address in object storage is s3://BUCKET/PREFIX, the prefix of letters, "
                "digits, '.', '_', '=', '+' and '-'; credentials come from the environment"
            )
        bucket, _, key = address.removeprefix(SCHEME).partition("/")
        return cls(bucket, key.rstrip("/"))

    def __str__(self) -> str:
        return f"{SCHEME}{self._path}"

    def __truediv__(self, name: str) -> "S3Path":
        return S3Path(self.bucket, f"{self.key}/{name}".lstrip("/"))

    @property
    def name(self) -> str:
        """The last part of the key."""
        return PurePosixPath(self.key).name

    @property
    def parent(self) -> "S3Path":
        """The place above."""
        above = str(PurePosixPath(self.key).parent)
        return S3Path(self.bucket, "" if above == "." else above)

    @property
    def _path(self) -> str:
        return f"{self.bucket}/{self.key}".rstrip("/")

    def exists(self) -> bool:
        """Whether there is an object of this name."""
        with self._reading():
            found = arrow_store().get_file_info(self._path)
        return bool(found.type == pyarrow.fs.FileType.File)

    def read_bytes(self) -> bytes:
        """The object's bytes.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self.read_version()[0]

    def read_version(self) -> tuple[bytes, str]:
        """The object's bytes, and the entity tag that `exchange` asks for."""
        with self._reading(), arrow_store().open_input_stream(self._path, None) as stream:
            return bytes(stream.readall()), stream.metadata()["ETag"].decode()

    def open(self) -> Any:
        """Open the object for reading in any order, by ranges."""
        with self._reading():
            return arrow_store().open_input_file(self._path)

    def blocks(self) -> Iterator[bytes]:
        """Yield the object's bytes in order, some megabytes at a time."""
        with self._reading(), arrow_store().open_input_stream(self._path, None) as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block

    def glob(self, pattern: str) -> Iterator["S3Path"]:
        """Yield the objects below whose name matches, part by part, in order."""
        yield from self.among(self.objects(), pattern)

    def among(self, objects: Iterable["S3Path"], pattern: str) -> Iterator["S3Path"]:
        """Yield those of some objects below that `glob` would."""
        wanted = PurePosixPath(pattern).parts
        for path in objects:
            parts = PurePosixPath(path.key.removeprefix(f"{self.key}/")).parts
            if len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted)):
                yield path

    def objects(self) -> list["S3Path"]:
        """All objects below, in order."""
        return sorted(self.written())

    def written(self) -> dict["S3Path", Written]:
        """All objects below, and when each was written."""
        selector = pyarrow.fs.FileSelector(self._path, recursive=True, allow_not_found=True)
        with self._reading():
            found = arrow_store().get_file_info(selector)
        return {
            S3Path(*info.path.split("/", 1)): Written(info.mtime_ns / 1e9, info.size)
            for info in found
            if info.type == pyarrow.fs.FileType.File
        }

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"{self} is not there") from None
        except OSError as error:
            said = str(error).partition("\n")[0]
            raise BucketError(f"{self} cannot be read: {said}") from None

    def put_once(self, content: bytes | Path, said: Mapping[str, str] | None = None) -> bool:
        """Write the object unless there is one; False if there is.

        Args:
            content: the bytes, or a file that has them.
            said: short texts that `metadata` returns.
        """
        return self._put(content, Metadata=dict(said or {}), IfNoneMatch="*")

    def exchange(self, content: bytes, tag: str | None) -> bool:
        """Replace what had the entity tag (None: nothing); False if something else is there."""
        if tag is None:
            return self._put(content, IfNoneMatch="*")
        return self._put(content, IfMatch=tag)

    def change(self, change: Callable[[bytes | None], bytes]) -> None:
        """Replace the object by what `change` makes of it, though others may do so meanwhile.

        `change` gets None where there is no object, and is asked again where another was quicker.
        """
        while True:
            try:
                content, tag = self.read_version()
            except FileNotFoundError:
                content, tag = None, None
            if self.exchange(change(content), tag):
                return

    def replace(self, content: bytes | Path, said: Mapping[str, str] | None = None) -> None:
        """Write the object, whatever was there: a reader gets the old bytes or the new ones."""
        self._put(content, Metadata=dict(said or {}))

    def metadata(self) -> dict[str, str] | None:
        """What was said of the object when it was written; None where there is none."""
        try:
            return dict(self._ask("head_object")["Metadata"])
        except RefusedError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    def unlink(self) -> None:
        """Remove the object, if it is there."""
        self._ask("delete_object")

    def _put(self, content: bytes | Path, **options: Any) -> bool:
        waits_s = iter(CONFLICT_WAITS_S)
        while True:
            try:
                if isinstance(content, bytes):
                    self._ask("put_object", Body=content, **options)
                else:
                    with content.open("rb") as file:
                        self._ask("put_object", Body=file, **options)
                return True
            except RefusedError as error:
                gone = error.status == NOT_FOUND and "IfMatch" in options
                if gone or error.status == CONDITION_FAILED:
                    return False
                wait_s = next(waits_s, None)
                if error.status != CONFLICT or wait_s is None:
                    raise
            time.sleep(wait_s)

    def _ask(self, operation: str, **options: Any) -> dict[str, Any]:
        client = boto_client()
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return dict(getattr(client, operation)(Bucket=self.bucket, Key=self.key, **options))
        except ClientError as error:
            status = int(error.response["ResponseMetadata"]["HTTPStatusCode"])
            raise RefusedError(f"{self}: the object store refuses: {error}", status) from None
        except BotoCoreError as error:
            raise BucketError(f"{self}: the object store cannot be reached: {error}") from None


def opened(address: str | Path) -> Path | S3Path:
    """A place by its address: a folder of this machine, or `s3://...`."""
    text = str(address)
    return S3Path.at(text) if text.startswith(SCHEME) else Path(address)


def prove_conditions(note: S3Path, content: bytes) -> None:
    """Write a note twice: a store that lets the second pass would let two writers overwrite.

    Raises:
        BucketError: the store ignores the condition of a write, or has none.
    """
    try:
        if not (note.put_once(content) and note.put_once(content)):
            return
    except RefusedError as error:
        if error.status != NOT_IMPLEMENTED:
            raise
    note.unlink()
    raise BucketError(
        f"the object store of {note.parent} ignores `If-None-Match`: a second write of one name "
        f"passed, so two writers could overwrite each other. Keep the home in a store with "
        f"conditional writes, or on a disk that the machines share"
    )


def arrow_store() -> pyarrow.fs.FileSystem:
    """Arrow's view of the store that the environment names."""
    return _arrow_store(endpoint(), _region())


def boto_client(*, public: bool = False) -> Any:
    """The client of boto3 for the store that the environment names.

    Args:
        public: where there are no credentials, ask as anyone may ask a public bucket.

    Raises:
        BucketError: boto3 is not installed.
    """
    try:
        return _boto_client(endpoint(), _region(), public=public)
    except ImportError:
        raise BucketError(
            "s3:// needs the extra s3: pip install 'latent-features[s3]'"
        ) from None


@lru_cache
def _arrow_store(endpoint: str | None, region: str | None) -> pyarrow.fs.FileSystem:
    settings: dict[str, Any] = {}
    if endpoint:
        parts = urlsplit(endpoint)
        settings = {"endpoint_override": parts.netloc, "scheme": parts.scheme}
    return pyarrow.fs.S3FileSystem(region=region, **settings)


@lru_cache
def _boto_client(endpoint: str | None, region: str | None, *, public: bool) -> Any:
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    retries = {"mode": "standard", "max_attempts": ATTEMPTS}
    config = Config(retries=retries, max_pool_connections=CONNECTIONS)
    if public and boto3.Session().get_credentials() is None:
        config = config.merge(Config(signature_version=UNSIGNED))
    return boto3.client("s3", endpoint_url=endpoint, region_name=region, config=config)


def endpoint() -> str | None:
    """The address of the object store, where the environment names one."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
