"""The one commit protocol: write-once parts, manifest last, one rename.

A published folder MUST hold `manifest.json` and, beside it, `data/` with the Parquet parts
that the manifest lists and nothing else. It appears by one rename, whole, and never changes.
Until then it lives under `<root>/.staging/<publication id>/`, where any number of writers,
or the same writer after a crash, may work: a part's name and content are a pure function of
the publication id and the part's number, so whoever comes second adopts what is there.

Order of events, each durable before the next: bytes of a part, name of the part, all parts,
manifest, name of the folder. Locks make twins polite; nothing here needs them to be right.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.bucket import S3Path
from data.content import content_digest
from data.durable import (
    durable_folder,
    fsync_folder,
    make_folder,
    name_once,
    temporary_in,
    write_durably,
)
from data.part_file import write_parquet

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
PART = re.compile(r"data/[A-Za-z0-9][A-Za-z0-9._-]*")  # as a manifest lists it


class FormatError(ValueError):
    """A stored file or folder is not what it should be, or comes from a newer version."""


def safe_name(name: str) -> str:
    """Return `name` if it may be a folder's name, whatever a person put into a spec.

    Raises:
        ValueError: it has other characters than a-z, 0-9, '.', '_', '-', is too long, or
            could leave its folder.
    """
    if NAME.fullmatch(name) is None or ".." in name:
        raise ValueError(
            f"{name!r} cannot be a name; use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            f"beginning with a letter or a digit, without '..'"
        )
    return name


def canonical_json(value: Any) -> str:
    """Write JSON that is equal exactly where the values are equal: sorted, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def json_by_lines(
    head: Mapping[str, Any], name: str, entries: Iterable[Mapping[str, Any]]
) -> str:
    """Write JSON for people and programs: the head, then one line for each entry of `name`."""
    lines = [json.dumps(entry, ensure_ascii=False, default=str) for entry in entries]
    start = json.dumps(head, ensure_ascii=False, default=str)[:-1]
    return f"{start},\n{json.dumps(name)}: [\n" + ",\n".join(lines) + "\n]}\n"


def digest_of(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path | S3Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    if isinstance(path, S3Path):
        digest = hashlib.sha256()
        for block in path.blocks():
            digest.update(block)
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def put_once(path: Path, content: bytes, *, scratch: Path | None = None) -> bool:
    """Create `path` with `content`, all or nothing; False if it was there already.

    The temporary file lies in `scratch` (on the same file system), or beside `path`.
    """
    with temporary_in(scratch or path.parent) as temporary:
        write_durably(temporary, content)
        return name_once(temporary, path)


def replace_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: a reader sees the old bytes or the new ones."""
    with temporary_in(path.parent) as temporary:
        write_durably(temporary, content)
        temporary.replace(path)
    fsync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel drops it when the process dies."""
    durable_folder(path.parent)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, kw_only=True)
class PartRecord:
    """One Parquet file of a publication, as its manifest lists it; `path` is relative."""

    path: str
    rows: int
    bytes: int
    sha256: str
    content: str  # the digest of the cells (see `data.content`)


