"""What the names of many files say: which are read, in which order, and columns in their paths.

Files are read in the order of their paths; names that begin with "." or "_" are left out, and
so are files of formats we do not read. What stands in a path as "name=value" is a column of
text: a reader that turned "007" into a number could not turn it back.
"""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

from data.files import KNOWN, NOTES, suffix_of
from data.formats import Opened, Reader, SourceError
from data.pictures import SUFFIXES as PICTURES

NULL = "__HIVE_DEFAULT_PARTITION__"
ANY = "**"
IS_PICTURES = "pictures"

Partition = Mapping[str, str | None]


def is_hidden(name: str) -> bool:
    """Whether a file is left out, by a part of its name below the folder."""
    return any(part.startswith((".", "_")) for part in PurePosixPath(name).parts)


def matches(name: str, pattern: str) -> bool:
    """Whether a name matches a pattern part by part; `**` stands for any folders."""
    return _matches(PurePosixPath(name).parts, PurePosixPath(pattern).parts)


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    if not wanted or not parts:
        return not wanted and not parts
    if wanted[0] == ANY:
        return _matches(parts, wanted[1:]) or _matches(parts[1:], wanted)
    return fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])


def format_of(where: str, names: Iterable[str]) -> str:
    """The one format, a suffix or "pictures", of the files among these that we read.

    Raises:
        SourceError: there are none, or they are of several formats.
    """
    formats = Counter(kind for kind in map(kind_of, names) if kind is not None)
    if not formats:
        known = ", ".join(sorted((*KNOWN, *PICTURES)))
        raise SourceError(f"{where} holds no file of a known format; known suffixes: {known}")
    for kind in NOTES:
        if len(formats) > 1:
            formats.pop(kind, None)
    if len(formats) > 1:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(formats.items()))
        raise SourceError(
            f"{where} holds files of several formats ({counts}); name those of one"
        )
    return next(iter(formats))


def kind_of(name: str) -> str | None:
    """The format of a file by its name; None where we know none."""
    path = Path(name)
    return IS_PICTURES if path.suffix.lower() in PICTURES else suffix_of(path)


def partitions(names: Iterable[str]) -> list[Partition]:
    """What the paths of files say of their rows.

    Raises:
        SourceError: not all say the same.
    """
    names = list(names)
    found = [_partition(name) for name in names]
    for name, said in zip(names, found, strict=True):
        if [*said] != [*found[0]]:
            raise SourceError(
                f"{name} is partitioned by {[*said]}, {names[0]} by {[*found[0]]}; "
                f"arrange all files alike"
            )
    return found


def _partition(name: str) -> Partition:
    pairs = [part.partition("=") for part in PurePosixPath(name).parts[:-1]]
    values = {unquote(key): unquote(value) for key, mark, value in pairs if mark}
    return {key: None if value == NULL else value for key, value in values.items()}


def with_partition(reader: Reader, partition: Partition) -> Reader:
    """The reader of a file, with what its path says as columns behind the others."""

    def open_partitioned() -> Opened:
        opened = reader.open()
        twice = sorted(set(opened.schema.names) & partition.keys())
        if twice:
            raise SourceError(
                f"{reader.name} has {twice} as columns and in its path; rename one of them"
            )
        if not partition:
            return opened
        fields = [pa.field(name, pa.string()) for name in partition]
        schema = pa.schema([*opened.schema, *fields], metadata=opened.schema.metadata)

        def read() -> Iterator[pa.RecordBatch]:
            for batch in opened.read():
                constants = [
                    pa.repeat(pa.scalar(value, pa.string()), len(batch))
                    for value in partition.values()
                ]
                yield pa.record_batch([*batch.columns, *constants], schema=schema)

        return Opened(schema, read, opened.csv)

    return replace(reader, open=open_partitioned)
