"""Many files as one table: a folder, a glob, a Hive-partitioned tree.

What their names say is in `data.layout`. All files must have the same columns. One that lacks a
column is an error that names it; it is never filled with nulls.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.arrays import labels_beside
from data.csv_dialect import CsvDialect
from data.delimited import dialect_of
from data.embedded import sizes_in
from data.files import JSON, TEXT, State, file_reader, state_of, suffix_of
from data.formats import Opened, Reader, Reading, SourceError
from data.layout import (
    IS_PICTURES,
    Partition,
    format_of,
    is_hidden,
    kind_of,
    partitions,
    with_partition,
)
from data.pictures import pictures_reader

UNTYPED = (*TEXT, *JSON)


def folder_readers(where: str, reading: Reading) -> tuple[Reader, ...]:
    """Return the readers of all files of a folder or of a glob.

    Raises:
        SourceError: there are none, or they are of several formats or partitions.
    """
    root = _fixed_part(where)
    pattern = Path(where).relative_to(root).as_posix()
    found = root.rglob("*") if pattern == "." else root.glob(pattern)
    paths = sorted((p for p in found if _is_wanted(p, root)), key=lambda path: path.parts)
    kind = format_of(where, map(str, paths))
    files = [path for path in paths if kind_of(path.name) == kind]
    if kind == IS_PICTURES:
        return (pictures_reader(root, files, reading),)
    labels = {labels_beside(path) for path in files}
    tables = _files([path for path in files if path not in labels], root)
    if kind in UNTYPED:
        return _Untyped(tables, reading).readers()
    first = _reader(tables[0], partial(_open, tables[0], reading))

    def open_like_it(file: _File) -> Opened:
        sizes = {**sizes_in(first.schema), **reading.sizes}  # of pictures that it scales
        return _open(file, replace(reading, sizes=sizes))

    return (first, *(_reader(file, partial(open_like_it, file)) for file in tables[1:]))


def is_many(where: str) -> bool:
    """Whether `where` names a folder, or is a pattern and no file."""
    path = Path(where)
    return path.is_dir() or (not path.exists() and _fixed_part(where) != path)


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    partition: Partition
    seen: State


class _Untyped:
    """Files whose columns have no types of their own: the widest of all files is each one's.

    The first to be opened opens all.
    """

    def __init__(self, files: list[_File], reading: Reading) -> None:
        self._files, self._given = files, reading

    def readers(self) -> tuple[Reader, ...]:
        return tuple(
            _reader(file, partial(self._open, number))
            for number, file in enumerate(self._files)
        )

    @cached_property
    def _reading(self) -> Reading:
        is_csv = suffix_of(self._files[0].path) in TEXT
        if not is_csv or self._given.csv or self._given.frozen:
            return self._given
        return replace(self._given, frozen=_common_dialect(self._files))

    @cached_property
    def _opened(self) -> list[Opened]:
        return [_open(file, self._reading) for file in self._files]

    @cached_property
    def _types(self) -> dict[str, pa.DataType]:
        types: dict[str, pa.DataType] = {}
        for opened in self._opened:
            for field in opened.schema:
                types[field.name] = _wider(types.get(field.name, field.type), field.type)
        return types

    def _open(self, number: int) -> Opened:
        opened = self._opened[number]
        fields = [field.with_type(self._types[field.name]) for field in opened.schema]
        if pa.schema(fields) == opened.schema:
            return opened
        text = {
            name: "string" for name, kind in self._types.items() if pa.types.is_string(kind)
        }
        reading = replace(self._reading, types={**self._reading.types, **text})
        again = _open(self._files[number], reading)
        schema = pa.schema(
            field
            if _is_text(self._types[field.name])
            else field.with_type(self._types[field.name])
            for field in again.schema
        )
        return Opened(schema, lambda: (b.cast(schema) for b in again.read()), again.csv)


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The narrowest type that holds the cells of both; text where nothing else does."""
    for narrow, wide in ((one, other), (other, one)):
        if narrow == wide or pa.types.is_null(narrow):
            return wide
        if pa.types.is_integer(narrow) and pa.types.is_floating(wide):
            return wide
    return pa.string()


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind))


def _common_dialect(files: list[_File]) -> CsvDialect:
    """The dialect that no file contradicts.

    Raises:
        SourceError: two files are plainly written differently.
    """
    common: dict[str, tuple[Any, str]] = {}
    default, nulls = CsvDialect(), set[str]()
    for file in files:
        dialect, sure = dialect_of(file.path, {})
        nulls.update(dialect.nulls)
        default = dialect if file is files[0] else default
        for name in sorted(sure):
            value, first = common.setdefault(name, (getattr(dialect, name), file.name))
            if value != getattr(dialect, name):
                raise SourceError(
                    f"{file.name} has {name} {getattr(dialect, name)!r}, {first} has {value!r}; "
                    f"write all files alike"
                )
    told = {name: value for name, (value, _) in common.items()}
    return replace(default, **{"nulls": tuple(sorted(nulls)), **told})


def _reader(file: _File, opener: Callable[[], Opened]) -> Reader:
    plain = file_reader(file.path, Reading(), name=file.name, seen=file.seen)
    return with_partition(replace(plain, open=opener), file.partition)


def _open(file: _File, reading: Reading) -> Opened:
    return file_reader(file.path, reading, name=file.name, seen=file.seen).opened


def _files(paths: list[Path], root: Path) -> list[_File]:
    names = [path.relative_to(root).as_posix() for path in paths]
    seen = map(state_of, paths)
    return [_File(*file) for file in zip(paths, names, partitions(names), seen, strict=True)]


def _fixed_part(where: str) -> Path:
    """The folder above the first component that is a pattern."""
    parts = Path(where).parts
    fixed = [re.search(r"[*?\[]", part) is None for part in parts]
    return Path(*parts[: fixed.index(False)]) if False in fixed else Path(where)


def _is_wanted(path: Path, root: Path) -> bool:
    if is_hidden(path.relative_to(root).as_posix()):
        return False
    if not path.resolve().is_relative_to(root.resolve()):
        raise SourceError(
            f"{path} is a link that leaves {root}; copy the file, or name it as the source"
        )
    return path.is_file()
