"""The one commit protocol: write-once parts, manifest last, one rename.

A published folder MUST hold `manifest.json` and, beside it, `data/` with the Parquet parts
that the manifest lists and nothing else. It appears by one rename, whole, and never changes.
Until then it lives under `<root>/.staging/<publication id>/`, where any number of writers,
or the same writer after a crash, may work: a part's name and content are a pure function of
the publication id and the part's number, so whoever comes second adopts what is there.

Order of events, each durable before the next: bytes of a part, name of the part, all parts,
manifest, name of the folder. Locks make twins polite; nothing here needs them to be right.
"""

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.content import content_digest

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
ROW_GROUP_ROWS = 131_072
RENAME_NOREPLACE = 1
HERE = -100  # AT_FDCWD


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


def digest_of(value: Any) -> str:
    """Return the sha256 of the canonical JSON of `value`, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_once(path: Path, content: bytes, *, scratch: Path | None = None) -> bool:
    """Create `path` with `content`, all or nothing; False if it was there already.

    The temporary file lies in `scratch` (on the same file system), or beside `path`.
    """
    with _temporary(scratch or path.parent) as temporary:
        _write_durably(temporary, content)
        return _name_once(temporary, path)


def replace_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: a reader sees the old bytes or the new ones."""
    with _temporary(path.parent) as temporary:
        _write_durably(temporary, content)
        temporary.replace(path)
    fsync_folder(path.parent)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; the kernel drops it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
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

    def write_part(self, number: int, table: pa.Table, footer: Mapping[str, str]) -> PartRecord:
        """Write part `number` once; a part that is there and whole is kept.

        `footer` goes into the Parquet metadata, with the number and the publication id
        (unless `footer` has a `publication` of its own).
        """
        path, content = self._part_path(number), content_digest(table)
        while (adopted := self.adopt(number, footer)) is None:
            with _temporary(self.scratch) as temporary:
                with temporary.open("wb") as file:
                    write_parquet(file, table, self._footer(number, footer, content))
                    file.flush()
                    os.fsync(file.fileno())
                record = self._record(temporary, path, len(table), content)
                with suppress(FileNotFoundError):  # a twin has just published and cleaned up
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if _name_once(temporary, path):
                        return record
        return adopted

    def commit(self, final: Path, parts: list[PartRecord], header: Mapping[str, Any]) -> Path:
        """Write the manifest, then give the folder its name; a twin's equal folder is adopted.

        Raises:
            FormatError: `final` exists and holds something else.
        """
        manifest = {
            **header,
            "parts": [asdict(part) for part in parts],
            "rows": sum(part.rows for part in parts),
        }
        content = (json.dumps(manifest, sort_keys=True, indent=1) + "\n").encode()
        if not (final / "manifest.json").exists():
            final.parent.mkdir(parents=True, exist_ok=True)
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
        self.path.mkdir(parents=True, exist_ok=True)
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
        folder.mkdir(parents=True, exist_ok=True)
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


def write_parquet(file: Any, table: pa.Table, metadata: Mapping[bytes, bytes]) -> None:
    """Write zstd Parquet with page checksums; dictionaries for all but floats and blobs.

    On floats a dictionary costs half the size again and five times the time.
    """
    pq.write_table(
        table.replace_schema_metadata(dict(metadata)),
        file,
        compression="zstd",
        row_group_size=ROW_GROUP_ROWS,
        write_page_checksum=True,
        use_dictionary=[field.name for field in table.schema if _repeats(field.type)],
    )


def read_manifest(folder: Path, *, format: str, version: int) -> dict[str, Any]:  # noqa: A002
    """Read the manifest of a published folder.

    Raises:
        FormatError: there is none, it is not of this format, or it is newer than `version`.
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
    return dict(manifest)


def check_format(
    document: Any,
    where: Path | str,
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


def verify_parts(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Compare every part with the size and sha256 that the manifest gives.

    Raises:
        FormatError: lists every part that is missing or changed.
    """
    bad = []
    for part in manifest["parts"]:
        path = folder / part["path"]
        if not path.is_file():
            bad.append(f"{part['path']} is missing")
        elif path.stat().st_size != part["bytes"] or file_digest(path) != part["sha256"]:
            bad.append(f"{part['path']} is not the file that was published")
    if bad:
        raise FormatError(f"{folder} is damaged: {'; '.join(bad)}; publish it again")


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".tmp-")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _name_once(temporary: Path, path: Path) -> bool:
    """Give the durable file its final name unless the name is taken; then fsync the name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if not _rename_once(temporary, path):  # no hard links here (some network drives)
            return False
    fsync_folder(path.parent)
    return True


def _rename_once(temporary: Path, path: Path) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    source, target = os.fsencode(temporary), os.fsencode(path)
    if libc.renameat2(HERE, source, HERE, target, RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    raise OSError(
        code,
        f"{os.strerror(code)}: the file system has neither hard links nor exclusive rename, "
        f"so two writers could overwrite each other; keep home on another file system",
        str(path),
    )


def _repeats(kind: pa.DataType) -> bool:
    return not (
        pa.types.is_floating(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_nested(kind)
    )
