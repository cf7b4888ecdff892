"""A home in a bucket, and the folder of this machine that stands for it: its working copy.

A working copy carries a file `.latents-home.json` that says which home it stands for. Stages work
in it as in any home; they bring what they need from the bucket, then what they made into it:

    manifests and what lies beside them    when a stage looks what there is
    Parquet parts                          when their rows are read
    a snapshot, a publication              its parts first, its manifest last, each name once
    records                                once: where another machine was first, its record holds

So a reader of the bucket that goes by manifests sees all of a publication or nothing, a killed
run leaves nothing that counts, and two machines publish once. Once a stage has ended, a working
copy holds nothing that the bucket lacks and that could not be made again: it may be removed.

Every function takes a path of this machine, and does nothing where that is in no working copy.
"""

import errno
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from data.bucket import S3Path, endpoint, prove_conditions
from data.durable import name_once, temporary_in
from data.publication import (
    FormatError,
    canonical_json,
    check_format,
    digest_of,
    manifest_bytes,
    put_once,
    replace_file,
)

logger = logging.getLogger(__name__)

FORMAT, VERSION = "latent-features/home", 1
MARKER, NOTE = ".latents-home.json", "home.json"
CACHE_VARIABLE = "LATENTS_CACHE"
ARRIVING = ".staging"  # what is on its way from the bucket, within the working copy
STREAMS = 8  # uploads at a time


@dataclass(frozen=True)
class WorkingCopy:
    """A folder of this machine that stands for a home in a bucket."""

    root: Path
    home: S3Path

    def place(self, path: Path) -> S3Path:
        """Where a path of the working copy is in the bucket."""
        relative = path.relative_to(self.root).as_posix()
        return self.home if relative == "." else self.home / relative

    def local(self, place: S3Path) -> Path:
        """Where a place of the home is in the working copy.

        Raises:
            FormatError: it would be outside.
        """
        relative = PurePosixPath(place.key.removeprefix(self.home.key).lstrip("/"))
        if ".." in relative.parts:
            raise FormatError(f"{place} would be written outside its folder; remove it")
        return self.root / relative

    @contextmanager
    def arriving(self) -> Iterator[Path]:
        """Yield a folder for what is on its way, on the file system of the working copy."""
        folder = self.root / ARRIVING
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            yield Path(scratch)


def caches() -> Path:
    """The folder of this machine for what may be removed between two runs."""
    named = os.environ.get(CACHE_VARIABLE) or Path(
        os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "latents"
    )
    return Path(named).expanduser().resolve()


def working_copy(address: str) -> Path:
    """The folder that stands for the home at an address; the bucket is not asked yet.

    Raises:
        ValueError: the address is none.
    """
    home = S3Path.at(address)
    identity = digest_of([endpoint(), str(home)])[:12]
    root = caches() / f"{home.bucket}-{identity}"
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    note = {"format": FORMAT, "format_version": VERSION, "address": str(home)}
    put_once(root / MARKER, canonical_json(note).encode())
    return root


def copy_of(path: Path) -> WorkingCopy | None:
    """The working copy that a path is in, if it is in one."""
    for root in (path, *path.parents):
        marker = root / MARKER
        if marker.is_file():
            note = json.loads(marker.read_bytes())
            check_format(note, marker, format=FORMAT, version=VERSION)
            return WorkingCopy(root, S3Path.at(note["address"]))
    return None


def place_of(path: Path) -> Path | S3Path:
    """Where readers on other machines find a path: itself, or its place in the bucket."""
    copy = copy_of(path)
    return path if copy is None else copy.place(path)


def prove(path: Path) -> None:
    """Make sure that the store can keep what publishing in it promises; note that a home is there.

    Raises:
        BucketError: it cannot, or cannot be reached.
    """
    copy = copy_of(path)
    if copy is not None:
        note = {"format": FORMAT, "format_version": VERSION}
        prove_conditions(copy.home / NOTE, canonical_json(note).encode())


def bring(folder: Path, *patterns: str) -> None:
    """Bring the objects below a folder that match one of the patterns and are not here yet."""
    copy = copy_of(folder)
    if copy is None:
        return
    place = copy.place(folder)
    for found in sorted({path for pattern in patterns for path in place.glob(pattern)}):
        here = copy.local(found)
        if not here.exists():
            put_once(here, found.read_bytes())


