"""Files behind https:// and s3://: what is there, and a folder that holds copies when asked for.

Whether a source has changed is told without fetching it, by what the server says of it (entity
tag, size, time of change). What it said at first holds: a file that changes while it is read is
an error. `data.streamed` reads some formats without a copy.

For s3, credentials, region and endpoint come from the environment as in every AWS tool
(`AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`),
never from the URL: a spec must not choose whom this machine shows its credentials.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath

from data.addresses import without_secrets
from data.blocks import Blocks
from data.bucket import S3Path
from data.durable import folder_of, room_in
from data.formats import SourceError
from data.objects import SeenObject, objects_below, seen_object
from data.publication import digest_of
from data.web import folder_with, seen_file

SCHEMES = ("s3://", "https://", "http://")


@dataclass(frozen=True)
class Remote:
    """Files elsewhere: what identifies them, and a local folder that holds them once asked for."""

    where: str
    base: str  # what the names of the files are below
    files: tuple["RemoteFile", ...]
    bring: Callable[[object], Path]  # the folder with all files, for as long as its owner lives
    pattern: str = ""  # what stands for the files in the folder; "" where there is one

    @cached_property
    def digest(self) -> str:
        """What identifies the files, by what the server says."""
        return digest_of([[file.name, file.identity] for file in self.files])

    @cached_property
    def folder(self) -> Path:
        """The local folder that stands for `base`."""
        return self.bring(self)

    def local(self) -> str:
        """Fetch all files; return the path, folder or pattern that stands for them here."""
        return str(self.folder / (self.pattern or self.files[0].name))


@dataclass(frozen=True)
class RemoteFile:
    """One file: its name, and what changes when its content does."""

    name: str
    identity: str
    seen: SeenObject | None = None  # where it can be read by ranges

    def __post_init__(self) -> None:
        if ".." in PurePosixPath(self.name).parts or PurePosixPath(self.name).is_absolute():
            raise SourceError(f"{self.name!r} would be written outside its folder; rename it")


def remote(url: str) -> Remote:
    """Look for what a URL names.

    Raises:
        SourceError: nothing is there, or it may not be asked.
    """
    if url.startswith("s3://"):
        return _from_s3(url)
    seen = seen_file(url)
    where = without_secrets(url)
    base = where.partition("?")[0].rpartition("/")[0]
    return Remote(
        where, base, (RemoteFile(seen.name, seen.identity),), partial(folder_with, seen)
    )


def _from_s3(url: str) -> Remote:
    parts = PurePosixPath(url.removeprefix("s3://").partition("?")[0]).parts
    is_magic = [any(mark in part for mark in "*[") for part in parts]
    base = S3Path(
        parts[0], "/".join(parts[1 : is_magic.index(True)] if True in is_magic else parts[1:])
    )
    seen = seen_object(base) if base.key else None
    if seen is not None:
        file = RemoteFile(base.name, seen.identity, seen)
        return Remote(url, str(base.parent), (file,), partial(_copied, (file,)))
    files = tuple(
        RemoteFile(str(found).removeprefix(f"{base}/"), found.identity, found)
        for found in objects_below(base)
    )
    if not files:
        raise SourceError(f"{url} holds nothing; check bucket and prefix")
    pattern = "/".join(parts[1 + len(PurePosixPath(base.key).parts) :]) or "."
    return Remote(url, str(base), files, partial(_copied, files), pattern)


def _copied(files: tuple[RemoteFile, ...], owner: object) -> Path:
    folder = folder_of(owner)
    for file in files:
        if file.seen is None:
            continue
        path = folder / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            room_in(path.parent),
            path.open("wb") as copy,
            closing(Blocks(file.seen.read, file.seen.size)) as blocks,
        ):
            copy.writelines(blocks.pieces(0, file.seen.size))
    return folder
