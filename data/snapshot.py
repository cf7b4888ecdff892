"""An ingested data set: immutable, named by what is in it, ready to train on.

    <root>/<name>/<fingerprint>/   manifest.json  contract.json  profile.json  data/part-*.parquet
    <root>/<name>/.index/          <recipe>.json  contract-<settings>.json

The parts hold the contract's columns as it stores them (ignored ones stay behind), `row_id`
where the source has no key, and `split`. The fingerprint is of typed content, contract and
split, not of Parquet bytes: the same table from CSV and from Parquet is the same snapshot.
The index remembers which source and settings gave which snapshot, so that asking again costs
one hash of the source.

The contract is inferred once for a data set and its settings, from the first source that is
ingested; later sources are held to it. So a grown table is a new snapshot with the splits it
had, and the parts that did not change are the same files, by hard links.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.checking import Checker, ContractError
from data.contract import ROW_ID, Contract
from data.formats import SourceError
from data.part_writer import PartWriter, RowsOfPart, fixed_lengths
from data.profile import Profile
from data.publication import (
    FormatError,
    PartRecord,
    Staging,
    canonical_json,
    digest_of,
    locked,
    read_manifest,
    verify_parts,
)
from data.recipe import Recipe
from data.shards import Mapper
from data.sources import rebatched
from data.splits import SPLITS
from data.working_copy import present

FORMAT, VERSION = "latent-features/snapshot", 1

PART_ROWS = 131_072
PART_ENTRIES = 2**27  # as float32 input of a model, half a gigabyte


@dataclass(frozen=True)
class Part:
    """One Parquet file of a snapshot."""

    path: Path
    rows: int
    sha256: str


@dataclass(frozen=True)
class Snapshot:
    """An ingested data set on disk."""

    path: Path
    manifest: Mapping[str, Any] = field(repr=False)
    reused: bool = False  # it was there when it was asked for

    @property
    def name(self) -> str:
        """The data set's name."""
        return str(self.manifest["name"])

    @property
    def fingerprint(self) -> str:
        """What identifies content, contract and split."""
        return str(self.manifest["fingerprint"])

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int(self.manifest["rows"])

    @property
    def split_rows(self) -> dict[str, int]:
        """The number of rows of each split."""
        return dict(self.manifest["split_rows"])

    @property
    def key(self) -> str:
        """The name of the column that identifies a row."""
        return self.contract.key or ROW_ID

    @cached_property
    def contract(self) -> Contract:
        """What the source had to look like."""
        return Contract.from_json((self.path / "contract.json").read_text("utf-8"))

    @cached_property
    def profile(self) -> Profile:
        """What the source's columns look like in numbers."""
        return Profile.from_json((self.path / "profile.json").read_text("utf-8"))

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The files, in row order."""
        return tuple(
            Part(self.path / part["path"], part["rows"], part["sha256"])
            for part in self.manifest["parts"]
        )

    def part_table(
        self, part: Part, *, split: str | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """Read one part: all rows or those of a split, all columns or some.

        Raises:
            FormatError: the file is damaged.
        """
        wanted = None if columns is None else [*columns, *({"split"} - set(columns))]
        try:
            path = present(part.path, part.sha256)
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                table = as_it_was(file.read(columns=wanted))
        except (pa.ArrowException, OSError) as error:
            raise FormatError(f"{part.path} is damaged ({error}); ingest again") from None
        if split is not None:
            table = table.filter(pc.equal(table["split"], split))
        return table if columns is None else table.select(list(columns))

    def batches(
        self,
        rows: int = PART_ROWS,
        *,
        split: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Yield rows in the snapshot's order, `rows` at a time, in bounded memory."""
        tables = (self.part_table(part, split=split, columns=columns) for part in self.parts)
        return rebatched((batch for table in tables for batch in table.to_batches()), rows)

    def table(self, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """Read everything at once: all rows or those of a split, all columns or some."""
        tables = [self.part_table(part, split=split, columns=columns) for part in self.parts]
        return pa.concat_tables(tables)

    def verify(self) -> None:
        """Compare every part with its sha256.

        Raises:
            FormatError: lists what is missing or changed.
        """
        verify_parts(self.path, self.manifest)


def as_it_was(rows: pa.Table) -> pa.Table:
    """Return rows of a part with the types that the contract gives them.

    Parquet readers stumble over a null among lists of fixed length. Columns that may have
    one are stored as lists, and their lengths in the part's metadata.
    """
    lengths = json.loads((rows.schema.metadata or {}).get(b"fixed_lengths", b"{}"))
    rows = rows.replace_schema_metadata(None)
    for name in lengths.keys() & set(rows.column_names):
        place, kind = rows.schema.get_field_index(name), rows.schema.field(name).type
        fixed = pa.list_(kind.value_type, lengths[name])
        rows = rows.set_column(place, name, rows[name].cast(fixed))
    return rows


def open_snapshot(path: Path, *, reused: bool = True) -> Snapshot:
    """Open a snapshot by its folder.

    Raises:
        FormatError: there is none, or a newer version wrote it.
    """
    return Snapshot(path, read_manifest(path, format=FORMAT, version=VERSION), reused)


def find_snapshot(
    source: str | Path | Any, *, name: str, root: Path, **settings: Any
) -> Snapshot | None:
    """Return the snapshot that `ingest` would return, if it has been made already.

    Raises:
        SourceError: the source is missing or damaged.
    """
    return _indexed(Recipe(source=source, name=name, root=root, **settings))


def ingest(
    source: str | Path | Any, *, name: str, root: Path, mapper: Mapper = map, **settings: Any
) -> Snapshot:
    """Check a source against its contract and keep it as a snapshot, or find it kept.

    Args:
        source: what a spec calls a source, or a table (see `data.sources.open_source`).
        name: the data set's name, and its folder under `root`.
        root: where snapshots live.
        mapper: what looks at the batches and writes the parts; they are read here, in order.
        **settings: `overrides` (column -> settings), `key`, `label`, `split` as (valid, test)
            fractions, `query` (of a database), `csv` (its dialect), `extra` ("refuse" columns
            that the contract does not know, or "ignore" them), `contract_version` (raise it to
            infer the contract anew), and `contract`, which is taken as it is.

    Raises:
        SourceError: missing, empty, damaged, or nothing in it that a model could read.
        SpecError: a setting names something that does not exist.
        ContractError: lists every way in which the source breaks its contract.
    """
    recipe = Recipe(source=source, name=name, root=root, **settings)
    if (known := _indexed(recipe)) is not None:
        return known
    staging = Staging(root, recipe.digest)
    with locked(staging.lock_path()):
        known = _indexed(recipe)  # a twin may have finished while we waited
        return known if known is not None else _ingest(recipe, staging, mapper)


def _indexed(recipe: Recipe) -> Snapshot | None:
    entry = recipe.index_path
    if not entry.exists():
        return None
    folder = recipe.folder / json.loads(entry.read_bytes())["fingerprint"]
    return open_snapshot(folder) if (folder / "manifest.json").exists() else None


def _ingest(recipe: Recipe, staging: Staging, mapper: Mapper) -> Snapshot:
    found = recipe.survey(mapper)
    if not found.seen.rows and recipe.contract is None:
        raise SourceError(
            f"{recipe.opened.describe} has no rows; there is nothing to learn from"
        )
    contract = recipe.contract_of(found)
    written = _write_parts(recipe, contract, staging, mapper)
    fingerprint = digest_of(
        {
            "content": [part.content for part in written.parts],
            "contract": contract.digest,
            "split": recipe.split,
            "version": VERSION,
        }
    )[:16]
    valid, test = recipe.split
    staging.add_file("contract.json", contract.to_json().encode())
    staging.add_file("profile.json", found.seen.profile().to_json().encode())
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "name": recipe.name,
        "fingerprint": fingerprint,
        "contract": {"version": contract.version, "digest": contract.digest},
        "split": {"valid": valid, "test": test},
        "split_rows": written.split_rows,
        "counts": written.counts,
        "ignored": sorted(c.name for c in contract.columns if c.kind == "ignore"),
        "schema": {f.name: str(f.type) for f in written.schema},
    }
    path = staging.commit(recipe.folder / fingerprint, written.parts, header)
    entry = {
        "fingerprint": fingerprint,
        "source": recipe.opened.describe,
        "source_digest": recipe.opened.digest,
        "extra_columns": written.extra,
    }
    recipe.remember(contract, entry)
    return open_snapshot(path, reused=False)


