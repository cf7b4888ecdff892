"""What is of no use any more: what killed writers left, and publications that no pointer names.

It is removed whole: a folder of staging that nobody works in, or a publication that no pointer
names and that was asked for. Nothing here changes a file that stays. A home in a bucket has no
staging: there, parts whose manifest never came are what a killed writer left.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.bucket import S3Path, opened
from data.features import latest_of, list_publications

MANIFEST = "manifest.json"
PARTS = {  # in a bucket, by the folder that they are below
    "datasets": "*/*/data/*",
    "features": "*/model_version=*/publication=*/data/*",
}
STALE_HOURS = 24.0
TEMPORARY = (".tmp-*", ".fetch-*")  # names that only a writer at work gives


@dataclass(frozen=True)
class Garbage:
    """What could be cleared away, and how much room it takes."""

    path: Path | S3Path
    bytes: int
    why: str

    def remove(self) -> None:
        """Remove it: first its manifest, so that no reader takes what is left for whole."""
        if isinstance(self.path, S3Path):
            manifest = self.path / MANIFEST
            for place in sorted(self.path.objects(), key=lambda place: place != manifest):
                place.unlink()
        elif self.path.is_dir():
            (self.path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self.path.unlink(missing_ok=True)


def stale_staging(root: Path, *, hours: float = STALE_HOURS) -> Iterator[Garbage]:
    """Find what a killed writer left in `<root>/.staging` and nobody has touched since.

    A folder whose lock somebody holds is in use, however old it is.
    """
    before = time.time() - 3600 * hours
    staging = root / ".staging"
    scratch = (staging / ".tmp").glob("*") if staging.is_dir() else ()
    for path in sorted([*staging.glob("[!.]*"), *scratch]):
        if _last_touched(path) < before:
            with _unless_in_use(staging / f".{path.name}.lock") as is_free:
                if is_free:
                    yield Garbage(path, _size(path), "left by a writer that was killed")


def stale_temporaries(root: Path, *, hours: float = STALE_HOURS) -> Iterator[Garbage]:
    """Find what a killed writer left half done beside records, pointers and models under `root`."""
    before = time.time() - 3600 * hours
    for pattern in TEMPORARY:
        for path in sorted(root.rglob(pattern)):
            if ".staging" not in path.parts and _last_touched(path) < before:
                yield Garbage(path, _size(path), "left by a writer that was killed")


def unfinished(home: S3Path, *, hours: float = STALE_HOURS) -> Iterator[Garbage]:
    """Find the parts in a bucket whose manifest has not come, and that have not changed since.

    A writer that goes on after that time brings those that are missing again.
    """
    before = time.time() - 3600 * hours
    for store, pattern in PARTS.items():
        written = (home / store).written()
        begun = {place.parent.parent for place in (home / store).among(written, pattern)}
        ended = {place.parent for place in written if place.name == MANIFEST}
        for folder in sorted(begun - ended):
            found = [
                said
                for place, said in written.items()
                if folder in (place.parent, place.parent.parent)
            ]
            if max(said.time_s for said in found) < before:
                size = sum(said.bytes for said in found)
                yield Garbage(folder, size, "left by a writer that was killed")


def superseded(
    home: str | Path, name: str, *, keep: int = 1, hours: float = STALE_HOURS
) -> Iterator[Garbage]:
    """Find publications that no pointer names, but for the newest `keep` of each model version.

    One that another of its version followed in the last `hours` stays too: who opened it as the
    latest may be reading it still.

    A reader may have one of them open, or have pinned it: that is why they go on request.
    """
    latest = latest_of(opened(home) / "features", name)
    named = {*latest["versions"].values(), (latest["champion"] or {}).get("publication")}
    before = time.time() - 3600 * hours
    of_version: dict[int, list[Path | S3Path]] = {}
    for found in list_publications(home, name):
        of_version.setdefault(found.model_version, []).append(found.path)
    for version, paths in sorted(of_version.items()):
        made = {path: _made(path) for path in paths}
        newest_first = sorted(made, key=made.__getitem__, reverse=True)
        followers = [newest_first[0], *newest_first]
        free = [
            (path, made[follower])
            for path, follower in zip(newest_first, followers, strict=False)
            if path.name.partition("=")[2] not in named
        ]
        for path, followed in free[keep:]:
            if followed < before:
                yield Garbage(path, _size(path), f"superseded, of model version {version}")


def _made(publication: Path | S3Path) -> float:
    if isinstance(publication, S3Path):
        return publication.written()[publication / MANIFEST].time_s
    return publication.stat().st_mtime


def _last_touched(path: Path) -> float:
    entries = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max((entry.stat().st_mtime for entry in entries if entry.exists()), default=0.0)


def _size(path: Path | S3Path) -> int:
    if isinstance(path, S3Path):
        return sum(written.bytes for written in path.written().values())
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextmanager
def _unless_in_use(lock: Path) -> Iterator[bool]:
    """Hold a lock that nobody else holds while its folder is looked at; else say False."""
    if not lock.exists():
        yield True
        return
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def collect(garbage: Iterator[Garbage]) -> tuple[int, int]:
    """Remove all of it; return how many things and how many bytes."""
    count = size = 0
    for each in garbage:
        each.remove()
        count, size = count + 1, size + each.bytes
    return count, size
