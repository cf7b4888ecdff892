"""Which file is of which format, and opening it: first in a child process, then here.

A reader written in C that meets a damaged or hostile file may crash or eat all memory. So
files are read to their end by a child (`data.quarantine`) before this process touches them.
Two formats go another way: a text table is looked through by the child as its types are found
(`data.delimited`), and a `.npy` file holds nothing to parse but a header of bounded length.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from data.annotated import open_h5ad
from data.arrays import IDX_NAME, labels_beside, open_idx, open_npy, open_npz
from data.delimited import open_csv
from data.dialect import CSV, PLAIN
from data.embedded import may_be_pictures, pictures_in, unpacked
from data.formats import (
    Opened,
    Reader,
    Reading,
    SourceError,
    arrow_batches,
    as_source_error,
    open_arrow,
    open_parquet,
)
from data.json_rows import open_json
from data.packed import CODECS, bare, codec_of
from data.picture import Common
from data.publication import digest_of, file_digest
from data.quarantine import is_trusted, look

TEXT = (*CSV, *PLAIN)
OPENERS: dict[str, Callable[[Path], Opened]] = {
    ".parquet": open_parquet,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".json": open_json,
    ".jsonl": open_json,
    ".ndjson": open_json,
    ".npy": open_npy,
    ".npz": open_npz,
    ".h5ad": open_h5ad,
    ".idx": open_idx,
}
KNOWN = (*TEXT, *OPENERS)
JSON = (".json", ".jsonl", ".ndjson")
NOTES = (*PLAIN, ".json")  # what may lie beside the data, the likeliest first
MAY_BE_PACKED = (*TEXT, *JSON, ".idx")
MAPPED = (".arrow", ".feather")
State = tuple[int, int, int] | None  # inode, bytes, time of the last change; None: no file


def suffix_of(path: Path) -> str | None:
    """Return the suffix that names the file's format, packed or not; None where we know none."""
    inside = bare(path)
    suffix = ".idx" if IDX_NAME.fullmatch(inside.name) else inside.suffix.lower()
    known = MAY_BE_PACKED if codec_of(path) else KNOWN
    return suffix if suffix in known else None


def state_of(path: Path) -> State:
    """What changes when a file is written to, or another takes its name; None: it is gone."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def file_reader(
    path: Path, reading: Reading, *, name: str | None = None, seen: State = None
) -> Reader:
    """Return the reader of a file, by its suffix; `seen` is what it was, if not now.

    Raises:
        SourceError: the suffix is unknown, or the file is empty.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise SourceError(
            f"{path} is of no known format; known suffixes: {', '.join(sorted(KNOWN))}; "
            f"with one more of {', '.join(CODECS)}: {', '.join(sorted(MAY_BE_PACKED))}"
        )
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes); write it again")
    seen = seen or state_of(path)
    return Reader(
        name or path.name,
        lambda: _open(path, suffix, reading, seen),
        lambda: _digest(path, seen),
    )


def _open(path: Path, suffix: str, reading: Reading, seen: State) -> Opened:
    pictures, scaling = {}, (dict(reading.sizes), reading.may_scale)
    with _unchanged(path, seen):
        if suffix not in (*TEXT, ".npy") and not is_trusted():
            pictures = look(read_through, path, suffix, *scaling)
        with as_source_error(path):
            opened = open_csv(path, reading) if suffix in TEXT else OPENERS[suffix](path)
            if is_trusted() and may_be_pictures(opened.schema):
                pictures = read_through(path, suffix, *scaling)
            opened.schema.names  # noqa: B018  # decoded here, where the file can be named
            common = {name: Common(*one) for name, one in pictures.items()}
            opened = unpacked(opened, common, str(path))

    def guarded() -> Iterator[pa.RecordBatch]:
        with _unchanged(path, seen), as_source_error(path):
            yield from opened.read()

    return opened._replace(read=guarded)


@contextmanager
def _unchanged(path: Path, seen: State) -> Iterator[None]:
    """Refuse what is read of a file that is not, or no longer, as it was seen."""
    changed = SourceError(f"{path} was changed while it was read; run again")
    try:
        yield
    except (SourceError, FileNotFoundError):
        if state_of(path) != seen:
            raise changed from None
        raise
    if state_of(path) != seen:
        raise changed


def read_through(
    path: Path,
    suffix: str,
    sizes: Mapping[str, Sequence[int]],
    may_scale: bool,  # noqa: FBT001  # by position: it comes as JSON
) -> dict[str, Common]:
    """Read a file to its end, and say which columns are pictures.

    It is not mapped: mappings count as memory.
    """
    wanted = {name: (height, width) for name, (height, width) in sizes.items()}
    if suffix in MAPPED:
        with pa.OSFile(str(path)) as source:
            rows = arrow_batches(source)
            return pictures_in(rows, str(path), wanted, may_scale=may_scale)
    rows = OPENERS[suffix](path).read()
    return pictures_in(rows, str(path), wanted, may_scale=may_scale)


def _digest(path: Path, seen: State) -> str:
    labels = labels_beside(path) if suffix_of(path) == ".idx" else None
    with _unchanged(path, seen):
        digest = file_digest(path)
    return digest if labels is None else digest_of([digest, file_digest(labels)])