@dataclass
class Written:
    """What came of writing the parts."""

    schema: pa.Schema = None
    parts: list[PartRecord] = field(default_factory=list)
    split_rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    counts: dict[str, int] = field(default_factory=dict)
    extra: list[str] = field(default_factory=list)


def _write_parts(
    recipe: Recipe, contract: Contract, staging: Staging, mapper: Mapper
) -> Written:
    """Check, split and write all rows, part by part.

    Raises:
        ContractError: after the last row, so that every breach is in it.
    """
    checker, written = Checker(contract), Written()
    write = PartWriter(
        contract,
        recipe.split,
        staging,
        _footer(recipe, contract),
        _kept_parts(recipe, contract),
    )

    def parts() -> Iterator[RowsOfPart]:
        first_row = 0
        for number, batch in enumerate(_batches(recipe, contract)):
            yield RowsOfPart(number, first_row, batch, doomed=checker.failed)
            first_row += len(batch)

    for part in mapper(write, parts()):
        checker.merge(part.checker)
        for split, rows in part.split_rows.items():
            written.split_rows[split] += rows
        if part.record is not None:
            written.schema = part.schema
            written.parts.append(part.record)
    if breaches := checker.breaches() + checker.all_null():
        staging.discard()
        raise ContractError(recipe.opened.describe, contract, breaches)
    return replace(written, counts=checker.tolerated(), extra=checker.extra)


