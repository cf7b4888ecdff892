"""Which file is of which format, and opening it: first in a child process, then here.

A reader written in C that meets a damaged or hostile file may crash or eat all memory. So
files are read to their end by a child (`data.quarantine`) before this process touches them.
Two formats go another way: a text table is looked through by the child as its types are found
(`data.delimited`), and a `.npy` file holds nothing to parse but a header of bounded length.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from data.annotated import open_h5ad
from data.arrays import IDX_NAME, labels_beside, open_idx, open_npy, open_npz
from data.delimited import open_csv
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
from data.json_lines import open_json_lines
from data.publication import digest_of, file_digest
from data.quarantine import is_trusted, look

TEXT = (".csv", ".tsv")
OPENERS: dict[str, Callable[[Path], Opened]] = {
    ".parquet": open_parquet,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".jsonl": open_json_lines,
    ".ndjson": open_json_lines,
    ".npy": open_npy,
    ".npz": open_npz,
    ".h5ad": open_h5ad,
    ".idx": open_idx,
}
KNOWN = (*TEXT, *OPENERS)
MAPPED = (".arrow", ".feather")


def suffix_of(path: Path) -> str | None:
    """Return the suffix that names the file's format; None where we know none."""
    if IDX_NAME.fullmatch(path.name):
        return ".idx"
    suffix = path.suffix.lower()
    return suffix if suffix in KNOWN else None


def file_reader(path: Path, reading: Reading, *, name: str | None = None) -> Reader:
    """Return the reader of a file, by its suffix.

    Raises:
        SourceError: the suffix is unknown, or the file is empty.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise SourceError(
            f"{path} is of no known format; known suffixes: {', '.join(sorted(KNOWN))}"
        )
    if path.stat().st_size == 0:
        raise SourceError(f"{path} is empty (0 bytes); write it again")
    return Reader(
        name or path.name, lambda: _open(path, suffix, reading), lambda: _digest(path)
    )


def _open(path: Path, suffix: str, reading: Reading) -> Opened:
    if suffix not in (*TEXT, ".npy") and not is_trusted():
        look(read_through, path, suffix)
    with as_source_error(path):
        opened = open_csv(path, reading) if suffix in TEXT else OPENERS[suffix](path)
        opened.schema.names  # noqa: B018  # decoded here, where the file can be named

    def guarded() -> Iterator[pa.RecordBatch]:
        with as_source_error(path):
            yield from opened.read()

    return opened._replace(read=guarded)


def read_through(path: Path, suffix: str) -> None:
    """Read a file to its end, without mapping it: mappings count as memory."""
    if suffix in MAPPED:
        with pa.OSFile(str(path)) as source:
            for _ in arrow_batches(source):
                pass
    else:
        for _ in OPENERS[suffix](path).read():
            pass


def _digest(path: Path) -> str:
    labels = labels_beside(path) if suffix_of(path) == ".idx" else None
    if labels is None:
        return file_digest(path)
    return digest_of([file_digest(path), file_digest(labels)])