def bring_published(folder: Path) -> None:
    """Bring what is published below a folder, but for its parts: they come when they are read."""
    copy = copy_of(folder)
    if copy is None:
        return
    beside: dict[S3Path, list[S3Path]] = {}
    for found in copy.place(folder).objects():
        beside.setdefault(found.parent, []).append(found)
    for place, files in beside.items():
        final = copy.local(place)
        published = place / "manifest.json" in files
        if not published or (final / "manifest.json").exists():
            continue
        with copy.arriving() as scratch:
            stub = scratch / final.name
            (stub / "data").mkdir(parents=True)
            for file in files:
                (stub / file.name).write_bytes(file.read_bytes())
            _name(stub, final)


def present(path: Path, sha256: str) -> Path:
    """The file at `path`, brought from the bucket if it is not here yet.

    Raises:
        FormatError: it is not in the bucket either, or is not the file with that digest.
    """
    copy = None if path.exists() else copy_of(path)
    if copy is None:
        return path
    place, digest = copy.place(path), hashlib.sha256()
    with temporary_in(copy.root / ARRIVING / ".tmp") as temporary:
        with temporary.open("wb") as file:
            try:
                for block in place.blocks():
                    file.write(block)
                    digest.update(block)
            except FileNotFoundError:
                raise FormatError(f"{place} is missing; publish it again") from None
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != sha256:
            raise FormatError(f"{place} is not the file that was published; publish it again")
        path.parent.mkdir(parents=True, exist_ok=True)
        name_once(temporary, path)
    return path


def push(folder: Path) -> None:
    """Bring a published folder into the bucket: its parts, what lies beside them, its manifest.

    A part that is there is adopted: the manifest lists what is in the bucket, so that all
    machines that publish this folder write the same. Where that is not what is here (another
    processor rounds otherwise), the folder here becomes what is there.

    Raises:
        FormatError: something is in the way that nobody published, or what was published
            has been removed from the bucket.
    """
    copy = copy_of(folder)
    if copy is None:
        return
    place, ours = copy.place(folder), (folder / "manifest.json").read_bytes()
    theirs = _content(place / "manifest.json")
    if theirs is None:
        manifest = json.loads(ours)
        with ThreadPoolExecutor(STREAMS) as streams:
            parts = list(streams.map(partial(_adopted, folder, place), manifest["parts"]))
        for file in sorted(folder.glob("*.json")):
            if file.name != "manifest.json":
                (place / file.name).put_once(file)
        (place / "manifest.json").put_once(manifest_bytes(manifest | {"parts": parts}))
        theirs = (place / "manifest.json").read_bytes()
    if theirs != ours:
        logger.warning("%s was published by another machine first: adopted", place)
        with copy.arriving() as scratch:
            folder.rename(scratch / folder.name)
        bring_published(folder)


def _adopted(folder: Path, place: S3Path, part: Mapping[str, Any]) -> dict[str, Any]:
    """Put a part into the bucket; the record of the one that is there then."""
    file, target = folder / part["path"], place / part["path"]
    if not file.exists():
        raise FormatError(f"{place} was removed; remove {folder} too, and run again")
    if target.put_once(file, {"record": canonical_json(part)}):
        return dict(part)
    theirs = json.loads((target.metadata() or {}).get("record", "{}"))
    if (theirs.get("path"), theirs.get("rows")) != (part["path"], part["rows"]):
        raise FormatError(f"{target} is in the way, and no part of this; remove it")
    return dict(theirs)


def settle(record: Path) -> None:
    """Bring a record into the bucket, once; where one is there, it becomes the one here."""
    place = place_of(record)
    if isinstance(place, S3Path) and not place.put_once(record):
        theirs = place.read_bytes()
        if theirs != record.read_bytes():
            replace_file(record, theirs)


def settle_new(folder: Path, pattern: str) -> None:
    """Settle the records in a folder that the bucket has not yet."""
    copy = copy_of(folder)
    if copy is not None:
        there = set(copy.place(folder).glob(pattern))
        for record in sorted(folder.glob(pattern)):
            if copy.place(record) not in there:
                settle(record)


def refresh(file: Path) -> None:
    """Let a file be what it is in the bucket now; it stays where there is none."""
    place = place_of(file)
    theirs = _content(place) if isinstance(place, S3Path) else None
    if theirs is not None:
        replace_file(file, theirs)


def share(*files: Path) -> None:
    """Bring files into the bucket in place of what is there under their names."""
    for file in files:
        place = place_of(file)
        if isinstance(place, S3Path):
            place.replace(file)


def _content(place: S3Path) -> bytes | None:
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None


def _name(stub: Path, final: Path) -> None:
    """Give a folder its name, unless a twin was quicker."""
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        stub.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