def _batches(recipe: Recipe, contract: Contract) -> Iterator[pa.RecordBatch]:
    """The source in parts; one without rows where there are none, for it has columns too."""
    batches = recipe.opened.batches(_part_rows(contract), row_id=contract.key is None)
    first = next(batches, None)
    if first is not None:
        yield first
        yield from batches
        return
    names = [] if contract.key is not None else [pa.field(ROW_ID, pa.string())]
    schema = pa.schema([*recipe.opened.schema, *names])
    yield pa.RecordBatch.from_pylist([], schema=schema)


def _kept_parts(recipe: Recipe, contract: Contract) -> dict[str, tuple[Path, PartRecord]]:
    """The parts of earlier snapshots that would be written alike, by the digest of their cells."""
    kept = {}
    for path in sorted(recipe.folder.glob("[!.]*/manifest.json")):
        manifest = read_manifest(path.parent, format=FORMAT, version=VERSION)
        valid, test = recipe.split
        same_split = manifest["split"] == {"valid": valid, "test": test}
        if same_split and manifest["contract"]["digest"] == contract.digest:
            for part in manifest["parts"]:
                kept[part["content"]] = (path.parent, PartRecord(**part))
    return kept


def _footer(recipe: Recipe, contract: Contract) -> dict[str, str]:
    """What a part says of itself: nothing of the recipe, so that equal content is equal bytes."""
    return {
        "format": FORMAT,
        "format_version": str(VERSION),
        "dataset": recipe.name,
        "publication": digest_of([contract.digest, recipe.split])[:16],
        "fixed_lengths": canonical_json(fixed_lengths(contract)),
    }


def _part_rows(contract: Contract) -> int:
    """As many rows as fit comfortably into memory as a model's input, in whole thousands."""
    entries = sum(column.entries for column in contract.encoded)
    return min(PART_ROWS, max(1, PART_ENTRIES // entries // 1024) * 1024)