class Staging:
    """A publication in the making, under `<root>/.staging/<publication id>/`."""

    def __init__(self, root: Path, publication_id: str) -> None:
        self.id = safe_name(publication_id)
        self.path = root / ".staging" / self.id
        self.scratch = root / ".staging" / ".tmp"

    def lock_path(self) -> Path:
        """Return the file that politely excludes twins: `with locked(staging.lock_path())`."""
        return self.path.with_name(f".{self.id}.lock")

    def adopt(self, number: int, footer: Mapping[str, str]) -> PartRecord | None:
        """Return part `number` if it is there, whole, and ours; delete it if it is torn."""
        path = self._part_path(number)
        if path.is_symlink():  # what it leads to is not ours, and may change
            path.unlink(missing_ok=True)
            return None
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = file.read()
            record = self._record(path, path, len(table), content_digest(table))
        except FileNotFoundError:
            return None
        except (pa.ArrowException, OSError):
            path.unlink(missing_ok=True)
            return None
        # Page checksums do not cover the footer, where names and types are: the digest does.
        expected = self._footer(number, footer, record.content)
        metadata = table.schema.metadata or {}
        if any(metadata.get(key) != value for key, value in expected.items()):
            path.unlink(missing_ok=True)
            return None
        return record

    def write_part(
        self,
        number: int,
        table: pa.Table,
        footer: Mapping[str, str],
        kept: Mapping[str, tuple[Path, PartRecord]] | None = None,
    ) -> PartRecord:
        """Write part `number` once; a part that is there and whole is kept.

        `footer` goes into the Parquet metadata, with the number and the publication id
        (unless `footer` has a `publication` of its own). `kept` has parts of earlier
        publications, by the digest of their cells: one with these cells is taken over.
        """
        path, content = self._part_path(number), content_digest(table)
        if kept is not None and content in kept:
            taken = self.adopt_from(*kept[content], number)
            if taken is not None:
                return taken
        while (adopted := self.adopt(number, footer)) is None:
            with temporary_in(self.scratch) as temporary:
                with temporary.open("wb") as file:
                    write_parquet(file, table, self._footer(number, footer, content))
                    file.flush()
                    os.fsync(file.fileno())
                record = self._record(temporary, path, len(table), content)
                with suppress(FileNotFoundError):  # a twin has just published and cleaned up
                    make_folder(path.parent)
                    if name_once(temporary, path):
                        return record
        return adopted

    def adopt_from(self, folder: Path, record: PartRecord, number: int) -> PartRecord | None:
        """Take a part of an earlier publication as part `number`, by a hard link.

        None where it is gone, damaged or on another file system: write the part then. The
        file's footer goes on naming the publication that it was written for.
        """
        source, path = folder / record.path, self._part_path(number)
        try:
            if file_digest(source) != record.sha256:
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_symlink() or (path.exists() and file_digest(path) != record.sha256):
                path.unlink()
            with suppress(FileExistsError):  # by a twin, or by us before a crash
                os.link(source, path)
                fsync_folder(path.parent)
        except OSError:
            return None
        return replace(record, path=f"data/{path.name}")

    def write_raw(self, name: str, chunks: Iterable[memoryview], rows: int) -> PartRecord:
        """Write `data/<name>` from chunks of bytes, once; equal bytes that are there stay."""
        path = self.path / "data" / name
        digest = hashlib.sha256()
        with temporary_in(self.scratch) as temporary:
            with temporary.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                    digest.update(chunk)
                file.flush()
                os.fsync(file.fileno())
            record = PartRecord(
                path=f"data/{name}",
                rows=rows,
                bytes=temporary.stat().st_size,
                sha256=digest.hexdigest(),
                content=digest.hexdigest(),
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            while not name_once(temporary, path):
                if file_digest(path) == record.sha256:
                    break
                path.unlink()
        return record

    def commit(self, final: Path, parts: list[PartRecord], header: Mapping[str, Any]) -> Path:
        """Write the manifest, then give the folder its name; a twin's equal folder is adopted.

        Raises:
            FormatError: `final` exists and holds something else.
        """
        manifest = {
            "rows": sum(part.rows for part in parts),
            **header,
            "parts": [asdict(part) for part in parts],
        }
        content = manifest_bytes(manifest)
        if not (final / "manifest.json").exists():
            durable_folder(final.parent)
            try:
                self._seal(parts, content)
                self.path.rename(final)
            except OSError as error:
                twin_won = error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT)
                if not twin_won or not (final / "manifest.json").exists():
                    raise
            fsync_folder(final.parent)
        if (final / "manifest.json").read_bytes() != content:
            raise FormatError(
                f"{final} exists and its manifest differs from what was to be published; "
                f"published files never change: publish under another name, or move it away"
            )
        self.discard()
        return final

    def add_file(self, name: str, content: bytes) -> None:
        """Put a small file beside the manifest-to-be (a contract, a profile)."""
        make_folder(self.path)
        path = self.path / name
        if path.exists() and path.read_bytes() != content:
            path.unlink()
        put_once(path, content, scratch=self.scratch)

    def discard(self) -> None:
        """Remove the staging folder and its lock, if they are still there."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock_path().unlink(missing_ok=True)

    def _seal(self, parts: list[PartRecord], manifest: bytes) -> None:
        folder = self.path / "data"
        make_folder(folder)
        listed = {Path(part.path).name for part in parts}
        present = {path.name for path in folder.iterdir()}
        if missing := sorted(listed - present):
            raise FileNotFoundError(errno.ENOENT, "parts vanished; run again", missing[0])
        for stranger in present - listed:
            (folder / stranger).unlink()
        fsync_folder(folder)
        self.add_file("manifest.json", manifest)

    def _part_path(self, number: int) -> Path:
        return self.path / "data" / f"part-{number:05d}.parquet"

    def _footer(
        self, number: int, footer: Mapping[str, str], content: str
    ) -> dict[bytes, bytes]:
        own = {"publication": self.id, "part": str(number), "content": content}
        return {key.encode(): value.encode() for key, value in {**own, **footer}.items()}

    def _record(self, file: Path, path: Path, rows: int, content: str) -> PartRecord:
        return PartRecord(
            path=f"data/{path.name}",
            rows=rows,
            bytes=file.stat().st_size,
            sha256=file_digest(file),
            content=content,
        )


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """Write a manifest: equal bytes where it says the same."""
    return (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode()


def read_manifest(folder: Path | S3Path, *, format: str, version: int) -> dict[str, Any]:  # noqa: A002
    """Read the manifest of a published folder.

    Raises:
        FormatError: there is none, it is not of this format, it is newer than `version`, or it
            lists files outside the folder.
    """
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise FormatError(
            f"{folder} has no manifest.json: nothing is published there"
        ) from None
    except ValueError as error:
        raise FormatError(f"{path} is not JSON ({error})") from None
    check_format(manifest, path, format=format, version=version)
    _refuse_strangers(folder, manifest)
    return dict(manifest)


def _refuse_strangers(folder: Path | S3Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that leads out of its folder, by the names in it or by links."""
    names = [str(part["path"]) for part in manifest.get("parts", ())]
    outside = [name for name in names if PART.fullmatch(name) is None]
    if not outside and isinstance(folder, Path):
        outside = [
            name for name in ("manifest.json", "data", *names) if (folder / name).is_symlink()
        ]
    if outside:
        raise FormatError(
            f"{folder} leads to files outside itself: {', '.join(map(repr, outside[:5]))}; "
            f"it was tampered with, and nothing of it is read"
        )


def check_format(
    document: Any,
    where: Path | S3Path | str,
    *,
    format: str,  # noqa: A002
    version: int,
) -> None:
    """Refuse a document of another format, or of a version that we cannot know yet.

    Raises:
        FormatError: with both formats and both versions.
    """
    known = document if isinstance(document, dict) else {}
    found, written = known.get("format", "unmarked"), known.get("format_version", 0)
    if found != format or not isinstance(written, int) or not 1 <= written <= version:
        raise FormatError(
            f"{where} is {found!r} version {written}; "
            f"this code reads {format!r} up to version {version}"
        )


def verify_parts(folder: Path | S3Path, manifest: Mapping[str, Any]) -> None:
    """Compare every part with the sha256 that the manifest gives.

    Raises:
        FormatError: lists every part that is missing or changed.
    """
    bad = []
    for part in manifest["parts"]:
        try:
            same = file_digest(folder / part["path"]) == part["sha256"]
        except FileNotFoundError:
            bad.append(f"{part['path']} is missing")
        else:
            if not same:
                bad.append(f"{part['path']} is not the file that was published")
    if bad:
        raise FormatError(f"{folder} is damaged: {'; '.join(bad)}; publish it again")
